"""The API as OpenAI's own client and plain HTTP see it, over a real cluster and a real model."""

from pathlib import Path

import openai
import pytest
from pydantic import BaseModel

from storage_tiers.checkpoint import Checkpoint
from storage_tiers.model_store import ModelStore
from storage_tiers.publishing.publish import publish
from tests.asking import get, post
from tests.reference import gaps, greedy, load_reference
from tests.smollm2 import reference_of
from tests.tiny import CHANGING_ROTATIONS, ROTATION_BORDER, make_overflowing, make_tiny

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


def test_a_chat_is_answered_whole(api: openai.OpenAI, smollm2: Checkpoint) -> None:
    answer = api.chat.completions.create(model="smollm2", messages=QUESTION, temperature=0, max_tokens=20)
    assert "Paris" in answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.prompt_tokens > 30
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_stream_says_the_same_as_the_whole_answer(api: openai.OpenAI, smollm2: Checkpoint) -> None:
    asked = {"model": "smollm2", "messages": QUESTION, "temperature": 0, "max_tokens": 20}
    whole = api.chat.completions.create(**asked)
    chunks = list(api.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage == whole.usage
    assert all("usage" in chunk.model_fields_set and chunk.usage is None for chunk in chunks[:-1])


def test_greedy_text_is_what_transformers_generates(
    api: openai.OpenAI, smollm2: Checkpoint, smollm2_exact: Checkpoint, shared_store: ModelStore
) -> None:
    """Token for token in float32; in bfloat16 the likeliest of two that lie a rounding step apart may be the other."""
    prompt = [1, 504, 3575, 282]
    expected = greedy(reference_of(shared_store, smollm2_exact, "float32"), prompt, 16)
    assert tokens_of(api, "smollm2-float32", prompt) == expected
    below = gaps(reference_of(shared_store, smollm2, "bfloat16"), prompt, tokens_of(api, "smollm2", prompt))
    assert len(below) == 16
    assert max(below) <= 0.25
    assert sum(gap == 0.0 for gap in below) >= 14


def tokens_of(api: openai.OpenAI, model: str, prompt: list[int]) -> list[int]:
    """16 greedy tokens."""
    answer = api.completions.create(
        model=model, prompt=prompt, temperature=0, max_tokens=16, extra_body={"return_token_ids": True}
    )
    tokens: list[int] = answer.choices[0].model_extra["token_ids"]
    return tokens


def test_a_seed_repeats_and_n_choices_differ(api: openai.OpenAI, smollm2: Checkpoint) -> None:
    asked = {"model": "smollm2", "prompt": "Once upon a time", "max_tokens": 12, "seed": 7, "n": 2, "temperature": 1.0}
    first, second = (api.completions.create(**asked) for _ in range(2))
    texts = [choice.text for choice in first.choices]
    assert [choice.text for choice in second.choices] == texts
    assert texts[0] != texts[1]
    assert [choice.index for choice in first.choices] == [0, 1]


def test_generation_ends_before_a_stop_string(api: openai.OpenAI, smollm2: Checkpoint) -> None:
    asked = {"model": "smollm2", "messages": QUESTION, "temperature": 0, "max_tokens": 20}
    answer = api.chat.completions.create(**asked, stop=["France"])
    assert answer.choices[0].message.content == "The capital of "
    assert answer.choices[0].finish_reason == "stop"


def test_several_prompts_are_numbered_in_order(api: openai.OpenAI, smollm2: Checkpoint) -> None:
    both = api.completions.create(model="smollm2", prompt=["One, two,", "Paris is"], temperature=0, max_tokens=4)
    single = [
        api.completions.create(model="smollm2", prompt=prompt, temperature=0, max_tokens=4).choices[0].text
        for prompt in ("One, two,", "Paris is")
    ]
    assert [choice.text for choice in both.choices] == single


def test_a_response_says_the_same_as_a_chat_whole_and_streamed(api: openai.OpenAI, smollm2: Checkpoint) -> None:
    asked = {"model": "smollm2", "temperature": 0}
    chat = api.chat.completions.create(messages=QUESTION, max_tokens=20, **asked)
    items = [{"role": "user", "content": [{"type": "input_text", "text": QUESTION[0]["content"]}]}]
    whole = api.responses.create(input=items, max_output_tokens=20, metadata={"for": "a test"}, **asked)
    assert whole.output_text == chat.choices[0].message.content
    assert (whole.status, whole.metadata) == ("completed", {"for": "a test"})
    assert (whole.usage.input_tokens, whole.usage.output_tokens) == (
        chat.usage.prompt_tokens, chat.usage.completion_tokens,
    )  # fmt: skip
    with api.responses.stream(input=QUESTION[0]["content"], max_output_tokens=20, **asked) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        assert text == stream.get_final_response().output_text == whole.output_text
    with pytest.raises(openai.BadRequestError) as caught:
        api.responses.create(input="x", max_output_tokens=100_000, **asked)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "max_output_tokens")


