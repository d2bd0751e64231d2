"""From requests to what the engine is asked, with real models and text processes, and no cluster."""

import json
import logging
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from cluster.wire.requests import Sampling
from serving.catalog import Catalog
from serving.cold_start import Ledger
from serving.errors import BadRequest, ContextTooLong
from serving.metrics import Metrics
from serving.prompts.processes import TextProcesses
from serving.requests.preparing import Prepared, Preparer
from serving.requests.sampling_defaults import SamplingDefaults, defaults_of
from serving.requests.schemas import ChatRequest, CompletionRequest
from serving.router import Router, RouterLimits
from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore
from storage_tiers.publishing.publish import publish
from tests.serving.tokenizers import CHATML, byte_files, byte_tokenizer, files_of
from tests.tiny import make_tiny
from tests.told import objectives_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONTEXT, VOCABULARY, DEFAULT = 512, 257, 300
NARROW = 100
"""Tokens of KV cache that a replica of the model `narrow` has."""
ADVICE = {
    "do_sample": False,
    "temperature": 0.6,
    "top_k": 20,
    "top_p": 0.95,
    "eos_token_id": [256, 7],
    "max_new_tokens": 40,
}


class Prepare:
    """Prepares requests of models with one token a byte."""

    def __init__(self, catalog: Catalog, router: Router) -> None:
        self._catalog, self._router = catalog, router

    async def completion(self, model: str, prompt: Any, as_makers_say: bool = True, **fields: Any) -> Prepared:
        body = CompletionRequest.model_validate({"model": model, "prompt": prompt, **fields})
        return await Preparer(self._catalog, self._router, DEFAULT, as_makers_say).completion(body, 0.0)

    async def chat(self, model: str, content: str = "hi", **fields: Any) -> Prepared:
        messages = [{"role": "user", "content": content}]
        body = ChatRequest.model_validate({"model": model, "messages": messages, **fields})
        return await Preparer(self._catalog, self._router, DEFAULT, True).chat(body, 0.0)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def prepare(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Prepare]:
    folder: Path = tmp_path_factory.mktemp("preparing")
    store = ModelStore(ObjectStore(f"file://{folder / 'store'}"))
    source = make_tiny("llama", folder / "source", vocab_size=VOCABULARY)
    publish(str(source), "bare", store)
    padded = byte_tokenizer()
    padded.add_special_tokens(["[PAD]"])
    for name, files, generation in (
        ("plain", byte_files(chat_template=CHATML), None),
        ("narrow", byte_files(chat_template=CHATML), None),
        ("padded", files_of(padded, chat_template=CHATML), None),
        ("advised", byte_files(chat_template=CHATML), ADVICE),
        ("odd", byte_files(chat_template=CHATML), {"temperature": 9.0, "top_k": 3, "eos_token_id": 256}),
        ("failing", byte_files(chat_template="{{ 1 // 0 }}"), None),
    ):
        for file, data in files.items():
            (source / file).write_bytes(data)
        (source / "generation_config.json").write_text(json.dumps(generation or {"eos_token_id": 256}))
        publish(str(source), name, store)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"use_bidirectional_attention": True}))
    publish(str(source), "encoder", store)
    texts = TextProcesses(60)
    await texts.start()
    limits = RouterLimits(
        "fixed", objectives_of(), 60.0, 8, 8, {"narrow": objectives_of(kv_tokens=NARROW)}, consolidate=True
    )
    yield Prepare(Catalog(store, texts), Router(lambda: None, limits, Metrics(), Ledger()))
    await texts.close()


async def test_a_model_that_sees_ahead_is_not_asked_what_follows(prepare: Prepare) -> None:
    for asking in (prepare.completion("encoder", "x"), prepare.chat("encoder")):
        with pytest.raises(BadRequest, match="attend to those behind them"):
            await asking


async def test_a_default_bound_is_cut_to_what_fits(prepare: Prepare) -> None:
    """A chat that set no bound was refused for our own default, which did not fit beside its prompt."""
    assert (await prepare.chat("plain")).limits == (DEFAULT,)
    head = len("<user><answer>")
    assert (await prepare.chat("plain", "x" * (CONTEXT - head - 10))).limits == (10,)
    assert (await prepare.chat("narrow", "x" * (NARROW - head - 1))).limits == (1,)
    assert (await prepare.completion("plain", ["x", "x" * (CONTEXT - 3)])).limits == (16, 3)
    assert (await prepare.completion("narrow", "x" * (NARROW - 2), max_tokens=None)).limits == (2,)
    assert (await prepare.completion("plain", "x", min_tokens=50)).limits == (50,)


@pytest.mark.parametrize(
    ("model", "fields", "param", "said"),
    [
        ("plain", {"max_tokens": CONTEXT - 3}, "max_tokens",
         f"prompt has 4 tokens and max_tokens is 509: together more.*{CONTEXT} tokens of plain's context"),
        ("plain", {"min_tokens": CONTEXT}, "min_tokens", "at most 508"),
        ("plain", {"min_tokens": 5, "max_tokens": 4}, "min_tokens", "at most 4"),
        ("plain", {"prompt": "x" * CONTEXT}, "prompt", f"prompt has {CONTEXT} tokens"),
        ("plain", {"prompt": "x" * 100_000}, "prompt", "more tokens than plain takes"),
        ("narrow", {"max_tokens": NARROW - 3}, "max_tokens", rf"{NARROW} tokens of KV cache .*frontend\.kv_tokens"),
        ("narrow", {"prompt": "x" * NARROW}, "prompt", r"frontend\.kv_tokens"),
        ("narrow", {"prompt": [5] * NARROW}, "prompt", r"frontend\.kv_tokens"),
        ("plain", {"prompt": ["x", ""]}, "prompt", "prompt is empty"),
    ],
)  # fmt: skip
async def test_a_wish_that_does_not_fit_is_refused_at_its_field(
    prepare: Prepare, model: str, fields: dict[str, Any], param: str, said: str
) -> None:
    with pytest.raises(BadRequest, match=said) as refused:
        await prepare.completion(model, **{"prompt": "four", **fields})
    assert refused.value.param == param


