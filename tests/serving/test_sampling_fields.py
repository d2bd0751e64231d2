"""Log probabilities, bias, min_p and repetition_penalty, as OpenAI's own client gets them from a real cluster."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
import torch

from storage_tiers.checkpoint import Checkpoint
from storage_tiers.model_store import ModelStore
from storage_tiers.publishing.publish import publish
from tests.reference import load_reference
from tests.serving.tokenizers import LocalText
from tests.smollm2 import reference_of
from tests.tiny import make_tiny

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
PROMPT = [1, 504, 3575, 282]
TINY_PROMPT = [9, 8, 7, 9]
BFLOAT16_LOGPROB = 0.3
"""Two steps of bfloat16 (0.125) at the size of SmolLM2's logits, and a little for the sum below them."""


@pytest.fixture(scope="module")
def text(shared_store: ModelStore, smollm2: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> LocalText:
    files = {file.name: shared_store.read_file(smollm2.name, file) for file in smollm2.files}
    return LocalText(tmp_path_factory.mktemp("tokenizer"), files)


@pytest.fixture(scope="module")
def tiny(shared_store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> torch.nn.Module:
    """transformers' own of a model in float32, without tokenizer, published as tiny-float32."""
    source = make_tiny("llama", tmp_path_factory.mktemp("tiny") / "source", seed=41, eos_token_id=None)
    publish(str(source), "tiny-float32", shared_store)
    return load_reference(source)


def completed(api: openai.OpenAI, **asked: Any) -> Any:
    """The one choice of a completion, with its tokens as `ids`."""
    body = {"return_token_ids": True, **asked.pop("extra_body", {})}
    (choice,) = api.completions.create(**{"model": "smollm2", "prompt": PROMPT, "extra_body": body, **asked}).choices
    choice.ids = choice.model_extra["token_ids"]
    return choice


def streamed(api: openai.OpenAI, **asked: Any) -> list[Any]:
    """The choices of a stream's chunks."""
    chunks = api.completions.create(**{"model": "smollm2", "prompt": PROMPT, "stream": True, **asked})
    return [chunk.choices[0] for chunk in chunks]


def logprobs_of(model: torch.nn.Module, prompt: list[int], generated: list[int]) -> torch.Tensor:
    """transformers' own log probabilities (generated, vocabulary) at each place of an answer."""
    with torch.inference_mode():
        logits = model(torch.tensor([[*prompt, *generated]])).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits.float(), -1)


def of_chosen(logprobs: torch.Tensor, generated: list[int]) -> list[float]:
    return logprobs.gather(1, torch.tensor(generated)[:, None])[:, 0].tolist()


def test_log_probabilities_are_transformers_own(
    api: openai.OpenAI, smollm2: Checkpoint, shared_store: ModelStore, text: LocalText
) -> None:
    choice = completed(api, temperature=0, max_tokens=16, logprobs=5)
    expected = logprobs_of(reference_of(shared_store, smollm2, "bfloat16"), PROMPT, choice.ids)
    told = choice.logprobs
    assert told.token_logprobs == pytest.approx(of_chosen(expected, choice.ids), abs=BFLOAT16_LOGPROB)
    assert told.tokens == [text.token(token).text for token in choice.ids]
    assert "".join(told.tokens) == choice.text
    for token, logprob, top, row in zip(told.tokens, told.token_logprobs, told.top_logprobs, expected, strict=True):
        assert top[token] == logprob == max(top.values())
        assert list(top.values()) == pytest.approx(row.topk(5).values.tolist(), abs=BFLOAT16_LOGPROB)


def test_in_float32_they_are_the_same_to_the_fifth_digit(api: openai.OpenAI, tiny: torch.nn.Module) -> None:
    """Of the model's own distribution, whatever changes the odds; the chosen one is told although it is unlikely."""
    changed = {"min_p": 0.01, "repetition_penalty": 1.3}
    choice = completed(
        api, model="tiny-float32", prompt=TINY_PROMPT, max_tokens=40, seed=3, temperature=1.5, logprobs=2,
        presence_penalty=1.0, logit_bias={"5": 3}, extra_body=changed,
    )  # fmt: skip
    expected = logprobs_of(tiny, TINY_PROMPT, choice.ids)
    assert choice.logprobs.token_logprobs == pytest.approx(of_chosen(expected, choice.ids), abs=1e-4)
    assert choice.logprobs.tokens == [f"token_id:{token}" for token in choice.ids]
    for token, top, row in zip(choice.ids, choice.logprobs.top_logprobs, expected, strict=True):
        assert set(top) == {f"token_id:{likely}" for likely in (*row.topk(2).indices.tolist(), token)}
    assert any(len(top) == 3 for top in choice.logprobs.top_logprobs)


def test_a_chat_tells_every_token_and_as_many_likely_ones_as_asked(
    api: openai.OpenAI, smollm2: Checkpoint, text: LocalText
) -> None:
    asked = {"model": "smollm2", "messages": QUESTION, "temperature": 0, "max_tokens": 20, "logprobs": True}
    answer = api.chat.completions.create(**asked, top_logprobs=20)
    content = answer.choices[0].logprobs.content
    assert len(content) == answer.usage.completion_tokens
    assert b"".join(bytes(told.bytes or ()) for told in content).decode() == answer.choices[0].message.content
    assert (content[-1].token, content[-1].bytes) == ("<|im_end|>", None)
    for told in content:
        likely = told.top_logprobs
        assert len(likely) == 20
        assert (told.token, told.bytes, told.logprob) == (likely[0].token, likely[0].bytes, likely[0].logprob)
        assert [other.logprob for other in likely] == sorted((other.logprob for other in likely), reverse=True)
    none_likely = api.chat.completions.create(**asked).choices[0].logprobs.content
    assert [(told.token, told.top_logprobs) for told in none_likely] == [(told.token, []) for told in content]


def test_without_being_asked_nothing_is_told(api: openai.OpenAI, smollm2: Checkpoint) -> None:
    asked = {"model": "smollm2", "messages": QUESTION, "max_tokens": 3, "logprobs": False}
    assert api.chat.completions.create(**asked).choices[0].logprobs is None
    assert all(chunk.choices[0].logprobs is None for chunk in api.chat.completions.create(**asked, stream=True))


@pytest.mark.parametrize("stop", [None, ["France"], ["is Par", "apit"]])
def test_a_stream_tells_what_the_whole_answer_tells(
    api: openai.OpenAI, smollm2: Checkpoint, stop: list[str] | None
) -> None:
    asked = {"model": "smollm2", "messages": QUESTION, "temperature": 0, "max_tokens": 20, "stop": stop}
    asked |= {"logprobs": True, "top_logprobs": 3}
    whole = api.chat.completions.create(**asked).choices[0]
    choices = [chunk.choices[0] for chunk in api.chat.completions.create(**asked, stream=True)]
    told = [entry for choice in choices if choice.logprobs for entry in choice.logprobs.content]
    assert "".join(choice.delta.content or "" for choice in choices) == whole.message.content
    assert told == whole.logprobs.content


@pytest.mark.parametrize(
    ("stop", "shown", "told"),
    [
        (" France", "The capital of", ["The", " capital", " of"]),
        ("France", "The capital of ", ["The", " capital", " of", " France"]),
        ("The", "", []),
        ("of Fr", "The capital ", ["The", " capital", " of"]),
    ],
)
def test_what_a_stop_string_cuts_off_has_no_log_probability(
    api: openai.OpenAI, smollm2: Checkpoint, stop: str, shown: str, told: list[str]
) -> None:
    """A token that the cut falls into is told whole."""
    answer = api.chat.completions.create(
        model="smollm2", messages=QUESTION, temperature=0, max_tokens=20, logprobs=True, stop=stop
    ).choices[0]
    assert (answer.message.content, answer.finish_reason) == (shown, "stop")
    assert [entry.token for entry in answer.logprobs.content] == told


def spelled(text: LocalText, character: str) -> dict[str, Any]:
    """Makes a model write the tokens of `character` one after the other: what was written counts half from then on."""
    tokens = text.encode(character)
    assert len(tokens) == len(set(tokens)) >= 3
    bias = {str(token): 100 - 10 * index for index, token in enumerate(tokens)}
    return {"temperature": 0, "logit_bias": bias, "extra_body": {"repetition_penalty": 2.0}}


def test_parts_of_a_character_come_together_when_it_is_complete(api: openai.OpenAI, text: LocalText) -> None:
    tokens = text.encode("🧿")
    choices = streamed(api, **spelled(text, "🧿"), max_tokens=len(tokens), logprobs=0)
    assert "".join(choice.text for choice in choices) == "🧿"
    (told,) = [choice.logprobs for choice in choices if choice.logprobs]
    assert next(choice.text for choice in choices if choice.logprobs) == "🧿"
    assert told.tokens == [text.token(token).text for token in tokens]
    assert told.text_offset == [0] * len(tokens)


def test_parts_of_a_character_that_was_not_completed_are_told_at_the_end(api: openai.OpenAI, text: LocalText) -> None:
    tokens = text.encode("🧿")[:-1]
    choice = completed(api, **spelled(text, "🧿"), max_tokens=len(tokens), logprobs=0)
    assert (choice.text, choice.finish_reason) == ("\ufffd", "length")
    assert choice.logprobs.tokens == [text.token(token).text for token in tokens]


def test_offsets_say_where_in_the_answer_a_token_begins(api: openai.OpenAI, smollm2: Checkpoint) -> None:
    asked = {"prompt": "One, two,", "max_tokens": 12, "seed": 5, "logprobs": 1}
    choice = completed(api, **asked)
    told = choice.logprobs
    ends = [*told.text_offset[1:], len(choice.text)]
    assert [choice.text[start:end] for start, end in zip(told.text_offset, ends, strict=True)] == told.tokens
    chunks = [chunk.logprobs for chunk in streamed(api, **asked) if chunk.logprobs]
    for field in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        assert [value for chunk in chunks for value in getattr(chunk, field)] == getattr(told, field)


def test_every_choice_has_log_probabilities_of_its_own(api: openai.OpenAI, smollm2: Checkpoint) -> None:
    answer = api.completions.create(
        model="smollm2", prompt=["Once upon a time", "Paris is"], n=2, max_tokens=5, seed=1, logprobs=0
    )
    assert ["".join(choice.logprobs.tokens) for choice in answer.choices] == [choice.text for choice in answer.choices]
    assert len({choice.text for choice in answer.choices}) == 4


def test_a_bias_of_100_forces_a_token_and_of_minus_100_forbids_it(api: openai.OpenAI, smollm2: Checkpoint) -> None:
    assert completed(api, logit_bias={"3575": 100}, max_tokens=6, seed=2).ids == [3575] * 6
    likeliest = completed(api, temperature=0, max_tokens=1).ids[0]
    without = completed(api, temperature=0, max_tokens=8, logit_bias={str(likeliest): -100}).ids
    assert likeliest not in without


def test_a_bias_outside_of_the_vocabulary_is_400(api: openai.OpenAI, smollm2: Checkpoint) -> None:
    with pytest.raises(openai.BadRequestError, match="outside of the model's vocabulary of 49152") as caught:
        completed(api, logit_bias={"49152": 1})
    assert caught.value.param == "logit_bias"
    with pytest.raises(openai.BadRequestError, match=r"logit_bias\.3575: it is more than 100"):
        completed(api, logit_bias={"3575": 101})


def test_a_min_p_of_one_is_greedy(api: openai.OpenAI, tiny: torch.nn.Module) -> None:
    """In float32: of tokens that are equally likely, as they often are in bfloat16, one is drawn."""
    asked = {"model": "tiny-float32", "prompt": TINY_PROMPT, "max_tokens": 40, "seed": 11}
    greedy = completed(api, **asked, temperature=0).ids
    assert completed(api, **asked, temperature=1.0, extra_body={"min_p": 1.0}).ids == greedy
    assert completed(api, **asked, temperature=1.0).ids != greedy


def test_a_repetition_penalty_is_transformers_own(api: openai.OpenAI, tiny: torch.nn.Module) -> None:
    asked = {"model": "tiny-float32", "prompt": TINY_PROMPT, "temperature": 0, "max_tokens": 40}
    ids = torch.tensor([TINY_PROMPT])
    with torch.inference_mode():
        out = tiny.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=40, do_sample=False, repetition_penalty=1.5
        )
    penalised = completed(api, **asked, extra_body={"repetition_penalty": 1.5}).ids
    assert penalised == out[0, len(TINY_PROMPT) :].tolist()
    assert penalised != completed(api, **asked).ids