class _Capital(BaseModel):
    city: str
    inhabitants: int


def test_a_response_is_parsed_into_what_its_client_asks_for(api: openai.OpenAI, smollm2: Checkpoint) -> None:
    asked = {"model": "smollm2", "input": QUESTION[0]["content"], "temperature": 0, "max_output_tokens": 60}
    found = api.responses.parse(text_format=_Capital, **asked).output_parsed
    assert isinstance(found, _Capital)


def test_published_models_are_listed(api: openai.OpenAI, smollm2: Checkpoint) -> None:
    assert "smollm2" in [model.id for model in api.models.list()]
    assert api.models.retrieve("smollm2").id == "smollm2"


def test_an_unknown_model_is_404(api: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="'nobody' does not exist") as caught:
        api.chat.completions.create(model="nobody", messages=QUESTION)
    assert caught.value.param == "model"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", 3), ("temperature", "warm"), ("top_p", 0), ("top_k", -1), ("max_tokens", 0), ("n", 0), ("n", 99),
        ("presence_penalty", -3), ("frequency_penalty", 2.5), ("stop", 5), ("seed", "x"), ("messages", []),
        ("messages", [{"role": "user"}]), ("tools", [{"type": "function"}]), ("logprobs", 5), ("top_logprobs", 3),
        ("logit_bias", {"word": 1}), ("logit_bias", {"5": 101}), ("min_p", 1.5), ("repetition_penalty", 0),
    ],
)  # fmt: skip
def test_a_bad_parameter_is_400_and_named(frontend: str, smollm2: Checkpoint, field: str, value: object) -> None:
    body = {"model": "smollm2", "messages": QUESTION, field: value}
    answer = post(f"{frontend}/v1/chat/completions", json=body, timeout=30)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert field in (error["param"] or "") + error["message"]


def test_a_body_that_is_not_json_is_400(frontend: str) -> None:
    answer = post(f"{frontend}/v1/chat/completions", content=b"{nope", timeout=30)
    assert answer.status_code == 400
    assert "JSON" in answer.json()["error"]["message"]


def test_a_prompt_longer_than_the_context_is_400_with_both_numbers(
    api: openai.OpenAI, shared_store: ModelStore, tmp_path: Path
) -> None:
    publish(str(make_tiny("llama", tmp_path / "source", max_position_embeddings=32)), "short-context", shared_store)
    with pytest.raises(openai.BadRequestError, match=r"prompt has 40 tokens.*more than the 32"):
        api.completions.create(model="short-context", prompt=[5] * 40, max_tokens=1)
    with pytest.raises(openai.BadRequestError, match=r"30 tokens and max_tokens is 9.*32"):
        api.completions.create(model="short-context", prompt=[5] * 30, max_tokens=9)


def test_a_model_without_tokenizer_takes_tokens(api: openai.OpenAI, shared_store: ModelStore, tmp_path: Path) -> None:
    source = make_tiny("qwen2", tmp_path / "source", seed=11)
    publish(str(source), "no-tokenizer", shared_store)
    answer = api.completions.create(
        model="no-tokenizer", prompt=[9, 8, 7], temperature=0, max_tokens=8, extra_body={"return_token_ids": True}
    )
    assert answer.choices[0].model_extra["token_ids"] == greedy(load_reference(source), [9, 8, 7], 8)
    with pytest.raises(openai.BadRequestError, match="without a tokenizer"):
        api.chat.completions.create(model="no-tokenizer", messages=QUESTION)
    with pytest.raises(openai.BadRequestError, match="vocabulary of 256"):
        api.completions.create(model="no-tokenizer", prompt=[9, 999])


