#!/usr/bin/env bash
# Unpack .gpu/site.tar.xz and run run.py with it, from the repository root; arguments go through to run.py.
#
#     benchmarks/gpu/run.sh                                 # about 270 s on one H100
#     benchmarks/gpu/run.sh --device cpu --tiny             # a rehearsal
#
# Results and logs go to $OUT, or to benchmarks/gpu/results.
set -euo pipefail
started=$(date +%s.%N)
cd "$(dirname "$0")/../.."
site=${SITE:-/tmp/motiontune-gpu-site}
[ -e "$site/unpacked" ] || python3 -c "
import sys, tarfile
tarfile.open('.gpu/site.tar.xz').extractall(sys.argv[1], filter='tar')" "$site"
touch "$site/unpacked"
export DEEPSPEED_SITE="$site/apart" # on the path of DeepSpeed's own checks alone
export PYTHONPATH="$site:$PWD/src:$PWD/tests" PYTHONUNBUFFERED=1 PYTHONWARNINGS=ignore::SyntaxWarning
export LLAMAFACTORY_VERBOSITY=WARN TRANSFORMERS_VERBOSITY=warning HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 TOKENIZERS_PARALLELISM=false
export PYTORCH_ALLOC_CONF=expandable_segments:True WANDB_DISABLED=true OMP_NUM_THREADS="${OMP_NUM_THREADS:-2}"
exec python3 benchmarks/gpu/run.py --started "$started" --out "${OUT:-benchmarks/gpu/results}" "$@"
