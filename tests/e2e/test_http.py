"""What the HTTP port does with requests that are not good ones."""

import json
import socket
import threading
import time
import urllib.parse

import pytest
import requests


def post(server, body, path="/v1/chat/completions", **options):
    if not isinstance(body, (bytes, str)):
        body = json.dumps(body)
    headers = {"Content-Type": "application/json", **options.pop("headers", {})}
    return requests.post(
        server.url + path, data=body, headers=headers, timeout=30, **options
    )


def chat(**fields):
    return {"messages": [{"role": "user", "content": "Hi"}], **fields}


@pytest.mark.parametrize(
    "body, param",
    [
        (chat(max_tokens=0), "max_tokens"),
        (chat(max_tokens=-1), "max_tokens"),
        (chat(max_tokens=2**63), "max_tokens"),
        ('{"messages":[{"role":"user","content":"Hi"}],"temperature":NaN}', None),
        (chat(temperature=-0.1), "temperature"),
        (chat(temperature="hot"), "temperature"),
        (chat(n=10**9), "n"),
        (chat(logit_bias={"1000000": 1}), "logit_bias"),
        (chat(top_p=0), "top_p"),
        ({"messages": []}, "messages"),
        ({}, "messages"),
        ("[" * 100000 + "]" * 100000, None),
        ("{", None),
        ("", None),
        (b'{"messages":[{"role":"user","content":"\xff\xfe"}]}', None),
    ],
)
def test_bad_body_is_a_400_that_names_the_parameter(server, body, param):
    response = post(server, body)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["message"]
    if param:
        assert error["param"] == param


def test_unknown_route_method_and_content_type(server):
    assert requests.get(server.url + "/nowhere", timeout=5).status_code == 404
    wrong = requests.get(server.url + "/v1/chat/completions", timeout=5)
    assert wrong.status_code == 405
    assert "POST" in wrong.headers["Allow"]
    text = post(server, chat(), headers={"Content-Type": "text/plain"})
    assert text.status_code == 415


def test_body_over_the_limit(server):
    response = post(server, chat(user="x" * (5 << 20)))
    assert response.status_code == 413


def connect(server):
    address = urllib.parse.urlparse(server.url)
    return socket.create_connection((address.hostname, address.port), 10)


def test_half_a_request_hurts_nobody(server):
    with connect(server) as half:
        half.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
            b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
        )
        assert requests.get(server.url + "/health", timeout=5).ok


def test_a_client_that_vanishes_is_cancelled(server):
    before = server.outcomes()["cancelled"]
    body = json.dumps(chat(max_tokens=4000, stream=True, ignore_eos=True))
    client = connect(server)
    client.sendall(
        (
            "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
            "Content-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}"
        ).encode()
    )
    assert client.recv(100).startswith(b"HTTP/1.1 200")
    client.close()
    server.await_idle(3)
    assert server.outcomes()["cancelled"] == before + 1


def test_a_client_that_never_reads_delays_nobody(server):
    body = json.dumps(chat(max_tokens=4000, stream=True, ignore_eos=True))
    with connect(server) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.sendall(
            (
                "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
                "Content-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\n\r\n{body}"
            ).encode()
        )
        for _ in range(3):
            started = time.monotonic()
            assert post(server, chat(max_tokens=4)).ok
            assert time.monotonic() - started < 10


def test_tokenize_and_back(server):
    tokens = post(
        server, {"prompt": "Hello, world"}, "/tokenize"
    ).json()["tokens"]
    assert tokens
    text = post(server, {"tokens": tokens}, "/detokenize").json()["prompt"]
    assert text == "Hello, world"


def test_many_streams_each_end_once(server):
    ends = []

    def run(i):
        response = post(
            server,
            chat(max_tokens=8, stream=True, seed=i),
            stream=True,
        )
        lines = [line for line in response.iter_lines() if line]
        ends.append(lines.count(b"data: [DONE]"))

    threads = [threading.Thread(target=run, args=(i,)) for i in range(48)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ends == [1] * 48


def test_api_key_guards_both_ports(start_server, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("team:correct-horse\n")
    keys.chmod(0o600)
    server = start_server("--api-key-file", str(keys))
    assert post(server, chat(max_tokens=2)).status_code == 401
    wrong = {"Authorization": "Bearer correct-horsf"}
    assert post(server, chat(max_tokens=2), headers=wrong).status_code == 401
    right = {"Authorization": "Bearer correct-horse"}
    assert post(server, chat(max_tokens=2), headers=right).ok
    assert requests.get(server.url + "/health", timeout=5).ok

    import grpc
    from shoal.v1 import inference_pb2 as pb

    request = pb.GenerateRequest(text="x", stopping=pb.Stopping(max_tokens=2))
    with pytest.raises(grpc.RpcError) as error:
        list(server.inference.Generate(request))
    assert error.value.code() == grpc.StatusCode.UNAUTHENTICATED
    metadata = [("authorization", "Bearer correct-horse")]
    assert list(server.inference.Generate(request, metadata=metadata))


def test_tls_on_both_ports(start_server, tmp_path):
    import subprocess

    import grpc
    from shoal.v1 import inference_pb2 as pb
    from shoal.v1 import inference_pb2_grpc

    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes",
            "-keyout", key, "-out", certificate, "-days", "1",
            "-subj", "/CN=localhost",
            "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
        ],
        check=True, capture_output=True,
    )
    server = start_server(
        "--tls-certificate", str(certificate), "--tls-key", str(key)
    )
    assert server.url.startswith("https://")
    health = requests.get(
        server.url + "/health", verify=str(certificate), timeout=5
    )
    assert health.ok
    credentials = grpc.ssl_channel_credentials(certificate.read_bytes())
    with grpc.secure_channel(server.grpc_address, credentials) as channel:
        stub = inference_pb2_grpc.InferenceStub(channel)
        assert stub.GetModel(pb.GetModelRequest()).vocab_size == 49152
