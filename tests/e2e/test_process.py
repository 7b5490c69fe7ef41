"""The process: start, bad models, drain, command line."""

import os
import signal
import shutil
import socket
import subprocess
import time

import grpc
import pytest
import requests
from grpc_health.v1 import health_pb2, health_pb2_grpc

from conftest import BINARY, MODEL
from shoal.v1 import inference_pb2 as pb


def shoal(*arguments, **options):
    return subprocess.run(
        [BINARY, *map(str, arguments)],
        capture_output=True, text=True, timeout=60, **options,
    )


def fails(*arguments, within=2, after_loading=False):
    """One line on stderr (after log lines of loading), exit code 1, in time."""
    started = time.monotonic()
    done = shoal(*arguments)
    assert time.monotonic() - started < within
    assert done.returncode == 1, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 or after_loading, done.stderr
    assert lines[-1].startswith("shoal: ")
    return lines[-1]


PORTS = ("--grpc-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0")


def test_missing_model():
    assert "no/such" in fails("serve", "no/such.gguf", *PORTS)


@pytest.mark.parametrize("size", [0, 3, 24, 1000, 5_000_000, 98_000_000])
def test_truncated_model(tmp_path, size):
    path = tmp_path / "cut.gguf"
    with open(MODEL, "rb") as whole:
        path.write_bytes(whole.read(size))
    assert "cut.gguf" in fails("serve", path, *PORTS)


def test_flipped_header(tmp_path):
    path = tmp_path / "flipped.gguf"
    data = bytearray(open(MODEL, "rb").read(1_000_000))
    data[20] ^= 0x80
    path.write_bytes(data)
    assert "flipped.gguf" in fails("serve", path, *PORTS)


def test_folder_with_broken_tokenizer(tmp_path):
    golden = os.path.join(os.environ["SHOAL_ROOT"], "tests/golden/llama-gqa")
    folder = tmp_path / "model"
    shutil.copytree(golden, folder)
    (folder / "tokenizer.json").write_text('{"version": "1.0", "model": 7}')
    assert "tokenizer.json" in fails("serve", folder, *PORTS)


def test_port_in_use():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = "127.0.0.1:%d" % taken.getsockname()[1]
        error = fails(
            "serve", MODEL, "--grpc-address", address,
            "--http-address", "127.0.0.1:0", within=10, after_loading=True,
        )
        assert address in error
        error = fails(
            "serve", MODEL, "--http-address", address,
            "--grpc-address", "127.0.0.1:0", within=10, after_loading=True,
        )
        assert address in error


def test_device_that_is_not_there():
    for command in ("serve", "bench"):
        assert "CUDA" in fails(command, MODEL, "--device", "cuda")


def test_unknown_flags_are_errors():
    for command in ("serve", "chat", "inspect", "bench", "health"):
        done = shoal(command, "--no-such-flag")
        assert done.returncode != 0
        assert shoal(command, "--help").returncode == 0


def test_inspect():
    done = shoal("inspect", MODEL)
    assert done.returncode == 0
    for word in ("llama", "49152", "Q4_1", "Q8_0", "23040"):
        assert word in done.stdout


def test_bench_prints_json():
    import json

    done = shoal(
        "bench", MODEL, "--batch", "1,2", "--prompt", "16", "--generate", "4",
        "--threads", "2", "--json",
    )
    results = json.loads(done.stdout)
    assert [r["batch"] for r in results] == [1, 2]
    for result in results:
        assert result["prefill_tokens_per_second"] > 0
        assert result["decode_tokens_per_second"] > 0
        assert result["ready_seconds"] > 0
        assert result["peak_rss_bytes"] > 50e6
        assert result["threads"] == 2


def test_every_instruction_set_can_be_forced(start_server):
    tokens = set()
    for isa in ("scalar", "auto"):
        server = start_server("--cpu-isa", isa)
        responses = server.inference.Generate(
            pb.GenerateRequest(
                text="The capital of France is",
                sampling=pb.Sampling(temperature=0),
                stopping=pb.Stopping(max_tokens=2),
            )
        )
        tokens.add("".join(r.text for r in responses))
    assert tokens == {" Paris."}


def test_sigterm_drains(start_server):
    server = start_server("--drain-seconds", "20")
    call = server.inference.Generate(
        pb.GenerateRequest(
            text="Tell me a story.",
            stopping=pb.Stopping(max_tokens=150, ignore_eos=True),
        )
    )
    next(call)
    server.process.send_signal(signal.SIGTERM)
    time.sleep(0.1)
    stub = health_pb2_grpc.HealthStub(server.channel)
    status = stub.Check(health_pb2.HealthCheckRequest()).status
    assert status == health_pb2.HealthCheckResponse.NOT_SERVING
    alive = stub.Check(health_pb2.HealthCheckRequest(service="liveness")).status
    assert alive == health_pb2.HealthCheckResponse.SERVING
    assert requests.get(server.url + "/ready", timeout=5).status_code == 503
    with pytest.raises(grpc.RpcError) as error:
        list(server.inference.Generate(pb.GenerateRequest(text="x")))
    assert error.value.code() == grpc.StatusCode.UNAVAILABLE
    responses = list(call)
    assert responses[-1].finish.usage.completion_tokens == 150
    assert server.process.wait(20) == 0


def test_drain_time_ends(start_server):
    server = start_server("--drain-seconds", "1")
    call = server.inference.Generate(
        pb.GenerateRequest(
            text="Tell me a story.",
            stopping=pb.Stopping(max_tokens=8000, ignore_eos=True),
        )
    )
    next(call)
    started = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    with pytest.raises(grpc.RpcError) as error:
        list(call)
    assert error.value.code() == grpc.StatusCode.UNAVAILABLE
    assert server.process.wait(20) == 0
    assert time.monotonic() - started < 8


def test_chat_in_the_terminal(server):
    done = shoal(
        "chat", "--address", server.grpc_address, "--temperature", "0",
        "--max-tokens", "8", input="Name a fish.\nAnother one.\n",
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.strip()) > 10


def test_interrupt_stops_the_reply_not_the_program(server):
    process = subprocess.Popen(
        [BINARY, "chat", "--address", server.grpc_address],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )
    process.stdin.write("Write a very long story about the sea.\n")
    process.stdin.flush()
    assert process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    server.await_idle(5)
    assert process.poll() is None
    process.stdin.close()
    assert process.wait(10) == 0


def test_health_command(server):
    done = shoal("health", "--address", server.grpc_address)
    assert (done.returncode, done.stdout) == (0, "SERVING\n")
    assert shoal("health", "--address", "127.0.0.1:1").returncode == 1
