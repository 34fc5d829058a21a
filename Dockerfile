# An image to train in. Build it in the repository, and run it with the GPUs and a folder for data and results:
#
#   docker build -t motiontune .
#   docker run --rm --gpus all --ipc host -v "$PWD:/work" motiontune train your.yaml
#
# --ipc host: data loader workers pass batches through shared memory, of which a container has 64 MiB by itself.

# torch's wheels bring CUDA's libraries; of the base the driver's interface alone is needed
ARG BASE=nvidia/cuda:13.0.1-runtime-ubuntu24.04
FROM ${BASE}

# Python 3.12 is Ubuntu 24.04's. A compiler and its headers: Triton compiles kernels when they are first used.
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-dev python3-venv gcc \
    && rm -rf /var/lib/apt/lists/*

ENV VIRTUAL_ENV=/opt/motiontune PATH=/opt/motiontune/bin:$PATH PYTHONUNBUFFERED=1
RUN python3 -m venv "$VIRTUAL_ENV"

# before the sources, so that a change of these does not install all of it again
COPY requirements.lock /opt/source/
RUN pip install --no-cache-dir --no-deps -r /opt/source/requirements.lock

COPY pyproject.toml setup.py README.md LICENSE MANIFEST.in /opt/source/
COPY examples /opt/source/examples
COPY src /opt/source/src
RUN pip install --no-cache-dir --no-deps --no-build-isolation /opt/source

WORKDIR /work
ENTRYPOINT ["motiontune"]
CMD ["--help"]
