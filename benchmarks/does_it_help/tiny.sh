#!/usr/bin/env bash
# Run tiny.py on a machine without a network, from .gpu/site.tar.xz (benchmarks/gpu/prepare.sh) and .start/photos.npy,
# or with `reader` as the first argument reader.py, from .start/pack.0 and pack.1 as well; other arguments go through.
# Results go to $OUT/tiny (with --follow-up tiny_follow_up, with --questions tiny_questions, else reader), or to
# benchmarks/does_it_help/results.
set -euo pipefail
cd "$(dirname "$0")/../.."
site=${SITE:-/tmp/motiontune-gpu-site}
[ -e "$site/unpacked" ] || python3 -c "
import sys, tarfile
tarfile.open('.gpu/site.tar.xz').extractall(sys.argv[1], filter='tar')" "$site"
touch "$site/unpacked"
export PYTHONPATH="$site:$PWD/src" PYTHONUNBUFFERED=1 PYTHONWARNINGS=ignore TRANSFORMERS_VERBOSITY=error
export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_PROGRESS_BARS=1 TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=1
name=tiny
if [ "${1:-}" = reader ]; then
    name=reader
    shift
fi
script=$name
for argument; do
    case $argument in
        --follow-up) name=tiny_follow_up ;;
        --questions) name=tiny_questions ;;
    esac
done
exec python3 "benchmarks/does_it_help/$script.py" --out "${OUT:-benchmarks/does_it_help/results}/$name" "$@"
