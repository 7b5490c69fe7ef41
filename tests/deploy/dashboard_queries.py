#!/usr/bin/env python3
"""Runs every query of a Grafana dashboard on a live Prometheus.

    dashboard_queries.py [--no-baseline] http://127.0.0.1:9090 shoal.json

Variables are filled in as Grafana does with "All" chosen. Exits with 1 and
names the panels whose query fails or returns no number; NaN is none. With
--no-baseline shoal_drift_kl may be NaN, as it is before one was recorded.
Latency is that of the last minute, so requests must have ended in it.
"""

import argparse
import json
import math
import sys
import urllib.error
import urllib.parse
import urllib.request

BUILT_IN = {"__rate_interval": "1m", "__interval": "15s", "__range": "5m"}


def variables(dashboard):
    """What Grafana puts in place of each variable."""
    values = dict(BUILT_IN)
    for variable in dashboard.get("templating", {}).get("list", []):
        values[variable["name"]] = variable.get("allValue") or ".*"
    return values


def fill(expr, values):
    # Longest name first: $__range is the start of $__range_s.
    for name in sorted(values, key=len, reverse=True):
        expr = expr.replace("${%s}" % name, values[name])
        expr = expr.replace("$" + name, values[name])
    return expr


def queries(panels):
    """(panel title, expression) of all panels, those in rows included."""
    for panel in panels:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]
        yield from queries(panel.get("panels", []))


def values_of(prometheus, expr):
    body = urllib.parse.urlencode({"query": expr}).encode()
    url = prometheus.rstrip("/") + "/api/v1/query"
    with urllib.request.urlopen(url, data=body, timeout=10) as reply:
        result = json.load(reply)["data"]["result"]
    return [float(series["value"][1]) for series in result]


def main(prometheus, path, no_baseline):
    with open(path, encoding="utf-8") as file:
        dashboard = json.load(file)
    values = variables(dashboard)
    total = 0
    failures = []
    for title, expr in queries(dashboard["panels"]):
        total += 1
        filled = fill(expr, values)
        try:
            found = values_of(prometheus, filled)
            if no_baseline and "shoal_drift_kl" in expr and found:
                continue
            if any(not math.isnan(value) for value in found):
                continue
            problem = "no data"
        except urllib.error.HTTPError as error:
            problem = json.loads(error.read()).get("error", str(error))
        failures.append(f"{title}: {problem}: {filled}")
    print(f"{total - len(failures)} of {total} queries have data")
    for failure in failures:
        print(failure, file=sys.stderr)
    return 0 if total > 0 and not failures else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("prometheus")
    parser.add_argument("dashboard")
    parser.add_argument("--no-baseline", action="store_true")
    arguments = parser.parse_args()
    sys.exit(
        main(
            arguments.prometheus, arguments.dashboard, arguments.no_baseline
        )
    )
