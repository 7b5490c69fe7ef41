#!/bin/bash
# Brings the CUDA toolkit that Shoal is built with, from pinned PyPI wheels,
# into ${SHOAL_CACHE:-~/.cache/shoal}/cuda-13.0 and prints that folder. Compiler,
# headers and cuBLASLt; no driver, no GPU needed. Does nothing if all is there.
# Needs python3-venv; about 550 MB to download, 900 MB on disk.
set -euo pipefail
source "$(dirname "$0")/wheel_folder.sh"

version=13.0
folder=${SHOAL_CACHE:-$HOME/.cache/shoal}/cuda-$version

requirements="\
nvidia-cuda-nvcc==13.0.88 --hash=sha256:56fe502eb77625a12f25172caa3cdddb4e4c8ba2c8c17dba44b164761b380f03
nvidia-nvvm==13.0.88 --hash=sha256:c5f41ffeb6466944a026dfa5317d7d85355c119bbec279205d22f1869d1054e0
nvidia-cuda-crt==13.0.88 --hash=sha256:2c8043c7c9e02492716426e9919fc78d2c5b3b2a7a768a88e952676b08aa55a4
nvidia-cuda-runtime==13.0.96 --hash=sha256:7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548
nvidia-cublas==13.1.0.3 --hash=sha256:ee8722c1f0145ab246bccb9e452153b5e0515fd094c3678df50b2a0888b8b171
nvidia-cuda-cccl==13.0.85 --hash=sha256:e0da7ad981f3a8aff08241b5bfc1af868742a63e2762f53a5171c492ef242649
nvidia-cuda-culibos==13.0.85 --hash=sha256:5c178858405f485367175e14f8a7536af6c86c5c428d25301f2218406c316ba0"

if [ "$(uname -m)" != x86_64 ]; then
  echo "install_cuda.sh: wheels are pinned for x86_64, this is $(uname -m)" >&2
  exit 1
fi

# Everything under nvidia/cu13, without what is never linked, and the names that
# a linker and nvcc look for.
unpack() {
  python3 - "$1" "$2" <<'PYTHON'
import pathlib, shutil, sys, zipfile
wheels, toolkit = map(pathlib.Path, sys.argv[1:])
skipped = {"lib/libcublas.so.13", "lib/libnvblas.so.13"}
for wheel in sorted(wheels.glob("*.whl")):
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            name = entry.filename.removeprefix("nvidia/cu13/")
            if name == entry.filename or entry.is_dir() or name in skipped:
                continue
            target = toolkit / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(entry) as source, open(target, "wb") as out:
                shutil.copyfileobj(source, out)
            if name.startswith(("bin/", "nvvm/bin/")):
                target.chmod(0o755)
PYTHON
  local library link
  for library in "$2"/lib/*.so.*; do
    link=${library%%.so.*}.so
    [ -e "$link" ] || ln -s "$(basename "$library")" "$link"
  done
  [ -e "$2/lib64" ] || ln -s lib "$2/lib64"
}
wheel_folder "$folder" "$requirements" "the CUDA $version toolkit" unpack
