"""Metrics as real tools read them: promtool, Prometheus, the dashboard."""

import json
import subprocess
import sys
import threading
import time

import pytest
import requests

from conftest import ROOT
from shoal.v1 import admin_pb2
from shoal.v1 import inference_pb2 as pb

DEPLOY_TESTS = ROOT / "tests/deploy"


def run_some(server, count=6, max_tokens=24):
    calls = [
        server.inference.Generate(
            pb.GenerateRequest(
                text=f"Story number {i}:",
                stopping=pb.Stopping(max_tokens=max_tokens, ignore_eos=True),
            )
        )
        for i in range(count)
    ]
    for call in calls:
        list(call)


def test_promtool_accepts_the_exposition(server):
    run_some(server)
    lint = subprocess.run(
        [sys.executable, DEPLOY_TESTS / "metrics_lint.py", server.url + "/metrics"],
        text=True, capture_output=True,
    )
    assert lint.returncode == 0, lint.stdout + lint.stderr


def test_tokens_are_counted(server):
    def tokens():
        return sum(
            value
            for name, value in server.metrics().items()
            if name.startswith("vllm:generation_tokens_total")
        )

    before = tokens()
    run_some(server, count=3, max_tokens=10)
    server.await_idle()
    assert tokens() == before + 30


@pytest.fixture
def prometheus(start_server, tmp_path):
    """A real Prometheus that scrapes a server every second."""
    baseline = tmp_path / "baseline.json"
    server = start_server("--drift-baseline", str(baseline))
    target = server.url.removeprefix("http://")
    config = tmp_path / "prometheus.yml"
    config.write_text(
        json.dumps(
            {
                "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                "rule_files": [str(ROOT / "deploy/prometheus/shoal.rules.yml")],
                "scrape_configs": [
                    {
                        "job_name": "shoal",
                        "static_configs": [{"targets": [target]}],
                    }
                ],
            }
        )
    )
    process = subprocess.Popen(
        [
            "prometheus", f"--config.file={config}",
            f"--storage.tsdb.path={tmp_path / 'data'}",
            "--web.listen-address=127.0.0.1:0",
            "--log.format=json",
        ],
        stderr=subprocess.PIPE, text=True,
    )
    url = None
    for line in process.stderr:
        if "Listening on" in line or '"address"' in line:
            address = json.loads(line).get("address", "")
            if address.startswith("127.0.0.1:") and not address.endswith(":0"):
                url = "http://" + address
                break
    threading.Thread(target=process.stderr.read, daemon=True).start()
    yield server, url
    process.terminate()
    process.wait()


def query(url, expression):
    answer = requests.get(
        url + "/api/v1/query", params={"query": expression}, timeout=10
    ).json()
    return answer["data"]["result"]


def test_prometheus_scrapes_and_every_panel_has_data(prometheus):
    server, url = prometheus
    assert url
    # Enough tokens for a drift baseline and a window over it.
    for _ in range(5):
        run_some(server, count=32, max_tokens=40)
    recorded = server.admin.RecordDriftBaseline(
        admin_pb2.RecordDriftBaselineRequest()
    )
    assert recorded.num_tokens >= 4096
    end = time.monotonic() + 60
    while time.monotonic() < end:
        run_some(server, count=4)
        up = query(url, 'up{job="shoal"}')
        if up and up[0]["value"][1] == "1":
            break
    assert up and up[0]["value"][1] == "1"
    while time.monotonic() < end:
        run_some(server, count=4)
        done = subprocess.run(
            [
                sys.executable, DEPLOY_TESTS / "dashboard_queries.py", url,
                ROOT / "deploy/grafana/shoal.json",
            ],
            capture_output=True, text=True,
        )
        if done.returncode == 0:
            break
        time.sleep(2)
    assert done.returncode == 0, done.stdout + done.stderr
    rules = requests.get(url + "/api/v1/rules", timeout=10).json()
    alerts = [
        rule
        for group in rules["data"]["groups"]
        for rule in group["rules"]
        if rule["type"] == "alerting"
    ]
    assert len(alerts) >= 3
    assert all(rule["health"] in ("ok", "unknown") for rule in alerts)
    drift = query(url, 'shoal_drift_kl{signal="output_tokens"}')
    assert drift and float(drift[0]["value"][1]) >= 0
