"""OpenAI's HTTP dialect by OpenAI's own client."""

import openai
import pytest


@pytest.fixture
def client(server):
    return server.openai()


MESSAGES = [{"role": "user", "content": "Name three fish."}]


def test_models(client):
    (model,) = client.models.list().data
    assert model.id == "SmolLM2-135M-Instruct.Q4_1"


def test_chat_whole_and_streamed_agree(client):
    options = dict(
        model="", messages=MESSAGES, temperature=0, max_completion_tokens=24
    )
    options["model"] = client.models.list().data[0].id
    whole = client.chat.completions.create(**options)
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage.completion_tokens == 24
    chunks = list(
        client.chat.completions.create(
            **options, stream=True, stream_options={"include_usage": True}
        )
    )
    text = "".join(
        c.choices[0].delta.content or "" for c in chunks if c.choices
    )
    assert text == whole.choices[0].message.content
    assert len(chunks) > 10
    assert chunks[-1].usage.completion_tokens == 24
    assert chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens


def test_completion_with_logprobs_and_stop(client):
    model = client.models.list().data[0].id
    answer = client.completions.create(
        model=model, prompt="The capital of France is", temperature=0,
        max_tokens=8, logprobs=2, stop=["."],
    )
    choice = answer.choices[0]
    assert choice.text == " Paris"
    assert choice.finish_reason == "stop"
    assert choice.logprobs.tokens[0] == " Paris"
    assert len(choice.logprobs.top_logprobs[0]) == 2


def test_seed_repeats(client):
    model = client.models.list().data[0].id

    def text(seed):
        return client.chat.completions.create(
            model=model, messages=MESSAGES, seed=seed, max_tokens=16,
            temperature=1,
        ).choices[0].message.content

    assert text(3) == text(3)
    assert len({text(seed) for seed in range(5)}) > 1


def test_unknown_model(client):
    with pytest.raises(openai.NotFoundError) as error:
        client.chat.completions.create(model="gpt-4", messages=MESSAGES)
    assert error.value.code == "model_not_found"


def test_too_long_prompt(client):
    model = client.models.list().data[0].id
    with pytest.raises(openai.BadRequestError) as error:
        client.completions.create(model=model, prompt="word " * 20000)
    assert error.value.code == "context_length_exceeded"


def test_stream_that_is_dropped_is_cancelled(server):
    client = server.openai()
    before = server.outcomes()["cancelled"]
    stream = client.chat.completions.create(
        model=client.models.list().data[0].id, messages=MESSAGES,
        max_tokens=4000, stream=True, extra_body={"ignore_eos": True},
    )
    next(iter(stream))
    stream.close()
    server.await_idle(3)
    assert server.outcomes()["cancelled"] == before + 1
