#!/bin/bash
# Brings the headers of FlashInfer and of what they include, from its pinned PyPI
# wheel, into ${SHOAL_CACHE:-~/.cache/shoal}/flashinfer-VERSION and prints that
# folder: kernels that Shoal's attention is measured beside on a GPU. Does nothing
# if all is there. Needs python3-venv; 62 MB to download, 60 MB on disk.
set -euo pipefail
source "$(dirname "$0")/../../deploy/wheel_folder.sh"

version=0.7.2.post1
folder=${SHOAL_CACHE:-$HOME/.cache/shoal}/flashinfer-$version
requirement="flashinfer-python==$version --hash=sha256:bfdc18b9e1e4d8d0730fe4343dc0e284cd0c160086de80f99888bc4867922d49"

unpack() {
  python3 - "$1" "$2" <<'PYTHON'
import pathlib, sys, zipfile
wheels, folder = map(pathlib.Path, sys.argv[1:])
wanted = ["cccl/libcudacxx/include", "cccl/cub/cub", "cccl/thrust/thrust",
          "include", "cutlass/include"]
with zipfile.ZipFile(next(wheels.glob("*.whl"))) as archive:
    for entry in archive.infolist():
        name = entry.filename.removeprefix("flashinfer/data/")
        if not entry.is_dir() and any(name.startswith(w + "/") for w in wanted):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.read(entry))
PYTHON
}
wheel_folder "$folder" "$requirement" "FlashInfer $version" unpack