def test_a_model_that_gives_no_numbers_is_an_error_that_names_it(
    api: openai.OpenAI, shared_store: ModelStore, tmp_path: Path
) -> None:
    """It was arbitrary text with status 200. Who asks for what the model can do is served as before."""
    source = make_overflowing(tmp_path / "source", token=7)
    publish(str(source), "overflowing", shared_store)
    with pytest.raises(openai.InternalServerError, match=r"overflowing failed: .*not finite numbers") as whole:
        api.completions.create(model="overflowing", prompt=[5, 7], max_tokens=4)
    assert (whole.value.status_code, whole.value.code) == (500, "model_failed")
    with pytest.raises(openai.APIError, match=r"overflowing failed: .*not finite numbers"):
        list(api.completions.create(model="overflowing", prompt=[5, 7], max_tokens=4, stream=True))
    expected = greedy(load_reference(source), [5, 6], 4)
    assert tokens_of(api, "overflowing", [5, 6])[: len(expected)] == expected


@pytest.mark.parametrize("prompt_tokens", [20, 40])
def test_a_context_that_scaling_stretches_can_be_used(
    api: openai.OpenAI, shared_store: ModelStore, tmp_path: Path, prompt_tokens: int
) -> None:
    """A dynamic scaling by 2 of 32 positions takes 64: an answer across them, and a prompt beyond them."""
    family, options = CHANGING_ROTATIONS[0]
    source = make_tiny(family, tmp_path / "source", seed=12, eos_token_id=None, **options)
    name = f"stretched-{prompt_tokens}"
    publish(str(source), name, shared_store)
    prompt = [5 + token for token in range(prompt_tokens)]
    answer = api.completions.create(
        model=name, prompt=prompt, temperature=0, max_tokens=24, extra_body={"return_token_ids": True}
    )
    assert answer.choices[0].model_extra["token_ids"] == greedy(load_reference(source), prompt, 24)
    with pytest.raises(openai.BadRequestError, match=f"together more than the {2 * ROTATION_BORDER} tokens"):
        api.completions.create(model=name, prompt=prompt, max_tokens=65 - prompt_tokens)


def test_a_cold_start_leaves_its_ledger(
    api: openai.OpenAI, frontend: str, shared_store: ModelStore, tmp_path: Path
) -> None:
    checkpoint = publish(str(make_tiny("llama", tmp_path / "source", seed=21)), "ledger", shared_store)
    api.completions.create(model="ledger", prompt=[5, 6], temperature=0, max_tokens=2)
    (start,) = get(f"{frontend}/admin/cold-starts", params={"model": "ledger"}).json()["cold_starts"]
    assert start["degree"] == 4
    assert len(set(start["nodes"])) == 4
    fetched = [phase for phase in start["phases"] if phase["name"].startswith("fetch")]
    assert {phase["name"].removeprefix("fetch ") for phase in fetched} == {unit.name for unit in checkpoint.units}
    assert sum(phase["bytes"] for phase in fetched) == checkpoint.size_bytes
    assert {"receive and tokenise", "decide", "form group", "join group", "build skeleton", "first step"} <= {
        phase["name"] for phase in start["phases"]
    }
    assert all(0 <= phase["start_s"] <= phase["end_s"] for phase in start["phases"])


def test_health_metrics_and_status(api: openai.OpenAI, frontend: str, smollm2: Checkpoint) -> None:
    api.chat.completions.create(model="smollm2", messages=QUESTION, max_tokens=2)
    assert get(f"{frontend}/healthz").json() == {"status": "ok", "nodes": 4}
    text = get(f"{frontend}/metrics").text
    assert "firsttoken_nodes 4.0" in text
    assert 'firsttoken_requests_total{model="smollm2",outcome="served"}' in text
    status = get(f"{frontend}/admin/status").json()
    assert [node["name"] for node in status["nodes"]] == ["node-0", "node-1", "node-2", "node-3"]
    (replica,) = [replica for replica in status["replicas"] if replica["model"] == "smollm2"]
    assert replica["state"] == "serving"
