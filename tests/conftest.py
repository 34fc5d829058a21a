"""The environment of every test: offline, on the CPU, two threads, nothing left in the user's caches."""

import atexit
import os
import shutil
import tempfile


_datasets_cache = tempfile.mkdtemp(prefix="motiontune-datasets-")
atexit.register(shutil.rmtree, _datasets_cache, ignore_errors=True)

# Read by torch, transformers and datasets when they are imported, which is after this file.
os.environ.update(
    CUDA_VISIBLE_DEVICES="",
    HF_DATASETS_CACHE=_datasets_cache,
    HF_HUB_OFFLINE="1",
    OMP_NUM_THREADS="2",
    TOKENIZERS_PARALLELISM="false",
    TRANSFORMERS_OFFLINE="1",
    WANDB_DISABLED="true",
)
