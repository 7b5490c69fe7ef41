#!/bin/bash
# Checks and measures the CUDA engine on the first GPU, in under 8 minutes:
#   OUT=results run.sh
# from the folder that pack.sh packed (or, in the project, with BIN=build/tests/gpu).
# Writes to $OUT (default: results) log.txt and results.json, which has what each
# part so far has measured; the exit status is 0 if every part passed. A part that
# fails or takes too long does not stop the others. PyTorch with transformers is
# measured beside it if python3 has them, and cuBLASLt if it is here.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
bin=${BIN:-$here}
out=${OUT:-results}
export LD_LIBRARY_PATH=$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
# cuBLASLt, if not where the linker looks: PyTorch brings one along.
cublaslt=$(ldconfig -p 2>/dev/null | grep -o -m 1 'libcublasLt\.so\.13')
wheels=$(python3 -c 'import nvidia.cu13 as m; print(*m.__path__)' 2>/dev/null)
for folder in /usr/local/cuda/lib64 "$wheels/lib"; do
  if [ -e "$folder/libcublasLt.so.13" ]; then
    LD_LIBRARY_PATH+=:$folder
    cublaslt=$folder
  fi
done
if [ -d "$here/golden" ]; then export SHOAL_GOLDEN_DIR=$here/golden; fi
mkdir -p "$out"
# Models are up to 32 GB: where there is more room, in memory or on the disk.
room() { df --output=avail "$1" | tail -n 1; }
place=/tmp
if [ "$(room /dev/shm)" -gt "$(room /tmp)" ]; then place=/dev/shm; fi
models=$(mktemp -d -p "$place")
trap 'rm -rf "$models"' EXIT

parts=()
failed=0
# part NAME SECONDS COMMAND...: its output goes to results.json if it is JSON.
part() {
  local name=$1 limit=$2 start=$SECONDS status=passed text=null
  shift 2
  timeout "$limit" "$@" >"$models/output" 2>"$models/errors" ||
    { status="failed ($?)" failed=1; }
  if [[ $(head -c 1 "$models/output") == [[{] ]]; then
    text=$(cat "$models/output")
  else
    cat "$models/output" >>"$out/log.txt"
  fi
  cat "$models/errors" >>"$out/log.txt"
  echo "$name: $status, $((SECONDS - start)) s"
  parts+=("{\"part\": \"$name\", \"result\": \"$status\",
 \"seconds\": $((SECONDS - start)), \"measured\": $text}")
  (IFS=,; echo "[${parts[*]}]") >"$out/results.json"
}
engine() {
  local name=$1 model=$2
  shift 2
  part "$name" 90 "$bin/gpu_engine_bench" --model "$models/$model" "$@"
}
torch() {
  python3 -c 'import torch, transformers' 2>/dev/null || return
  local name=$1 model=$2
  shift 2
  part "$name" 90 python3 "$here/torch_peer.py" "$models/$model" "$@"
}

with_cublaslt() { [ -z "$cublaslt" ] || "$@"; }

nvidia-smi >"$out/log.txt" 2>&1
tests='*'
if [ -z "$cublaslt" ]; then
  tests='-DenseGemmTest.*'
  echo "no cuBLASLt here: its tests and benches are left out"
fi
part ops 60 "$bin/gpu_op_test" --gtest_brief=1 --gtest_filter="$tests"
part goldens 120 "$bin/gpu_golden_test" --gtest_brief=1
part faults 30 "$bin/gpu_fault_test" --gtest_brief=1

few=(--work 1x512,8x512,64x512 --generate 48)
same=(--batch 1,8,64 --prompt 512 --generate 48)  # to PyTorch
engine v2-lite-9 v2-lite-9 v2-lite --layers 9 --router-skew 1 "${few[@]}"
engine v2-lite-9-without-warpgroups v2-lite-9 v2-lite --layers 9 \
  --router-skew 1 --work 8x512 --generate 8 --without-warpgroups
with_cublaslt engine v2-lite-9-cublaslt v2-lite-9 v2-lite --layers 9 --router-skew 1 \
  --work 8x512,64x512 --generate 8 --no-batch-invariant
torch v2-lite-9-torch v2-lite-9 "${same[@]}"
rm -rf "$models/v2-lite-9"
engine v2-lite v2-lite v2-lite --router-skew 1 --generate 48 \
  --work 1x512,8x512,64x512,1x8192 \
  --decode 64x2048,256x1024 --max-tokens 8192
rm -rf "$models/v2-lite"
# experts SHARE PLACEMENT: with room on the device for that share of them.
experts() {
  engine "experts-$1-$2" v2-lite-q4_0 v2-lite --format q4_0 --router-skew 1 \
    --work 1x64,8x64 --generate 128 --expert-share "$1" --expert-placement "$2"
}
experts 0.1 static
experts 0.1 dynamic
experts 1 dynamic
few=(--work 1x512,8x512,32x512,1x4096 --max-tokens 4096)
same=(--batch 1,8,32 --prompt 512 --generate 32)
engine r1-llama-8b-8 llama r1-llama-8b --layers 8 "${few[@]}" --generate 32
with_cublaslt engine r1-llama-8b-8-cublaslt llama r1-llama-8b --layers 8 "${few[@]}" \
  --generate 8 --no-batch-invariant
torch r1-llama-8b-8-torch llama "${same[@]}"
torch r1-llama-8b-8-torch-compiled llama "${same[@]}" --compile
part kernels 120 "$bin/gpu_kernels_bench" --benchmark_format=json
with_cublaslt part kernels-cublaslt 60 env SHOAL_BENCH_CUBLASLT=1 \
  "$bin/gpu_kernels_bench" --benchmark_format=json \
  --benchmark_filter='linear/(BF16|F8_E4M3)/.*/(64|512|4096)$'
part kernels-without-warpgroups 60 env SHOAL_BENCH_WITHOUT_WARPGROUPS=1 \
  "$bin/gpu_kernels_bench" --benchmark_format=json \
  --benchmark_filter='linear/.*/(64|512|4096)$'
for share in 0.25 0.5; do
  experts "$share" static
  experts "$share" dynamic
done
exit "$failed"
