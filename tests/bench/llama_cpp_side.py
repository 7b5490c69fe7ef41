"""llama.cpp's half of peers.py, which runs this file in the environment that
has llama-cpp-python. Every command prints one JSON value.

  info                                      what it was built for
  bench MODEL ...                           speed, as `shoal bench --json`
  tokenize MODEL                            ids of the text on stdin
  logits MODEL --tokens IN --out OUT        as `shoal logits`
  divergence REFERENCE CANDIDATE            of two files of logits
"""

import argparse
import ctypes
import json
import pathlib
import struct
import sys
import time

import llama_cpp
import numpy as np

BATCH = 512  # tokens of a llama_decode; what a step of Shoal holds at most
ERROR = 4  # GGML_LOG_LEVEL_ERROR
FLASH_ATTENTION = {"auto": -1, "off": 0, "on": 1}


@llama_cpp.llama_log_callback
def log_errors(level, text, _):
    if level == ERROR:
        sys.stderr.write(text.decode(errors="replace"))


def fail(message):
    sys.exit(f"llama.cpp: {message}")


class Model:
    def __init__(self, path, threads=1, flash_attention="auto"):
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 0
        self.threads = threads
        self.flash_attention = flash_attention
        self.model = llama_cpp.llama_model_load_from_file(
            str(path).encode(), params)
        if not self.model:
            fail(f"cannot load {path}")
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.vocab_size = llama_cpp.llama_vocab_n_tokens(self.vocab)

    def context(self, sequences, tokens):
        """A context that holds `tokens` of each of the sequences."""
        params = llama_cpp.llama_context_default_params()
        # A sequence's share of the cache is a multiple of 256 tokens.
        params.n_ctx = sequences * (-(-tokens // 256) * 256)
        params.n_seq_max = sequences
        params.n_batch = params.n_ubatch = BATCH
        params.n_threads = params.n_threads_batch = self.threads
        params.flash_attn_type = FLASH_ATTENTION[self.flash_attention]
        params.no_perf = True
        return Context(self, params)

    def tokenize(self, text):
        ids = (llama_cpp.llama_token * (len(text) + 16))()
        count = llama_cpp.llama_tokenize(
            self.vocab, text, len(text), ids, len(ids), True, False)
        if count < 0:
            fail("the text does not tokenise")
        return list(ids[:count])


class Context:
    def __init__(self, model, params):
        self.vocab_size = model.vocab_size
        self.context = llama_cpp.llama_init_from_model(model.model, params)
        if not self.context:
            fail(f"no context of {params.n_ctx} tokens")
        self.batch = llama_cpp.llama_batch_init(BATCH, 0, 1)

    def close(self):
        llama_cpp.llama_batch_free(self.batch)
        llama_cpp.llama_free(self.context)

    def clear(self):
        llama_cpp.llama_memory_clear(
            llama_cpp.llama_get_memory(self.context), True)

    def decode(self, rows):
        """One step over rows of (token, position, sequence, with logits);
        the logits asked for, valid until the next step."""
        for i, (token, position, sequence, with_logits) in enumerate(rows):
            self.batch.token[i] = token
            self.batch.pos[i] = position
            self.batch.n_seq_id[i] = 1
            self.batch.seq_id[i][0] = sequence
            self.batch.logits[i] = with_logits
        self.batch.n_tokens = len(rows)
        status = llama_cpp.llama_decode(self.context, self.batch)
        if status != 0:
            fail(f"llama_decode returned {status}")
        outputs = sum(row[3] for row in rows)
        if outputs == 0:
            llama_cpp.llama_synchronize(self.context)
            return None
        logits = llama_cpp.llama_get_logits(self.context)
        address = ctypes.cast(logits, ctypes.POINTER(ctypes.c_float))
        return np.ctypeslib.as_array(address, (outputs, self.vocab_size))

    def prefill(self, tokens, sequence):
        """Logits of the last token only."""
        last = len(tokens) - 1
        for first in range(0, len(tokens), BATCH):
            logits = self.decode([
                (tokens[i], i, sequence, int(i == last))
                for i in range(first, min(first + BATCH, len(tokens)))])
        return logits


def bench(arguments):
    model = Model(arguments.model, arguments.threads, arguments.flash_attention)
    prompt, generate = arguments.prompt, arguments.generate
    random = np.random.default_rng(42)
    prompts = random.integers(
        model.vocab_size, size=(arguments.batch, prompt)).tolist()
    context = model.context(arguments.batch, prompt + generate)
    # Weights and buffers are touched before the clock starts, as in Shoal.
    warm = prompts[0][:BATCH]
    context.prefill(warm, 0)
    context.decode([(warm[0], len(warm), 0, 1)])
    context.clear()

    start = time.perf_counter()
    tokens = [int(context.prefill(prompt_ids, sequence)[0].argmax())
              for sequence, prompt_ids in enumerate(prompts)]
    prefilled = time.perf_counter()
    for i in range(generate - 1):
        logits = context.decode([
            (token, prompt + i, sequence, 1)
            for sequence, token in enumerate(tokens)])
        tokens = logits.argmax(axis=1).tolist()
    end = time.perf_counter()
    context.close()
    return {
        "prefill_tokens_per_second":
            arguments.batch * prompt / (prefilled - start),
        "decode_tokens_per_second":
            arguments.batch * (generate - 1) / (end - prefilled)
            if generate > 1 else 0,
    }


def read_safetensors(path):
    """Name -> array of a file with F32 and I64 tensors, mapped."""
    with open(path, "rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
    types = {"F32": "<f4", "I64": "<i8"}
    return {
        name: np.memmap(path, types[entry["dtype"]], "r",
                        8 + size + entry["data_offsets"][0],
                        tuple(entry["shape"]))
        for name, entry in header.items() if name != "__metadata__"}


def logits(arguments):
    prompt = read_safetensors(arguments.tokens)["prompt0.input_ids"].tolist()
    model = Model(arguments.model, arguments.threads, arguments.flash_attention)
    context = model.context(1, len(prompt))
    shape = [len(prompt), model.vocab_size]
    header = json.dumps({"prompt0.logits": {
        "dtype": "F32", "shape": shape,
        "data_offsets": [0, 4 * shape[0] * shape[1]]}}).encode()
    with open(arguments.out, "wb") as out:
        out.write(struct.pack("<Q", len(header)) + header)
        for first in range(0, len(prompt), BATCH):
            out.write(context.decode([
                (prompt[i], i, 0, 1)
                for i in range(first, min(first + BATCH, len(prompt)))
            ]).astype("<f4").tobytes())
    context.close()
    return {"positions": len(prompt)}


def log_softmax(row):
    row = row.astype(np.float64)
    row = row - row.max()
    return row - np.log(np.exp(row).sum())


def divergence(arguments):
    """Of every position's next-token distribution: KL(reference||candidate)."""
    reference = read_safetensors(arguments.reference)["prompt0.logits"]
    candidate = read_safetensors(arguments.candidate)["prompt0.logits"]
    if reference.shape != candidate.shape:
        fail(f"logits of shape {reference.shape} and {candidate.shape}")
    kl, same = [], 0
    for expected, got in zip(reference, candidate):
        p, q = log_softmax(expected), log_softmax(got)
        kl.append(float((np.exp(p) * (p - q)).sum()))
        same += int(expected.argmax() == got.argmax())
    if not np.isfinite(kl).all():
        fail("a divergence is not finite")
    return {"positions": len(kl), "mean_kl": float(np.mean(kl)),
            "max_kl": max(kl), "same_top_token": same / len(kl)}


def info(_):
    return {"llama_cpp_python": llama_cpp.__version__,
            "system": llama_cpp.llama_print_system_info().decode()}


def tokenize(arguments):
    return Model(arguments.model).tokenize(sys.stdin.buffer.read())


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)

    def command(function, *paths):
        added = commands.add_parser(function.__name__)
        added.set_defaults(run=function)
        for path in paths:
            added.add_argument(path, type=pathlib.Path)
        return added

    command(info)
    command(tokenize, "model")
    command(divergence, "reference", "candidate")
    for added in (command(bench, "model"), command(logits, "model")):
        added.add_argument("--threads", type=int, required=True)
        added.add_argument("--flash-attention", choices=FLASH_ATTENTION,
                           default="auto")
    for name in ("--batch", "--prompt", "--generate"):
        commands.choices["bench"].add_argument(name, type=int, required=True)
    for name in ("--tokens", "--out"):
        commands.choices["logits"].add_argument(
            name, type=pathlib.Path, required=True)
    arguments = parser.parse_args()

    llama_cpp.llama_log_set(log_errors, None)
    llama_cpp.llama_backend_init()
    print(json.dumps(arguments.run(arguments)))


if __name__ == "__main__":
    main()
