#!/bin/bash
# Checks deploy/k8s against strict schemas, offline:
#   tests/deploy/k8s_manifests.sh KUBECONFORM
# KUBECONFORM: path of the binary of github.com/yannh/kubeconform, 0.8.0 or
# later. schemas/ holds the kinds used, taken from the OpenAPI description of
# Kubernetes 1.36 and from the ServiceMonitor definition of the Prometheus
# operator, without descriptions and with unknown fields forbidden. Three
# damaged copies must be refused, so that a check that passes everything fails.
set -euo pipefail
if [ $# -ne 1 ]; then
  sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
kubeconform=$1
here=$(cd "$(dirname "$0")" && pwd)
manifests=$(cd "$here/../../deploy/k8s" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

check() {
  "$kubeconform" -strict -summary -schema-location \
    "$here/schemas/{{.ResourceKind}}{{.KindSuffix}}.json" "$@"
}

fail() {
  echo "FAILED: $*" >&2
  exit 1
}

# kustomization.yaml is read by kustomize, never by the API server; it has to
# name every other file.
listed=$(sed -n '/^resources:/,$s/^ *- //p' "$manifests/kustomization.yaml")
present=$(cd "$manifests" && printf '%s\n' *.yaml | grep -vx kustomization.yaml)
[ "$(sort <<<"$listed")" = "$(sort <<<"$present")" ] ||
  fail "kustomization.yaml and the folder differ"

# shellcheck disable=SC2086  # one argument a file
(cd "$manifests" && check $listed) || fail "deploy/k8s is not valid"

# refuse NAME FILE SED_SCRIPT WORD: the damaged FILE is refused with WORD.
refuse() {
  sed "$3" "$manifests/$2" >"$work/$1.yaml"
  cmp -s "$manifests/$2" "$work/$1.yaml" && fail "$1: nothing was damaged"
  if check "$work/$1.yaml" >"$work/$1.log"; then fail "$1: was accepted"; fi
  grep -q "$4" "$work/$1.log" || fail "$1: $(cat "$work/$1.log")"
}
refuse unknown_field deployment.yaml \
  's/readOnlyRootFilesystem/readonlyRootFilesystem/' readonlyRootFilesystem
refuse wrong_type service.yaml 's/port: 8000/port: "8000"/' 'want integer'
refuse unknown_custom_field service_monitor.yaml \
  's/interval:/intervall:/' intervall
echo "deploy/k8s is valid; 3 damaged manifests refused"
