#!/bin/bash
# Checks and measures the CUDA engine on the first GPU, in under 8 minutes:
#   OUT=results run.sh
# from the folder that pack.sh packed (or, in the project, with BIN=build/tests/gpu).
# Writes to $OUT (default: results) a log or a JSON file a part and
# summary.json; the exit status is 0 if every part passed. A part that fails or
# takes too long does not stop the others.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
bin=${BIN:-$here}
out=${OUT:-results}
export LD_LIBRARY_PATH=$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
if [ -d "$here/golden" ]; then export SHOAL_GOLDEN_DIR=$here/golden; fi
mkdir -p "$out"
models=$(mktemp -d)
trap 'rm -rf "$models"' EXIT

parts=()
# part NAME SECONDS COMMAND...: its output is NAME's file.
part() {
  local name=$1 limit=$2 start=$SECONDS status=passed
  shift 2
  timeout "$limit" "$@" >"$out/$name" 2>"$out/errors.txt" || status="failed ($?)"
  if [ "$status" != passed ]; then
    echo "$name: $status" && tail -n 20 "$out/errors.txt" "$out/$name"
  fi
  cat "$out/errors.txt" >>"$out/log.txt"
  parts+=("{\"part\": \"$name\", \"result\": \"$status\", \"seconds\": $((SECONDS - start))}")
}
engine() {
  local name=$1 model=$2
  shift 2
  part "$name" 90 "$bin/gpu_engine_bench" --model "$models/$model" "$@"
}

nvidia-smi >"$out/log.txt" 2>&1
part ops.txt 60 "$bin/gpu_op_test" --gtest_brief=1
part goldens.txt 120 "$bin/gpu_golden_test" --gtest_brief=1
part faults.txt 30 "$bin/gpu_fault_test" --gtest_brief=1
part kernels.json 120 "$bin/gpu_kernels_bench" --benchmark_format=json
engine llama.json llama r1-llama-8b --layers 8 --batch 1,8,32 --prompt 512,4096 --generate 32
engine v2-lite.json v2-lite v2-lite --format q4_0 --router-skew 1 \
  --batch 1,8,64 --prompt 512 --generate 64
for share in 0.1 0.5; do
  for placement in static dynamic; do
    engine "experts-$placement-$share.json" v2-lite v2-lite --format q4_0 \
      --router-skew 1 --batch 1,8 --prompt 64 --generate 256 \
      --expert-share "$share" --expert-placement "$placement"
  done
done
rm -f "$out/errors.txt"
(IFS=,; echo "[${parts[*]}]") >"$out/summary.json"
cat "$out/summary.json"
! grep -q failed "$out/summary.json"
