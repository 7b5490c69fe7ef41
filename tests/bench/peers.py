#!/usr/bin/env python3
"""Shoal and llama.cpp on the same file and the same work, in turn.

  tests/bench/peers.py [MODEL]              speed: prefill and batched decode
  tests/bench/peers.py [MODEL] --accuracy   divergence of next-token
                                            distributions from exact ones

MODEL is a GGUF file, else the default model. Needs build/shoal, python3-venv
and a C++ compiler. The first run builds llama-cpp-python for this machine under
${SHOAL_CACHE:-~/.cache/shoal}/tools, which takes about half an hour on two
cores; later runs need no network.

Every figure comes from a process of its own: random tokens, greedy choice, the
first touch of the weights not counted. Both sides keep their defaults (caches:
bf16 in Shoal, f16 in llama.cpp) and get steps of at most 512 tokens.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile

PEER = "llama-cpp-python"
PEER_VERSION = "0.3.36"
# Only the library is used.
PEER_CMAKE_ARGS = ("-DGGML_NATIVE=ON", "-DMTMD_BUILD=OFF", "-DLLAVA_BUILD=OFF",
                   "-DLLAMA_CURL=OFF", "-DLLAMA_OPENSSL=OFF",
                   "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_SERVER=OFF",
                   "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_TOOLS=OFF")
ROOT = pathlib.Path(__file__).resolve().parents[2]
PEER_SIDE = pathlib.Path(__file__).with_name("llama_cpp_side.py")
TIMEOUT_SECONDS = 1800  # of one figure

# name -> (sequences, prompt tokens, tokens each, the figure)
PREFILL, DECODE = "prefill_tokens_per_second", "decode_tokens_per_second"


def rows(generate):
    work = {f"prefill {prompt}": (1, prompt, 1, PREFILL)
            for prompt in (512, 2048)}
    for batch in (1, 8, 16, 32):
        work[f"decode {batch}"] = (batch, 128, generate, DECODE)
    return work


# What --accuracy reads: prose, talk, figures, a list and code, so that both
# certain and open continuations occur.
PASSAGE = """\
The ferry left the island at ten past six, twenty minutes late, because the \
engineer would not start the second engine until the oil had been changed. \
Nobody complained. The passengers were mostly schoolchildren and two women with \
baskets of mackerel, and the sea was so flat that the gulls stood on it like \
ornaments on a shelf.

"How long have you worked on boats?" the younger woman asked.

"Thirty-one years," said the engineer, wiping his hands. "My father had this \
post before me, and his uncle before him. The engine is older than all of us."

A mackerel shoal can hold several thousand fish. Each one watches its nearest \
neighbours and keeps roughly one body length away from them; from this simple \
rule comes the turning of the whole group, which looks as if it had been \
rehearsed. Water carries pressure waves about four times faster than air \
carries sound, so a fish at the edge feels a predator before it sees one.

The harbour records for that year are short. In January 412 tonnes were landed, \
in February 388, and in March, after the storm, only 97. The total for the \
first quarter was therefore 897 tonnes, about a fifth less than the year before.

To mend a net you need:
1. a needle of wood or bone,
2. twine of the same thickness as the mesh,
3. a gauge, so that every new mesh has the right size,
4. patience.

The clerk kept the figures in a small program:

def average(landings):
    total = 0
    for tonnes in landings:
        total += tonnes
    return total / len(landings)

