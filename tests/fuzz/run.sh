#!/bin/bash
# Fuzzes what reads model files, under AddressSanitizer and UBSan: 2,000 flipped
# bytes, 64 truncations and 64 runs of NaNs of every file of every small model.
#   tests/fuzz/run.sh [ARGUMENTS OF fuzz_loaders]
# Files are dealt out to one process a core. A run depends on its --seed alone.
set -euo pipefail
cd "$(dirname "$0")/../.."
cmake -S . -B build-address -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo \
  -DSHOAL_SANITIZE=address -DSHOAL_BUILD_TESTS=ON \
  -DSHOAL_RUST_TARGET_DIR="$PWD/build/rust" >/dev/null
ninja -C build-address --quiet fuzz_loaders
# Dimensions that no memory holds must come out as an error, as they do without
# a sanitizer.
export ASAN_OPTIONS=detect_leaks=1:strict_string_checks=1:allocator_may_return_null=1
export UBSAN_OPTIONS=print_stacktrace=1
fuzz=build-address/tests/fuzz/fuzz_loaders
"$fuzz" --list "$@" | head -n -1 |
  xargs -d '\n' -P "$(nproc)" -I{} "$fuzz" "$@" --target {} | grep -v '^1 files'