def test_a_seed_gives_the_same_answer_alone_and_beside_others(api: openai.OpenAI, tiny: torch.nn.Module) -> None:
    asked = {
        "model": "tiny-float32", "prompt": TINY_PROMPT, "seed": 7, "max_tokens": 30, "logprobs": 3, "logit_bias": {"5": 1.5},
        "frequency_penalty": 0.4, "extra_body": {"min_p": 0.02, "repetition_penalty": 1.2, "top_k": 60},
    }  # fmt: skip
    others = [{**asked, "seed": seed, "prompt": TINY_PROMPT * (seed - 7), "max_tokens": 60} for seed in range(8, 14)]
    alone = completed(api, **asked)
    with ThreadPoolExecutor(len(others) + 1) as pool:
        beside, *rest = pool.map(lambda one: completed(api, **one), [asked, *others])
    assert beside.ids == alone.ids
    assert beside.logprobs.token_logprobs == pytest.approx(alone.logprobs.token_logprobs, abs=1e-4)
    assert len({tuple(other.ids) for other in rest}) == len(others)


def test_a_token_may_end_an_answer_and_another_may_not(api: openai.OpenAI, tiny: torch.nn.Module) -> None:
    """`stop_token_ids`, `min_tokens` and `ignore_eos` were passed over in silence."""
    asked = {"model": "tiny-float32", "prompt": TINY_PROMPT, "temperature": 0, "max_tokens": 30}
    whole = completed(api, **asked).ids
    end = whole[5]
    first = whole.index(end)
    stopped = completed(api, **asked, extra_body={"stop_token_ids": [end]})
    assert (stopped.ids, stopped.finish_reason) == (whole[: first + 1], "stop")
    barred = completed(api, **asked, extra_body={"stop_token_ids": [end], "min_tokens": 20})
    assert end not in barred.ids[:20]
    assert len(barred.ids) >= 20


