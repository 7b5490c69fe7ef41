#!/usr/bin/env python3
"""Lints a scrape with promtool: metrics_lint.py http://127.0.0.1:8000/metrics

Names of vLLM's families are given and break two of promtool's rules; every
other finding, and every finding on a family of our own, fails.
"""

import subprocess
import sys
import urllib.request

GIVEN = (
    "metric names should not contain ':'",
    'non-counter metrics should not have "_total" suffix',
)


def main(url):
    with urllib.request.urlopen(url, timeout=10) as reply:
        text = reply.read()
    lint = subprocess.run(
        ["promtool", "check", "metrics"],
        input=text,
        capture_output=True,
        check=False,
    )
    findings = [
        line
        for line in (lint.stderr + lint.stdout).decode().splitlines()
        if not (line.startswith("vllm:") and line.endswith(GIVEN))
    ]
    for finding in findings:
        print(finding, file=sys.stderr)
    # 3: linted, with findings.
    return 1 if findings or lint.returncode not in (0, 3) else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1]))
