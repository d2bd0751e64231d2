"""Answers of whole groups that keep to grammars: what transformers says under the same mask, at every degree, moved too."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from cluster.client import ClusterClient
from cluster.errors import Refused
from cluster.wire.requests import (
    MOST_WORDS,
    Cancel,
    Failed,
    Follow,
    Grammar,
    Rejected,
    Sampling,
    Submit,
    Tokens,
    Words,
)
from storage_tiers.checkpoint import Checkpoint
from storage_tiers.model_store import ModelStore
from storage_tiers.publishing.publish import publish
from tests.cluster.grammars import END, SCHEMA, byte_words, json_of, spoken, text_of, tokenizer_words, words_of
from tests.cluster.groups import GREEDY, form, prompts_of, tokens_of
from tests.cluster.moving_groups import Move, MovingGroup
from tests.cluster.played_doors import played_group
from tests.cluster.threaded_group import DEADLINE_S, ThreadedGroup
from tests.published import tensors_by_store
from tests.reference import greedy, load_reference
from tests.smollm2 import reference_of
from tests.tiny import make_tiny

_WORDS = byte_words()
_OBJECT = Grammar(json_of(SCHEMA), _WORDS)
_DRAWN = Sampling(temperature=1.2, seed=77, top_p=0.95, frequency_penalty=0.3, logprobs=1)


class _Model:
    def __init__(self, store: ModelStore, folder: Path) -> None:
        source = make_tiny("llama", folder / "source", seed=3)
        self.checkpoint: Checkpoint = publish(str(source), "constrained", store)
        self.weights = tensors_by_store(store, self.checkpoint)
        self.reference = load_reference(source)
        self.reference.generation_config.eos_token_id = None

    def bounds(self, degree: int) -> list[int]:
        return [self.checkpoint.layers * rank // degree for rank in range(degree + 1)]

    def group(self, degree: int) -> ThreadedGroup:
        return ThreadedGroup(self.checkpoint, self.weights, self.bounds(degree))

    def moving(self, degree: int, at: int) -> MovingGroup:
        return MovingGroup(self.checkpoint, self.weights, self.bounds(degree), at)


@pytest.fixture(scope="module")
def model(store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> _Model:
    return _Model(store, tmp_path_factory.mktemp("tiny"))


def _submit(name: str, prompt: Sequence[int], sampling: Sampling = GREEDY, grammar: Grammar | None = _OBJECT) -> Submit:
    return Submit(name, tuple(prompt), len(prompt), 60, (END,) if grammar else (), sampling, 0, grammar)


def _said(tokens: Sequence[int]) -> object:
    return json.loads(text_of(_WORDS, tokens))


@pytest.fixture(scope="module")
def expected(model: _Model) -> list[list[int]]:
    """What a group of one says: drawn, greedily, and with no grammar."""
    group = model.group(1)
    try:
        answers = group.answers(_requests())
    finally:
        group.end()
    assert _said(answers["drawn"]) != _said(answers["greedy"])
    return list(answers.values())


def _requests() -> list[Submit]:
    one, two, three = prompts_of(256, (5, 23, 9))
    return [_submit("drawn", one, _DRAWN), _submit("greedy", two), _submit("free", three, grammar=None)]


@pytest.mark.parametrize("degree", [2, 4])
def test_every_degree_says_the_same_and_those_without_a_grammar_what_they_always_do(
    model: _Model, expected: list[list[int]], degree: int
) -> None:
    group = model.group(degree)
    try:
        assert list(group.answers(_requests()).values()) == expected
    finally:
        group.end()
    assert expected[2] == greedy(model.reference, _requests()[2].tokens, 60)


def test_a_lost_groups_requests_go_on_as_they_were(model: _Model, expected: list[list[int]]) -> None:
    group = model.group(2)
    try:
        for had in (1, 7):
            again = [
                replace(submit, tokens=(*submit.tokens, *tokens[:had]), max_tokens=60 - had)
                for submit, tokens in zip(_requests(), expected, strict=True)
            ]
            assert list(group.answers(again).values()) == [tokens[had:] for tokens in expected]
    finally:
        group.end()


@pytest.mark.parametrize(("degree", "heir_degree"), [(1, 2), (4, 1)])
def test_an_answer_moves_between_groups(
    model: _Model, expected: list[list[int]], degree: int, heir_degree: int
) -> None:
    source, heir = model.moving(degree, 0), model.moving(heir_degree, degree)
    try:
        move = Move(source, heir, _requests()[0])
        move.hear_until(Tokens, 4)
        move.begin(copy=True)
        move.round(3)
        assert move.finish()[0] == expected[0]
    finally:
        source.end()
        heir.end()


@pytest.mark.parametrize("degree", [1, 2])
def test_a_grammar_that_is_none_ends_its_request_and_no_other(
    model: _Model, expected: list[list[int]], degree: int
) -> None:
    group = model.group(degree)
    bad = _submit("bad", (5, 6), grammar=Grammar('start: %json {"type": "nope"}', _WORDS))
    astray = replace(_submit("astray", (5, 6, ord("x"))), prompt_tokens=2)
    told: dict[str, object] = {}
    tokens: list[int] = []
    try:
        for submit in (bad, astray, _requests()[1]):
            group.driver.inbox.put(submit)
        while len(told) < 3:
            for event in group.events.get(timeout=DEADLINE_S):
                if isinstance(event, Tokens):
                    tokens += event.tokens
                if not isinstance(event, Tokens) or event.finish is not None:
                    told[event.request] = event
    finally:
        group.end()
    rejected, failed = told["bad"], told["astray"]
    assert isinstance(rejected, Rejected)
    assert "Invalid type: nope" in rejected.message
    assert isinstance(failed, Failed)
    assert "doesn't satisfy the grammar" in failed.message
    assert tokens == expected[1]
    assert isinstance(finished := told["greedy"], Tokens)
    assert finished.finish == "stop"


def test_an_answer_is_over_with_its_grammar_whatever_stops_it(model: _Model) -> None:
    """Nothing is named that stops it, as where a client ignores ends."""
    group = model.group(1)
    try:
        submit = replace(_requests()[1], stop_tokens=())
        assert _said(group.answers([submit])["greedy"])
    finally:
        group.end()


async def test_a_group_is_told_of_words_once_a_connection_and_of_few_at_once() -> None:
    """Also where it is to follow; what it is asked has their digest."""
    async with played_group("g", (0, 2), lambda _pull: None) as (group, (stage,)):

        async def ask(number: int, *kinds: type) -> None:
            words = words_of([b"%d" % number], 0)
            submit = _submit("r", (1,), grammar=Grammar("start: /./", words))
            if kinds[-1] is Follow:
                following = await group.follow(submit, None, DEADLINE_S)
                heard = (await stage.until(*kinds)).submit
                await following.close()
                await stage.until(Cancel)
            else:
                reading = asyncio.ensure_future(tokens_of(group, submit))
                heard = await stage.until(*kinds)
                stage.tell(Tokens("r", (1,), "stop"))
                assert await reading == [1]
            assert heard == replace(submit, grammar=Grammar("start: /./", words.digest))

        await ask(0, Words, Submit)
        await ask(0, Submit)
        await ask(1, Words, Follow)
        await ask(1, Submit)
        for number in range(2, MOST_WORDS + 1):
            await ask(number, Words, Submit)
        await ask(1, Submit)
        await ask(0, Words, Submit)


@pytest.mark.asyncio(loop_scope="session")
async def test_processes_say_what_transformers_says_under_the_same_mask(
    client: ClusterClient, shared_store: ModelStore, smollm2_exact: Checkpoint, tmp_path: Path
) -> None:
    """A real model and its tokenizer, which llguidance reads on its own there; at every degree."""
    for file in smollm2_exact.files:
        (tmp_path / file.name).write_bytes(shared_store.read_file(smollm2_exact.name, file))
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    words = tokenizer_words(tokenizer)
    grammar = Grammar(json_of(SCHEMA), words)
    prompt = tuple(tokenizer.encode("An object with a name, as JSON: "))
    reference = reference_of(shared_store, smollm2_exact, "float32")
    expected = await asyncio.to_thread(spoken, reference, tokenizer, grammar.text, prompt, 40)
    assert json.loads(tokenizer.decode(expected))
    submits = [Submit(f"r{i}", prompt, len(prompt), 40, words.ends, GREEDY, 0, grammar) for i in range(2)]
    bad = replace(submits[0], request="bad", grammar=replace(grammar, text="start: ("))
    for degree in (1, 2, 4):
        group = await form(client, smollm2_exact, degree)
        try:
            with pytest.raises(Refused, match="cannot be kept to"):
                await tokens_of(group, bad)
            got = await asyncio.gather(*(tokens_of(group, submit) for submit in submits))
        finally:
            await client.dissolve(group)
        assert got == [expected] * 2, f"degree {degree}"
