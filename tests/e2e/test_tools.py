"""Command line tools that write files: synth and logits."""

import json
import struct

import pytest

from test_process import fails, shoal


def write_safetensors(path, tensors):
    """tensors: name -> (dtype, shape, bytes)."""
    header, data = {}, b""
    for name, (dtype, shape, values) in tensors.items():
        end = len(data) + len(values)
        header[name] = {
            "dtype": dtype, "shape": shape, "data_offsets": [len(data), end]}
        data += values
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def ids(*tokens):
    return ("I64", [len(tokens)], struct.pack(f"<{len(tokens)}q", *tokens))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("synth") / "tiny.gguf"
    done = shoal("synth", "tiny-v2", "--format", "q8_0", "--out", path)
    assert done.returncode == 0, done.stderr
    return path


def test_synth_says_what_is_wrong(tmp_path, model):
    def refused(*arguments):
        return fails("synth", *arguments)

    out = tmp_path / "out"
    assert "exists" in refused(
        "tiny-v2", "--format", "q8_0", "--out", model)
    assert "v2-lite" in refused("v9", "--format", "bf16", "--out", out)
    assert "q4_k" in refused("tiny-v2", "--format", "q9", "--out", out)
    assert not out.exists()


def test_logits_of_a_synthetic_model(tmp_path, model):
    given = write_safetensors(
        tmp_path / "in", {"prompt0.input_ids": ids(0, 7, 8),
                          "prompt1.input_ids": ids(9)})
    out = tmp_path / "out"
    done = shoal("logits", model, "--tokens", given, "--out", out,
                 "--greedy", 4, "--chunk", 2)
    assert done.returncode == 0, done.stderr
    content = out.read_bytes()
    (size,) = struct.unpack_from("<Q", content)
    header = json.loads(content[8:8 + size])
    assert header["prompt0.logits"]["shape"] == [3, 512]
    assert header["prompt1.logits"]["shape"] == [1, 512]
    assert header["prompt1.greedy"]["shape"] == [4]
    start = 8 + size + header["prompt1.logits"]["data_offsets"][0]
    row = struct.unpack_from("<512f", content, start)
    start = 8 + size + header["prompt1.greedy"]["data_offsets"][0]
    assert struct.unpack_from("<q", content, start)[0] == row.index(max(row))


@pytest.mark.parametrize("tensors, named", [
    ({"input_ids": ids(1)}, "prompt0.input_ids"),
    ({"prompt0.input_ids": ids(512)}, "512"),
    ({"prompt0.input_ids": ids(-1)}, "-1"),
    ({"prompt0.input_ids": ("I32", [1], b"\0" * 4)}, "I32"),
    ({"prompt0.input_ids": ("I64", [2], b"\0" * 8)}, "prompt0.input_ids"),
])
def test_logits_refuse_bad_input(tmp_path, model, tensors, named):
    given = write_safetensors(tmp_path / "in", tensors)
    out = tmp_path / "out"
    line = fails("logits", model, "--tokens", given, "--out", out)
    assert str(given) in line and named in line
    assert not out.exists()


def test_logits_refuse_files_that_are_not_there(tmp_path, model):
    absent = tmp_path / "absent"
    assert str(absent) in fails(
        "logits", model, "--tokens", absent, "--out", tmp_path / "out")
    assert str(absent) in fails(
        "logits", absent, "--tokens", absent, "--out", tmp_path / "out")
