#!/usr/bin/env bash
# Pack what requirements.txt names for Python 3.12 into .gpu/site.tar.xz, to be carried to a machine without a network.
#
#     PYTHON=python3.12 benchmarks/gpu/prepare.sh
#
# The wheels are unpacked, and all together packed again: xz makes 39 MB of them where the wheels have 58. jieba, which
# LLaMA-Factory's text metrics import, comes without its tagger, its neural segmenter and its keyword tables.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3.12}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/wheels" "$work/deepspeed" "$work/site/apart" .gpu

platforms=()
for name in manylinux_2_28 manylinux_2_27 manylinux_2_17 manylinux2014 manylinux1; do
    platforms+=(--platform "${name}_x86_64")
done
download() { # requirements, folder
    "$python" -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
        "${platforms[@]}" -d "$2" -r "$1"
}
download benchmarks/gpu/requirements.txt "$work/wheels"
download benchmarks/gpu/deepspeed.txt "$work/deepspeed"
# these have no wheel of their own; DeepSpeed compiles what it needs where it needs it, and the checks need nothing
"$python" -m pip wheel -q --no-deps -w "$work/wheels" jieba==0.42.1
DS_BUILD_OPS=0 "$python" -m pip wheel -q --no-deps -w "$work/deepspeed" deepspeed==0.18.4

for wheel in "$work"/wheels/*.whl; do
    "$python" -m zipfile -e "$wheel" "$work/site"
done
for wheel in "$work"/deepspeed/*.whl; do
    "$python" -m zipfile -e "$wheel" "$work/site/apart"
done
(cd "$work/site" && rm -rf jieba/lac_small jieba/posseg jieba/analyse jieba/finalseg/*.p)
# compiled here, once: the first import there would take as long again
"$python" -m compileall -q -x '/(models/(?!auto|qwen[23]_?[5v]?)|test_?utils|tests?)/' "$work/site" || true
tar -C "$work/site" -c . | xz -T0 -6 >"$work/site.tar.xz"
mv "$work/site.tar.xz" .gpu/site.tar.xz
du -h .gpu/site.tar.xz
