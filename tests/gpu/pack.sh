#!/bin/bash
# Packs what checks the CUDA engine on a GPU into one archive that needs nothing
# there but a driver: the binaries of a build with the libraries they use, the
# goldens and run.sh.
#   tests/gpu/pack.sh [BUILD_FOLDER]     writes BUILD_FOLDER/gpu.tar.xz
set -euo pipefail
cd "$(dirname "$0")/../.."
build=${1:-build}
programs=(gpu_op_test gpu_golden_test gpu_fault_test gpu_kernels_bench
  gpu_engine_bench)
ninja -C "$build" --quiet "${programs[@]}"

pack=$(mktemp -d)
trap 'rm -rf "$pack"' EXIT
mkdir "$pack/gpu" "$pack/gpu/lib"
for program in "${programs[@]}"; do
  strip -o "$pack/gpu/$program" "$build/tests/gpu/$program"
  # The system's C library is the one thing that must be the machine's own.
  ldd "$build/tests/gpu/$program" | awk '$3 ~ /^\// {print $3}' |
    grep -vE '/lib(c|m|dl|rt|pthread)\.so' | xargs -I{} cp -L -n {} "$pack/gpu/lib"
done
cp tests/gpu/run.sh tests/gpu/torch_peer.py "$pack/gpu"
mkdir "$pack/gpu/golden"
(cd tests/golden && tar c --exclude=real --exclude=tokenizer --exclude=chat .) |
  tar x -C "$pack/gpu/golden"
tar c -C "$pack" gpu | xz -T0 -3 >"$build/gpu.tar.xz"
ls -l "$build/gpu.tar.xz"
