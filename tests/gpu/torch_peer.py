"""Speed of PyTorch with transformers on the model that gpu_engine_bench wrote:
prefill and greedy decode, eager and compiled. Prints a JSON array.

    torch_peer.py MODEL_FOLDER --batch 1,8,64 --prompt 512 --generate 64
        [--compile]
"""
import argparse
import json
import pathlib
import statistics
import time

import torch
from transformers import AutoModelForCausalLM, StaticCache


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def synchronize():
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def numbers(text):
    return [int(part) for part in text.split(",")]


def run(model, step, batch, prompt, generate):
    """Seconds of the prefill, and of a decode step in the median."""
    generator = torch.Generator().manual_seed(42)
    ids = torch.randint(0, model.config.vocab_size, (batch, prompt),
                        generator=generator).to(DEVICE)
    cache = StaticCache(config=model.config, max_cache_len=prompt + generate)
    synchronize()
    start = time.perf_counter()
    for row in range(batch):  # one after the other, as gpu_engine_bench does
        model(ids[row:row + 1], logits_to_keep=1, past_key_values=StaticCache(
            config=model.config, max_cache_len=prompt))
        synchronize()
    prefill = time.perf_counter() - start
    logits = model(ids, past_key_values=cache, logits_to_keep=1).logits
    steps = []
    for i in range(generate - 1):
        token = logits[:, -1].argmax(-1, keepdim=True)
        synchronize()
        start = time.perf_counter()
        logits = step(
            token, past_key_values=cache,
            cache_position=torch.tensor([prompt + i], device=DEVICE)).logits
        synchronize()
        steps.append(time.perf_counter() - start)
    return prefill, statistics.median(steps)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--batch", type=numbers, default=[1, 8, 64])
    parser.add_argument("--prompt", type=numbers, default=[512])
    parser.add_argument("--generate", type=int, default=64)
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(
        options.model, dtype=torch.bfloat16, device_map=DEVICE)
    model.eval()
    step = torch.compile(model, mode="reduce-overhead") \
        if options.compile else model
    results = []
    with torch.inference_mode():
        run(model, step, 1, 32, 8)
        for batch in options.batch:
            for prompt in options.prompt:
                run(model, step, batch, 32, 8)
                prefill, decode = run(model, step, batch, prompt,
                                      options.generate)
                results.append({
                    "model": pathlib.Path(options.model).name,
                    "layers": model.config.num_hidden_layers,
                    "mode": "compiled" if options.compile else "eager",
                    "batch": batch,
                    "prompt": prompt,
                    "prefill_tokens_per_second": batch * prompt / prefill,
                    "decode_tokens_per_second": batch / decode,
                })
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
