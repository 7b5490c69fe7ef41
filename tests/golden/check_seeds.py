#!/usr/bin/env python3
"""Holds `shoal logits` to any number of folders like those beside this file.

    check_seeds.py [--shoal BINARY] [--chunk N]... FOLDER... [-- ARGUMENT...]

A fixture is a folder below FOLDER with config.json, model.safetensors,
golden.safetensors and golden.json (README.md says what they hold). It runs in
f32 once for each --chunk, 0 standing for whole prompts; by default 0 and 7.
Each run must give the golden logits within the fixture's own tolerance and its
greedy tokens. Arguments after -- go to `shoal logits`: --cpu-isa scalar.

Prints a line a fixture and a summary. Exit status 1: a fixture differs or does
not run, or there is none. Needs numpy and safetensors.
"""

import argparse
import json
import math
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
from safetensors.numpy import load_file

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Run:
    """What one run of a fixture came to."""

    def __init__(self):
        self.worst = 0.0  # largest |difference| of a logit
        self.rows = 0  # compared
        self.faults = []  # what is wrong, in words

    def compare(self, index, want, golden, got):
        """Adds prompt `index`, `want` being its entry of golden.json."""
        name = f"prompt{index}"
        expected = golden[f"{name}.logits"]
        logits = got[f"{name}.logits"][golden[f"{name}.positions"]]
        rows = np.abs(logits.astype(np.float64) - expected).max(axis=1)
        # A NaN is as far away as can be; max() would lose it.
        worst = math.inf if np.isnan(rows).any() else float(rows.max())
        self.worst = max(self.worst, worst)
        self.rows += len(rows)
        greedy = got[f"{name}.greedy"].tolist()
        for step, (a, b) in enumerate(zip(greedy, want["greedy"], strict=True)):
            if a != b:
                margin = want["margins"][step]
                self.faults.append(
                    f"{name} greedy step {step}: {a}, not {b} (margin {margin})"
                )
                break
        return worst


def run_fixture(folder, golden_json, golden, chunk, options):
    run = Run()
    prompts = golden_json["prompts"]
    lengths = [len(golden[f"prompt{p['index']}.input_ids"]) for p in prompts]
    with tempfile.TemporaryDirectory() as scratch:
        out = pathlib.Path(scratch) / "out.safetensors"
        command = [
            options.shoal, "logits", str(folder),
            "--tokens", str(folder / "golden.safetensors"),
            "--out", str(out),
            "--greedy", str(len(prompts[0]["greedy"])),
            "--chunk", str(chunk or max(lengths)),
            "--dtype", "f32",
            *options.arguments,
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            run.faults.append(f"exit status {done.returncode}: {last}")
            return run
        got = load_file(out)
    tolerance = golden_json["tolerance"]["fp32_compute_max_abs"]
    for prompt in prompts:
        worst = run.compare(prompt["index"], prompt, golden, got)
        if not worst <= tolerance:
            run.faults.append(
                f"prompt{prompt['index']} logits off by {worst:.2e}"
            )
    return run


def check(folder, options):
    """Prints the fixture's line; returns (worst, tolerance, fine)."""
    golden_json = json.loads((folder / "golden.json").read_text())
    golden = load_file(folder / "golden.safetensors")
    tolerance = golden_json["tolerance"]["fp32_compute_max_abs"]
    faults, worst, rows = [], 0.0, 0
    for chunk in options.chunk:
        run = run_fixture(folder, golden_json, golden, chunk, options)
        worst, rows = max(worst, run.worst), rows + run.rows
        label = f"chunk {chunk}" if chunk else "whole"
        faults += [f"{label}: {fault}" for fault in run.faults]
    print(
        f"{'FAILED' if faults else 'ok':6} {folder}: {rows} rows, "
        f"worst {worst:.2e} of {tolerance:.2e} allowed",
        *faults, sep="\n       ", flush=True,
    )
    return worst, tolerance, not faults


def main():
    arguments = sys.argv[1:]
    split = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--shoal", default=str(ROOT / "build/shoal"))
    parser.add_argument("--chunk", type=int, action="append")
    parser.add_argument("folder", type=pathlib.Path, nargs="+")
    options = parser.parse_args(arguments[:split])
    options.arguments = arguments[split + 1 :]
    options.chunk = options.chunk or [0, 7]

    fixtures = sorted(
        {
            path.parent
            for folder in options.folder
            for path in folder.rglob("golden.json")
            if (path.parent / "golden.safetensors").exists()
        }
    )
    results = [check(folder, options) for folder in fixtures]
    if not results:
        sys.exit("no fixture in " + " ".join(map(str, options.folder)))
    failed = sum(not fine for _, _, fine in results)
    print(
        f"{len(results)} fixtures of {len({f.name for f in fixtures})} kinds, "
        f"{failed} failed; worst difference {max(r[0] for r in results):.2e}, "
        f"at most {max(r[0] / r[1] for r in results):.1%} of what is allowed"
    )
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