def test_a_model_that_would_end_goes_on_for_as_long_as_is_asked(
    api: openai.OpenAI, smollm2: Checkpoint, text: LocalText
) -> None:
    asked = {"model": "smollm2", "messages": QUESTION, "temperature": 0, "max_tokens": 30}
    tokens: dict[str, list[int]] = {}
    for name, fields in (("plain", {}), ("held", {"min_tokens": 20}), ("on", {"ignore_eos": True})):
        answer = api.chat.completions.create(**asked, extra_body={"return_token_ids": True, **fields})
        tokens[name] = answer.choices[0].model_extra["token_ids"]
    (end,) = text.encode("<|im_end|>")
    assert tokens["plain"].index(end) == len(tokens["plain"]) - 1 < 19
    assert tokens["held"][: len(tokens["plain"]) - 1] == tokens["plain"][:-1]
    assert end not in tokens["held"][:20]
    assert len(tokens["held"]) >= 20
    assert tokens["on"][: len(tokens["plain"])] == tokens["plain"]
    assert len(tokens["on"]) == 30


def test_a_token_that_ends_an_answer_is_no_part_of_its_text(
    api: openai.OpenAI, smollm2: Checkpoint, text: LocalText
) -> None:
    """Also one that is text otherwise; a stop text counts only behind `min_tokens`."""
    asked = {"model": "smollm2", "messages": QUESTION, "temperature": 0, "max_tokens": 20}
    (end,) = text.encode(" France")
    stopped = api.chat.completions.create(**asked, extra_body={"stop_token_ids": [end]}).choices[0]
    assert (stopped.message.content, stopped.finish_reason) == ("The capital of", "stop")
    late = api.chat.completions.create(**asked, stop=["France", " Paris"], extra_body={"min_tokens": 5}).choices[0]
    assert late.message.content == "The capital of France is"


def test_an_echo_begins_the_text_with_the_prompt(api: openai.OpenAI, smollm2: Checkpoint, text: LocalText) -> None:
    """Prompts of text and of tokens, whole and as streams; stop texts are not looked for in them."""
    asked = {"model": "smollm2", "temperature": 0, "max_tokens": 4, "stop": ["upon"]}
    decoder = text.decoder(())
    as_text = "".join(map(decoder.push, PROMPT)) + decoder.flush()
    for prompt, begin in (("Once upon a time", "Once upon a time"), (PROMPT, as_text)):
        plain = api.completions.create(**asked, prompt=prompt).choices[0].text
        echoed = api.completions.create(**asked, prompt=prompt, echo=True, n=2)
        assert [choice.text for choice in echoed.choices] == [begin + plain] * 2
        chunks = api.completions.create(**asked, prompt=prompt, echo=True, stream=True)
        assert "".join(chunk.choices[0].text for chunk in chunks) == begin + plain
