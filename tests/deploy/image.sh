#!/bin/bash
# Builds the image and runs it locked down, by hand or nightly; not part of
# tests/run.sh, because it needs root and about ten minutes:
#   tests/deploy/image.sh [IMAGE]
# IMAGE given: tests that one instead of building. Needs buildah, podman, runc
# and curl, the base image ${BASE:-debian:bookworm-slim} in the local store or
# reachable, and the default model (deploy/fetch_default_model.sh). Whatever
# lacks is a failure, nothing is skipped. The container runs on loopback with a
# read-only root, as user 10001, without capabilities, in 1 GiB of memory.
# CONTAINERS_CONF and CONTAINERS_STORAGE_CONF are honoured.
# BUILD_ARGS: more options of buildah build, e.g. "--volume /certs:/certs:ro".
set -euo pipefail
cd "$(dirname "$0")/../.."

fail() {
  echo "FAILED: $*" >&2
  [ -z "${container:-}" ] || podman logs --tail 20 "$container" >&2 || true
  exit 1
}

container=
work=$(mktemp -d)
finish() {
  [ -z "$container" ] || podman rm --force --time 5 "$container" >/dev/null
  rm -rf "$work"
}
trap finish EXIT

model=$(deploy/fetch_default_model.sh)
image=${1:-}
if [ -z "$image" ]; then
  image=localhost/shoal:test
  # Docker's format: the other one knows no health check.
  # shellcheck disable=SC2086  # several options
  buildah build --format docker --layers --build-arg \
    BASE="${BASE:-debian:bookworm-slim}" ${BUILD_ARGS:-} \
    --build-arg REVISION="$(git rev-parse HEAD 2>/dev/null || echo unknown)" \
    --tag "$image" .
fi

inspect() { podman image inspect --format "$1" "$image"; }
echo "size: $(($(inspect '{{.Size}}') / 1000000)) MB"
[ "$(inspect '{{.Config.User}}')" = 10001:10001 ] || fail "user"
[ "$(inspect '{{.Config.StopSignal}}')" = SIGTERM ] || fail "stop signal"
inspect '{{.HealthCheck}}' | grep -q 'shoal health' || fail "health check"

free_port() {
  python3 -c 'import socket
s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}
# With --dtype f32 the answer does not hang on how activations are rounded.
grpc=127.0.0.1:$(free_port) http=127.0.0.1:$(free_port)
container=$(podman run --detach --network host --no-healthcheck --read-only \
  --read-only-tmpfs=false --cap-drop=ALL --security-opt no-new-privileges \
  --memory 1g --volume "$model:/models/model.gguf:ro" "$image" \
  serve /models/model.gguf --dtype f32 --grpc-address "$grpc" \
  --http-address "$http")

inside() { podman exec "$container" "$@"; }
for ((second = 0; ; ++second)); do
  [ "$second" -lt 120 ] || fail "not ready after $second s"
  [ "$(podman inspect --format '{{.State.Running}}' "$container")" = true ] ||
    fail "ended before it was ready"
  if inside shoal health --address "$grpc" >"$work/health" 2>&1; then break; fi
  sleep 1
done
echo "ready after about $second s: $(cat "$work/health")"

# The kernel's word on what the process may do.
pid=$(podman inspect --format '{{.State.Pid}}' "$container")
status() { awk -v field="$1:" '$1 == field { print $2 }' "/proc/$pid/status"; }
[ "$(status Uid)" = 10001 ] || fail "uid $(status Uid)"
[ "$((16#$(status CapEff)))" -eq 0 ] || fail "capabilities $(status CapEff)"
[ "$(status NoNewPrivs)" = 1 ] || fail "new privileges are possible"
[ "$(status Seccomp)" = 2 ] || fail "no seccomp filter"
if inside touch /written 2>"$work/touch"; then fail "the root is writable"; fi
grep -q 'Read-only file system' "$work/touch" || fail "$(cat "$work/touch")"

[ "$(curl -sS -o /dev/null -w '%{http_code}' "http://$http/ready")" = 200 ] ||
  fail "/ready"
curl -sS --fail "http://$http/v1/chat/completions" \
  -H 'Content-Type: application/json' -d '{"temperature": 0, "max_tokens": 24,
    "messages": [{"role": "user", "content": "What is the capital of France?"}]
  }' >"$work/reply" || fail "generation"
grep -q Paris "$work/reply" || fail "reply: $(cat "$work/reply")"
curl -sS --fail "http://$http/metrics" | grep -q '^shoal_latency_seconds' ||
  fail "/metrics"
echo "resident: $(($(status VmRSS) / 1024)) MiB, at most" \
  "$(($(status VmHWM) / 1024)) MiB"

podman stop --time 40 "$container" >/dev/null
code=$(podman inspect --format '{{.State.ExitCode}}' "$container")
[ "$code" = 0 ] || fail "exit status $code after SIGTERM"
echo "passed: $image"
