#!/bin/bash
# Installs the Debian 12 packages that are missing for a purpose:
#   deploy/install_packages.sh build   to compile shoal
#   deploy/install_packages.sh run     to run a binary compiled elsewhere
#   deploy/install_packages.sh test    to compile and run the tests
# As root, or as a user who may sudo. Does nothing when all are there.
set -euo pipefail

build=(
  build-essential ca-certificates ccache cmake ninja-build pkg-config
  libabsl-dev libboost1.81-dev libcli11-dev libgrpc++-dev libgrpc-dev
  libprotobuf-dev libspdlog-dev libssl-dev libxxhash-dev nlohmann-json3-dev
  prometheus-cpp-dev protobuf-compiler protobuf-compiler-grpc
)
run=(
  ca-certificates libgrpc++1.51 libprotobuf32 libspdlog1.10
  libprometheus-cpp-core1.0 libssl3
)
test=(
  "${build[@]}" chromium chromium-driver curl libbenchmark-dev libgmock-dev
  libgtest-dev libsimde-dev openssl prometheus python3-venv
)
# Bringing the default model takes Python's pip.
build+=(python3-venv)

case "${1:-}" in
  build) wanted=("${build[@]}") ;;
  run) wanted=("${run[@]}") ;;
  test) wanted=("${test[@]}") ;;
  *)
    echo "usage: $0 build|run|test" >&2
    exit 2
    ;;
esac

# A Rust of 1.82 or later: Debian's cargo is older, its cargo-web is not.
rust_is_current() {
  local version
  version=$(cargo --version 2>/dev/null | cut -d' ' -f2) || return 1
  [ -n "$version" ] &&
    printf '1.82\n%s\n' "$version" | sort --check=quiet --version-sort
}
if [ "$1" != run ] && ! rust_is_current; then
  wanted+=(cargo-web rustc-web)
fi

missing=()
for package in "${wanted[@]}"; do
  state=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$state" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

as_root=()
[ "$(id -u)" -eq 0 ] || as_root=(sudo)
echo "installing: ${missing[*]}" >&2
"${as_root[@]}" apt-get update -qq
# Debian's prometheus package would start a server of its own.
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
  apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
