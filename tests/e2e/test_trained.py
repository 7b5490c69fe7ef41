"""A trained DeepSeek-V3 continues text as its oracle does.

psalm-moe's weights were learned, so its router, its correction bias and its
logits are of the kind that real models have. It follows no instruction: of chat
only the form is looked at.
"""

import concurrent.futures
import json

import pytest
from conftest import ROOT, Server

from shoal.v1 import inference_pb2 as pb

MODEL = ROOT / "tests/golden/real/psalm-moe"
PROMPTS = json.loads((MODEL / "oracle.json").read_text())["prompts"]
MESSAGES = [
    {"role": "user", "content": "The LORD is my shepherd; "},
    {"role": "assistant", "content": "I shall not want."},
    {"role": "user", "content": "\n2 He maketh me to lie down"},
]

each_prompt = pytest.mark.parametrize(
    "prompt", PROMPTS, ids=lambda prompt: prompt["name"]
)


def serve(*arguments):
    server = Server(*arguments, model=MODEL)
    try:
        yield server
        server.await_idle()
        assert server.stop() == 0
    finally:
        server.process.kill()
        server.process.wait()


@pytest.fixture(scope="module")
def exact():
    """A server that computes as the oracle did, in f32."""
    yield from serve("--dtype", "f32")


@pytest.fixture(scope="module")
def chunked():
    """Every prompt computed anew, 16 tokens at a time."""
    yield from serve(
        "--dtype", "f32", "--no-prefix-caching", "--max-num-batched-tokens", "16"
    )


@pytest.fixture(scope="module")
def fast():
    """A server as it starts by default."""
    yield from serve()


def generate(server, ids, max_tokens):
    return server.inference.Generate(
        pb.GenerateRequest(
            token_ids=pb.TokenIds(ids=ids),
            sampling=pb.Sampling(temperature=0),
            stopping=pb.Stopping(max_tokens=max_tokens),
            options=pb.Options(token_ids=True),
        )
    )


def tokens(call):
    return [id for response in call for id in response.token_ids]


def complete(server, prompt, **options):
    client = server.openai()
    return client.completions.create(
        model=client.models.list().data[0].id,
        prompt=prompt["ids"],
        temperature=0,
        max_tokens=len(prompt["greedy"]),
        **options,
    )


def complete_streamed(server, prompt):
    """Its text, and the number of chunks that brought it."""
    pieces = [
        chunk.choices[0].text
        for chunk in complete(server, prompt, stream=True)
        if chunk.choices
    ]
    return "".join(pieces), len(pieces)


@each_prompt
def test_generate_gives_the_oracles_tokens(exact, prompt):
    responses = list(generate(exact, prompt["ids"], len(prompt["greedy"])))
    assert "".join(r.text for r in responses) == prompt["text_out"]
    assert tokens(responses) == prompt["greedy"]
    usage = responses[-1].finish.usage
    assert usage.prompt_tokens == len(prompt["ids"])
    assert usage.completion_tokens == len(prompt["greedy"])


@each_prompt
def test_completion_gives_the_oracles_text(exact, prompt):
    answer = complete(exact, prompt)
    assert answer.choices[0].text == prompt["text_out"]
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.prompt_tokens == len(prompt["ids"])
    assert answer.usage.completion_tokens == len(prompt["greedy"])


@each_prompt
def test_streamed_completion_gives_the_oracles_text(exact, prompt):
    text, chunks = complete_streamed(exact, prompt)
    assert text == prompt["text_out"]
    assert chunks > 10


def test_all_prompts_beside_each_other(exact):
    """Rows of a step that other clients' rows share."""
    with concurrent.futures.ThreadPoolExecutor(2 * len(PROMPTS)) as pool:
        whole = [pool.submit(complete, exact, prompt) for prompt in PROMPTS]
        streamed = [
            pool.submit(complete_streamed, exact, prompt) for prompt in PROMPTS
        ]
        calls = [
            generate(exact, prompt["ids"], len(prompt["greedy"]))
            for prompt in PROMPTS
        ]
        texts = [prompt["text_out"] for prompt in PROMPTS]
        assert [tokens(call) for call in calls] == [
            prompt["greedy"] for prompt in PROMPTS
        ]
        assert [w.result().choices[0].text for w in whole] == texts
        assert [s.result()[0] for s in streamed] == texts


@each_prompt
def test_chunks_give_the_oracles_tokens(chunked, prompt):
    call = generate(chunked, prompt["ids"], len(prompt["greedy"]))
    assert tokens(call) == prompt["greedy"]


def test_text_is_encoded_as_the_oracle_did(exact):
    for prompt in PROMPTS:
        request = pb.TokenizeRequest(text=prompt["text"], add_special_tokens=True)
        ids = list(exact.inference.Tokenize(request).token_ids)
        assert ids == prompt["ids"]


def test_chat_over_http(exact):
    client = exact.openai()
    answer = client.chat.completions.create(
        model=client.models.list().data[0].id, messages=MESSAGES,
        temperature=0, max_completion_tokens=16,
    )
    assert answer.choices[0].message.content.strip()
    assert answer.usage.prompt_tokens > 10
    assert 0 < answer.usage.completion_tokens <= 16
    assert answer.usage.total_tokens == (
        answer.usage.prompt_tokens + answer.usage.completion_tokens
    )


def test_chat_over_grpc(exact):
    responses = list(
        exact.inference.Chat(
            pb.ChatRequest(
                messages=[pb.Message(**message) for message in MESSAGES],
                sampling=pb.Sampling(temperature=0),
                stopping=pb.Stopping(max_tokens=16),
            )
        )
    )
    assert "".join(r.content for r in responses).strip()
    usage = responses[-1].finish.usage
    assert usage.prompt_tokens == responses[0].start.prompt_tokens > 10
    assert 0 < usage.completion_tokens <= 16


@each_prompt
def test_fast_mode_agrees_where_the_oracle_is_sure(fast, prompt):
    """Each step after the oracle's own tokens: a close step may turn."""
    sure = [
        step for step, margin in enumerate(prompt["margins"]) if margin > 0.5
    ][:8]
    assert len(sure) == 8
    calls = [
        generate(fast, prompt["ids"] + prompt["greedy"][:step], 1)
        for step in sure
    ]
    assert [tokens(call) for call in calls] == [
        [prompt["greedy"][step]] for step in sure
    ]
