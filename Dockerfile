# An image to train in. Build it in the repository, and run it with the GPUs and a folder for data and results:
#
#   docker build -t motiontune .
#   docker run --rm --gpus all --ipc host -v "$PWD:/data" motiontune train your.yaml
#
# --ipc host: data loader workers pass batches through shared memory, of which a container has 64 MiB by itself.

# torch's wheels bring CUDA's libraries; of the base the driver's interface alone is needed
ARG BASE=nvidia/cuda:13.0.1-runtime-ubuntu24.04
FROM ${BASE}

# Python 3.12 is Ubuntu 24.04's. A compiler and its headers: Triton compiles kernels when they are first used.
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-dev python3-venv gcc \
    && rm -rf /var/lib/apt/lists/*

ENV VIRTUAL_ENV=/venv PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1
RUN python3 -m venv "$VIRTUAL_ENV"

WORKDIR /source
# before the sources, so that a change of these does not install all of it again
COPY requirements.lock ./
RUN pip install --no-cache-dir --no-deps -r requirements.lock

COPY pyproject.toml setup.py README.md LICENSE MANIFEST.in ./
COPY examples examples
COPY src src
RUN pip install --no-cache-dir --no-deps --no-build-isolation .

WORKDIR /data
ENTRYPOINT ["motiontune"]
CMD ["--help"]