When the ferry reached the mainland the sun had gone down behind the hills. The \
children ran up the steps, the women followed slowly, and the engineer went back \
below to look at the oil once more.
"""


def fail(message):
    sys.exit(f"peers.py: {message}")


def output(command, **options):
    """What a command prints; ends the script with its complaint otherwise."""
    command = [str(part) for part in command]
    try:
        done = subprocess.run(command, capture_output=True, text=True,
                              timeout=TIMEOUT_SECONDS, **options)
    except subprocess.TimeoutExpired:
        fail(f"no end after {TIMEOUT_SECONDS} s: {' '.join(command)}")
    except OSError as error:
        fail(str(error))
    if done.returncode != 0:
        complaint = done.stderr.strip().splitlines()[-5:]
        fail("\n".join([f"status {done.returncode}: {' '.join(command)}",
                        *complaint]))
    return done.stdout


def parsed(command, **options):
    text = output(command, **options)
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        fail(f"no JSON from {' '.join(map(str, command))}:\n{text[:500]}")


def peer_python():
    """The interpreter that has llama.cpp; builds it where it is missing."""
    cache = pathlib.Path(
        os.environ.get("SHOAL_CACHE") or pathlib.Path.home() / ".cache/shoal")
    venv = cache / "tools" / f"peers-{PEER_VERSION}"
    if (venv / "done").exists():
        return venv / "bin/python"
    log = venv.with_name(f"{venv.name}.log")
    print(f"building {PEER} {PEER_VERSION}; log: {log}", file=sys.stderr)
    shutil.rmtree(venv, ignore_errors=True)
    venv.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {
        "CMAKE_ARGS": " ".join(PEER_CMAKE_ARGS),
        "CMAKE_BUILD_PARALLEL_LEVEL":
            os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL", "2")}
    steps = (
        [sys.executable, "-m", "venv", venv],
        ["nice", "-n", "10", venv / "bin/python", "-m", "pip", "install", "-v",
         "--disable-pip-version-check", "--no-cache-dir", "--no-binary", PEER,
         f"{PEER}=={PEER_VERSION}"])
    with open(log, "w") as file:
        for step in steps:
            if subprocess.run(step, stdout=file, stderr=file,
                              env=environment).returncode != 0:
                fail(f"{PEER} was not built, see {log}")
    (venv / "done").touch()
    log.unlink()
    return venv / "bin/python"


def machine():
    model = {line.split(":", 1)[0].strip(): line.split(":", 1)[1].strip()
             for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines()
             if ":" in line}
    return {"cpu": model.get("model name", "unknown"),
            "cores": len(os.sched_getaffinity(0)),
            "avx512": "avx512f" in model.get("flags", "").split(),
            "load": os.getloadavg()[0]}


def commit():
    try:
        done = subprocess.run(
            ["git", "-C", ROOT, "describe", "--always", "--dirty"],
            capture_output=True, text=True)
    except FileNotFoundError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def measure_speed(arguments, peer):
    """Shoal, llama.cpp, Shoal, ...: what disturbs one disturbs the other."""
    flash_attention = ["--flash-attention", arguments.flash_attention]
    results = []
    print(f"{'tokens/s':14} {'Shoal':>9} {'llama.cpp':>9} {'ratio':>6}"
          f"  {'ratios of the turns':>19}")
    for name, (batch, prompt, generate, figure) in rows(
            arguments.generate).items():
        if arguments.rows and name not in arguments.rows:
            continue
        work = [arguments.model, "--batch", batch, "--prompt", prompt,
                "--generate", generate, "--threads", arguments.threads]
        shoal_runs, peer_runs = [], []
        for _ in range(arguments.repeats):
            shoal_runs.append(parsed(
                [arguments.shoal, "bench", *work, "--json"])[0][figure])
            peer_runs.append(parsed(
                [*peer, "bench", *work, *flash_attention])[figure])
        shoal, other = map(statistics.median, (shoal_runs, peer_runs))
        turns = [a / b for a, b in zip(shoal_runs, peer_runs)]
        print(f"{name:14} {shoal:9.1f} {other:9.1f} {shoal / other:6.2f}"
              f"  {min(turns):9.2f} to {max(turns):.2f}", flush=True)
        results.append({
            "work": name, "batch": batch, "prompt": prompt,
            "generate": generate, "shoal": shoal, "llama_cpp": other,
            "ratio": shoal / other, "shoal_runs": shoal_runs,
            "llama_cpp_runs": peer_runs})
    return results


def measure_accuracy(arguments, peer):
    """KL(exact || candidate) of the next token after every token of PASSAGE;
    exact is f32 arithmetic on the weights as the file has them."""
    results = []
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        tokens = parsed([*peer, "tokenize", arguments.model], input=PASSAGE)
        ids = struct.pack(f"<{len(tokens)}q", *tokens)
        header = json.dumps({"prompt0.input_ids": {
            "dtype": "I64", "shape": [len(tokens)],
            "data_offsets": [0, len(ids)]}}).encode()
        given = folder / "tokens"
        given.write_bytes(struct.pack("<Q", len(header)) + header + ids)

        def logits(name, *command):
            path = folder / name
            output([*command, arguments.model, "--tokens", given, "--out", path,
                    "--threads", arguments.threads])
            return path

        shoal = [arguments.shoal, "logits", "--dtype"]
        exact = logits("exact", *shoal, "f32")
        candidates = {
            "Shoal": logits("shoal", *shoal, "bf16"),
            "llama.cpp": logits("llama_cpp", *peer, "logits",
                                "--flash-attention", arguments.flash_attention)}
        print(f"{len(tokens)} positions {'mean KL':>9} {'max KL':>9}"
              f" {'same top token':>15}")
        for name, path in candidates.items():
            found = parsed([*peer, "divergence", exact, path])
            print(f"{name:13} {found['mean_kl']:9.2e} {found['max_kl']:9.2e}"
                  f" {found['same_top_token']:15.1%}", flush=True)
            results.append({"of": name, **found})
    return results


def arguments_given():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=pathlib.Path)
    parser.add_argument("--accuracy", action="store_true",
                        help="measure accuracy instead of speed")
    parser.add_argument("--repeats", type=int, default=3,
                        help="turns of each row [3]")
    parser.add_argument("--rows", type=lambda text: text.split(","),
                        help="only these, e.g. 'prefill 512,decode 8'")
    parser.add_argument("--generate", type=int, default=32,
                        help="tokens a sequence where decoding counts [32]")
    parser.add_argument("--threads", type=int, default=2, help="[2]")
    parser.add_argument("--flash-attention", choices=("auto", "on", "off"),
                        default="auto", help="llama.cpp's setting [auto]")
    parser.add_argument("--shoal", type=pathlib.Path,
                        default=ROOT / "build/shoal", help="[build/shoal]")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE",
                        help="write the figures there, too")
    given = parser.parse_args()
    if given.repeats < 1 or given.threads < 1 or given.generate < 2:
        parser.error("--repeats and --threads from 1, --generate from 2")
    unknown = set(given.rows or ()) - set(rows(given.generate))
    if unknown:
        parser.error(f"no such row: {', '.join(sorted(unknown))}; rows: "
                     f"{', '.join(rows(given.generate))}")
    if not given.shoal.is_file():
        parser.error(f"{given.shoal} is missing: build Shoal first")
    if given.model is None:
        given.model = pathlib.Path(output(
            [ROOT / "deploy/fetch_default_model.sh"]).strip())
    if not given.model.is_file():
        parser.error(f"{given.model}: not a file")
    return given


def main():
    arguments = arguments_given()
    peer = [peer_python(), PEER_SIDE]
    report = {"machine": machine(), "commit": commit(),
              "model": arguments.model.name, "threads": arguments.threads,
              "llama_cpp": parsed([*peer, "info"])}
    host = report["machine"]
    print(f"{arguments.model.name}, {arguments.threads} threads on {host['cpu']}"
          f" ({host['cores']} cores, {'' if host['avx512'] else 'no '}AVX-512),"
          f" Shoal {report['commit']}, {PEER} {PEER_VERSION}")
    if host["load"] > 0.3:
        print(f"the machine is busy (load {host['load']:.1f}): figures are low"
              " and uncertain")
    if arguments.accuracy:
        report["accuracy"] = measure_accuracy(arguments, peer)
    else:
        report["speed"] = measure_speed(arguments, peer)
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
