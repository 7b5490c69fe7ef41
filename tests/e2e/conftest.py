"""A running server and its clients, for the end-to-end tests.

The environment comes from run.sh: SHOAL_BINARY, SHOAL_MODEL, SHOAL_ROOT,
GRPCURL, KUBECONFORM and the generated gRPC code on PYTHONPATH.
"""

import os
import pathlib
import re
import signal
import subprocess
import threading
import time

import grpc
import openai
import pytest
import requests

from shoal.v1 import admin_pb2_grpc, inference_pb2_grpc

BINARY = os.environ["SHOAL_BINARY"]
MODEL = os.environ["SHOAL_MODEL"]
ROOT = pathlib.Path(os.environ["SHOAL_ROOT"])


class Server:
    """A `shoal serve` process on ports of its own choosing."""

    def __init__(self, *arguments, model=MODEL):
        self.process = subprocess.Popen(
            [
                BINARY, "serve", str(model),
                "--grpc-address", "127.0.0.1:0",
                "--http-address", "127.0.0.1:0",
                "--kv-cache-bytes", "400000000",
                *arguments,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log = []
        threading.Thread(target=self._read_log, daemon=True).start()
        self.grpc_address = self._address(r"gRPC +(\S+)")
        self.url = self._address(r"HTTP +(\S+)/v1")
        # The rest of what it prints is of no interest, but must be read.
        threading.Thread(target=self.process.stdout.read, daemon=True).start()
        self.channel = grpc.insecure_channel(self.grpc_address)
        self.inference = inference_pb2_grpc.InferenceStub(self.channel)
        self.admin = admin_pb2_grpc.AdminStub(self.channel)

    def _read_log(self):
        for line in self.process.stderr:
            self.log.append(line)

    def _address(self, pattern):
        for line in self.process.stdout:
            found = re.search(pattern, line)
            if found:
                return found.group(1)
        self.process.wait()
        raise RuntimeError("the server did not start: " + "".join(self.log))

    def openai(self):
        return openai.OpenAI(
            base_url=self.url + "/v1", api_key="unused", max_retries=0
        )

    def metrics(self):
        """Samples of /metrics: {'name{labels}': value}."""
        text = requests.get(self.url + "/metrics", timeout=10).text
        samples = {}
        for line in text.splitlines():
            if line and not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                samples[name] = float(value)
        return samples

    def running(self):
        return sum(
            value
            for name, value in self.metrics().items()
            if name.startswith(
                ("vllm:num_requests_running", "vllm:num_requests_waiting{")
            )
        )

    def await_idle(self, seconds=10):
        """Nothing runs or waits any more."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.running() == 0:
                return
            time.sleep(0.02)
        raise AssertionError("requests still run: " + str(self.running()))

    def outcomes(self):
        samples = self.metrics()
        ended = {
            name.split('"')[1]: int(value)
            for name, value in samples.items()
            if name.startswith("shoal_requests_ended_total")
        }
        ended["received"] = int(samples["shoal_requests_received_total"])
        return ended

    def stop(self, seconds=30):
        """SIGTERM; returns the exit code."""
        self.channel.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)


@pytest.fixture
def start_server():
    """Starts servers that end with the test."""
    servers = []

    def start(*arguments, **options):
        servers.append(Server(*arguments, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.process.kill()
        server.process.wait()


@pytest.fixture(scope="session")
def shared_server():
    server = Server()
    yield server
    assert server.stop() == 0


@pytest.fixture
def server(shared_server):
    """The session's server; afterwards it lives, is idle, and still answers."""
    yield shared_server
    assert shared_server.process.poll() is None, "".join(shared_server.log)
    shared_server.await_idle()
    outcomes = shared_server.outcomes()
    received = outcomes.pop("received")
    assert received == sum(outcomes.values()), outcomes
