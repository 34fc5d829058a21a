"""The environment of every test: offline, on the CPU, two threads for all, nothing left in the user's caches."""

import os
import shutil
import sys
import tempfile


_datasets_cache = tempfile.mkdtemp(prefix="motiontune-datasets-")
# `make test` runs as many processes as there are cores, and each is one of pytest-xdist's workers.
_threads = "1" if "PYTEST_XDIST_WORKER" in os.environ else "2"

# Read by torch, transformers and datasets when they are imported, which is after this file.
os.environ.update(
    CUDA_VISIBLE_DEVICES="",
    HF_DATASETS_CACHE=_datasets_cache,
    HF_HUB_OFFLINE="1",
    OMP_NUM_THREADS=_threads,
    TOKENIZERS_PARALLELISM="false",
    TRANSFORMERS_OFFLINE="1",
    WANDB_DISABLED="true",
)


def pytest_unconfigure() -> None:
    # a worker ends without its exit handlers, which remove the folders of these modules otherwise
    clips, training = (sys.modules.get(name) for name in ("make_clips", "training"))
    folders = [_datasets_cache, *([clips.FOLDER] if clips else [])]
    if training and training.session_folder.cache_info().currsize:
        folders.append(training.session_folder())
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