async def test_a_chats_bound_is_named_as_it_was_sent(prepare: Prepare) -> None:
    for field in ("max_tokens", "max_completion_tokens"):
        with pytest.raises(ContextTooLong, match=f"{field} is 512") as refused:
            await prepare.chat("plain", **{field: 512})
        assert refused.value.param == field
    with pytest.raises(ContextTooLong, match=r"frontend\.kv_tokens") as refused:
        await prepare.chat("narrow", "x" * NARROW)
    assert refused.value.param == "messages"


async def test_a_token_that_only_the_tokenizer_has_is_refused_by_its_name(prepare: Prepare) -> None:
    """Tokens from text went to the replica unchecked, which refused them: a 503 after a cold start."""
    said = r"has token 257 \('\[PAD\]'\), which padded does not have: .*vocabulary of 257"
    for prompt in ("a [PAD]", ["a", "[PAD]"], [5, 257]):
        with pytest.raises(BadRequest, match=said) as refused:
            await prepare.completion("padded", prompt)
        assert refused.value.param == "prompt"
    with pytest.raises(BadRequest, match=said) as refused:
        await prepare.chat("padded", "[PAD]")
    assert refused.value.param == "messages"
    with pytest.raises(BadRequest, match="vocabulary of 257"):
        await prepare.completion("bare", [-1])
    for fields in ({"stop_token_ids": [257]}, {"logit_bias": {"257": 1}}):
        with pytest.raises(BadRequest, match="vocabulary of 257") as refused:
            await prepare.completion("plain", "x", **fields)
        assert [refused.value.param] == list(fields)


async def test_a_failing_template_is_told_with_its_models_name(prepare: Prepare) -> None:
    with pytest.raises(BadRequest, match=r"^failing: the model's chat template fails .*ZeroDivisionError") as refused:
        await prepare.chat("failing")
    assert refused.value.param == "messages"


async def test_what_a_models_makers_advise_is_used_where_a_request_does_not_say(prepare: Prepare) -> None:
    """generation_config.json was passed over but for the tokens that end an answer. `do_sample` alone says nothing."""
    advised = await prepare.completion("advised", "x", seed=1)
    assert advised.samplings == (Sampling(temperature=0.6, top_k=20, top_p=0.95, seed=1),)
    assert advised.stop_tokens == (256, 7)
    mixed = await prepare.completion("advised", "x", seed=1, temperature=0, top_p=None, top_k=0)
    assert mixed.samplings == (Sampling(temperature=0.0, top_k=0, top_p=0.95, seed=1),)
    off = await prepare.completion("advised", "x", as_makers_say=False, seed=1)
    assert off.samplings == (Sampling(seed=1),)
    assert (await prepare.chat("advised")).limits == (40,)
    assert (await prepare.chat("advised", max_tokens=99)).limits == (99,)


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({}, SamplingDefaults()),
        ({"temperature": None, "do_sample": True, "transformers_version": "5"}, SamplingDefaults()),
        ({"min_p": 0.1, "repetition_penalty": 1.1}, SamplingDefaults(min_p=0.1, repetition_penalty=1.1)),
        ({"temperature": 9.0, "top_k": 5}, SamplingDefaults(top_k=5, passed_over=("temperature '9.0'",))),
        (
            {"top_p": "x" * 99, "top_k": True, "max_new_tokens": 0},
            SamplingDefaults(passed_over=(f"top_p '{'x' * 40}'", "top_k 'True'", "max_new_tokens '0'")),
        ),
    ],
)
async def test_a_default_that_no_request_may_have_is_passed_over(
    config: dict[str, Any], found: SamplingDefaults
) -> None:
    assert defaults_of(config) == found


async def test_what_is_passed_over_is_told_once(prepare: Prepare, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert (await prepare.chat("odd", seed=1)).samplings == (Sampling(top_k=3, seed=1),)
    assert [record.getMessage() for record in caplog.records] == [
        "model odd: its generation configuration has temperature '9.0', which is not used"
    ]


async def test_an_answers_ends_are_the_models_and_the_requests(prepare: Prepare) -> None:
    async def stops(**fields: Any) -> Sequence[int]:
        return (await prepare.completion("advised", "x", **fields)).stop_tokens

    assert await stops(stop_token_ids=[3]) == (256, 7, 3)
    assert await stops(ignore_eos=True) == ()
    assert await stops(ignore_eos=True, stop_token_ids=[3]) == (3,)


async def test_an_echo_is_the_prompt_as_text(prepare: Prepare) -> None:
    assert (await prepare.completion("plain", ["naïve", "b"], echo=True)).echoes == ("naïve", "b")
    tokens = list("naïve 🙂".encode())
    as_tokens = (await prepare.completion("plain", "naïve 🙂")).prompts
    assert len(as_tokens[0]) == len(tokens)
    assert (await prepare.completion("plain", list(as_tokens[0]), echo=True)).echoes == ("naïve 🙂",)
    assert (await prepare.completion("plain", "x")).echoes == ()
    with pytest.raises(BadRequest, match="without a tokenizer") as refused:
        await prepare.completion("bare", [5], echo=True)
    assert refused.value.param == "echo"
