#!/bin/bash
# Installs what the tests need, builds everything and runs all tests:
#   tests/run.sh                           unit, golden, deploy, end to end
#   tests/run.sh --sanitize=address        unit and golden tests under
#                                          AddressSanitizer and UBSan only
#   tests/run.sh --sanitize=thread         the same under ThreadSanitizer
#   tests/run.sh --also-sanitize=address   all tests, then the sanitized ones
# The last line reads "N passed, N failed"; the exit status says the same.
set -uo pipefail
cd "$(dirname "$0")/.."
root=$PWD
export SHOAL_CACHE=${SHOAL_CACHE:-$HOME/.cache/shoal}

sanitize= also=
for argument in "$@"; do
  case "$argument" in
    --sanitize=address | --sanitize=thread) sanitize=${argument#*=} ;;
    --also-sanitize=address | --also-sanitize=thread) also=${argument#*=} ;;
    *)
      sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
      exit 2
      ;;
  esac
done

deploy/install_packages.sh test || exit 1
tests/fetch_data.sh || exit 1

memory_gib=$(awk '/MemAvailable/ {print int($2 / 1048576)}' /proc/meminfo)
jobs=$(nproc)
if [ "$jobs" -gt $((memory_gib / 2 + 1)) ]; then jobs=$((memory_gib / 2 + 1)); fi
results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT

# build FOLDER TARGET CMAKE_OPTIONS...
build() {
  local folder=$1 target=$2
  shift 2
  cmake -S . -B "$folder" -G Ninja -DSHOAL_BUILD_TESTS=ON \
    -DSHOAL_RUST_TARGET_DIR="$root/build/rust" "$@" >"$results/cmake.log" ||
    { cat "$results/cmake.log"; exit 1; }
  ninja -C "$folder" -j "$jobs" --quiet "$target" || exit 1
}

# Under ThreadSanitizer pools of two threads that spin want cores of their own.
run_sanitized() {
  local at_once=$jobs
  if [ "$1" = thread ]; then at_once=$(((jobs + 1) / 2)); fi
  build "build-$1" all_tests -DCMAKE_BUILD_TYPE=RelWithDebInfo -DSHOAL_SANITIZE="$1"
  ASAN_OPTIONS=detect_leaks=1:strict_string_checks=1 \
    UBSAN_OPTIONS=print_stacktrace=1 \
    TSAN_OPTIONS="halt_on_error=1:suppressions=$root/tests/sanitizer/tsan.supp" \
    ctest --test-dir "build-$1" -L 'unit|golden' -j "$at_once" --timeout 900 \
    --output-on-failure --output-junit "$results/sanitize-$1.xml" |
    grep -vE ' Passed |^ +Start +[0-9]+:'
}

if [ -n "$sanitize" ]; then
  run_sanitized "$sanitize"
else
  deploy/install_cuda.sh >/dev/null || exit 1
  tests/gpu/install_flashinfer.sh >/dev/null || exit 1
  build build all -DCMAKE_BUILD_TYPE=Release
  ctest --test-dir build -j "$jobs" --timeout 600 --output-on-failure \
    --output-junit "$results/ctest.xml" | grep -vE ' Passed |^ +Start +[0-9]+:'
  tests/e2e/run.sh --junitxml="$results/e2e.xml" || touch "$results/e2e.failed"
  if [ -n "$also" ]; then run_sanitized "$also"; fi
fi

python3 - "$results" <<'PYTHON'
import pathlib, sys
from xml.etree import ElementTree
results = pathlib.Path(sys.argv[1])
passed = failed = 0
for report in sorted(results.glob("*.xml")):
    for case in ElementTree.parse(report).iter("testcase"):
        bad = [case.find(tag) is not None for tag in ("failure", "error", "skipped")]
        if any(bad) or case.get("status") in ("fail", "disabled", "notrun"):
            failed += 1
            print("FAILED", report.stem, case.get("classname"), case.get("name"))
        else:
            passed += 1
# A runner that died before it could report is a failure too.
if (results / "e2e.failed").exists() and not (results / "e2e.xml").exists():
    failed += 1
    print("FAILED e2e did not run")
if not list(results.glob("*.xml")):
    failed += 1
    print("FAILED nothing ran")
print(f"{passed} passed, {failed} failed")
sys.exit(1 if failed else 0)
PYTHON
