#!/bin/bash
# Installs what Shoal needs, builds it, brings the default model where none is
# named, and serves it:
#   deploy/quickstart.sh [MODEL] [OPTIONS OF shoal serve]
#   deploy/quickstart.sh --build-only
# A second run finds everything done and serves within seconds.
set -euo pipefail
cd "$(dirname "$0")/.."

build_only=false
if [ "${1:-}" = --build-only ]; then
  build_only=true
  shift
fi

deploy/install_packages.sh build

# At most two big compilations for every 4 GiB, so that memory suffices.
memory_gib=$(awk '/MemAvailable/ {print int($2 / 1048576)}' /proc/meminfo)
jobs=$(nproc)
if [ "$jobs" -gt $((memory_gib / 2 + 1)) ]; then jobs=$((memory_gib / 2 + 1)); fi

if [ ! -f build/build.ninja ]; then
  cmake -S . -B build -G Ninja -DCMAKE_BUILD_TYPE=Release \
    -DSHOAL_BUILD_TESTS=OFF >/dev/null
fi
ninja -C build -j "$jobs" --quiet shoal

if $build_only; then exit 0; fi

if [ $# -gt 0 ] && [ "${1#-}" = "$1" ]; then
  model=$1
  shift
else
  model=$(deploy/fetch_default_model.sh)
fi
exec build/shoal serve "$model" "$@"
