"""Requests that move between groups of any degrees say what they would have said: real layers, caches, loops and doors."""

from dataclasses import replace
from pathlib import Path

import pytest

from cluster.model_facts import facts_of
from cluster.stage.attending.paged import PagedCache
from cluster.stage.attending.slabs import SlabCache
from cluster.stage.steps import StepLimits
from cluster.wire.requests import Sampling, Submit, TokenLogprobs, Tokens
from schedules.placing.partition import split_layers
from storage_tiers.checkpoint import Checkpoint
from storage_tiers.model_store import ModelStore
from storage_tiers.publishing.publish import publish
from tests.cluster.groups import GREEDY, prompts_of
from tests.cluster.moving_groups import MakeCache, Move, MovingGroup
from tests.published import tensors_by_store
from tests.tiny import SUPPORTED_FAMILIES, make_tiny

_DRAWN = Sampling(0.9, 0.95, 0, 11, 0.4, 0.3, 1.1, logit_bias=((5, 1.5),), logprobs=2)
_PROMPT = 70
_TOKENS = 60
_PIECES = StepLimits(prefill_tokens=16, prefill_tokens_alone=16, follow_tokens=8, adopt_tokens=24)


class _Model:
    def __init__(self, store: ModelStore, folder: Path, family: str = "llama", **own: object) -> None:
        source = make_tiny(family, folder / "source", seed=3, **own)
        self.checkpoint: Checkpoint = publish(str(source), f"moves-{family}-{len(own)}", store)
        self.weights = tensors_by_store(store, self.checkpoint)
        (prompt,) = prompts_of(256, [_PROMPT])
        self.prompt = tuple(prompt)

    def group(
        self,
        degree: int,
        at: int,
        make_cache: MakeCache = SlabCache,
        limits: StepLimits | None = None,
        kv_tokens: int = 4096,
    ) -> MovingGroup:
        bounds = split_layers(facts_of(self.checkpoint), degree)
        return MovingGroup(self.checkpoint, self.weights, bounds, at, make_cache, limits, kv_tokens)

    def ask(self, sampling: Sampling = _DRAWN, max_tokens: int = _TOKENS) -> Submit:
        """Its stop tokens are so many that `min_tokens` is what keeps it from ending."""
        stops = tuple(range(0, 256, 3)) if sampling is _DRAWN else ()
        return Submit("r", self.prompt, len(self.prompt), max_tokens, stops, sampling, min_tokens=50 if stops else 0)

    def undisturbed(self, submit: Submit) -> tuple[list[int], list[TokenLogprobs]]:
        group = self.group(1, 0)
        try:
            return group.answer(submit)
        finally:
            group.end()


@pytest.fixture(scope="module")
def model(store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> _Model:
    return _Model(store, tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def drawn(model: _Model) -> tuple[list[int], list[TokenLogprobs]]:
    """What is drawn with all that a request may ask for, undisturbed."""
    tokens, logprobs = model.undisturbed(model.ask())
    assert 50 < len(tokens) <= _TOKENS
    return tokens, logprobs


def _same(got: tuple[list[int], list[TokenLogprobs]], expected: tuple[list[int], list[TokenLogprobs]]) -> None:
    assert got[0] == expected[0]
    assert len(got[1]) == len(expected[1])
    for one, other in zip(got[1], expected[1], strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-3)
        assert [token for token, _ in one.top] == [token for token, _ in other.top]


@pytest.mark.parametrize("heir_degree", [1, 2, 3])
@pytest.mark.parametrize("degree", [1, 2, 3])
def test_an_answer_whose_kv_cache_moves_is_the_undisturbed_one(
    model: _Model, drawn: tuple[list[int], list[TokenLogprobs]], degree: int, heir_degree: int
) -> None:
    """With penalties, a seed, log probabilities, and stop tokens that `min_tokens` keeps away; twice in a row,
    from slabs to pages or from pages to slabs."""
    slabs, pages = (SlabCache, PagedCache) if heir_degree % 2 else (PagedCache, SlabCache)
    source, heir = model.group(degree, 0, slabs), model.group(heir_degree, degree, pages)
    try:
        for _ in range(2):
            move = Move(source, heir, model.ask())
            move.hear_until(Tokens, 5)
            move.begin(copy=True)
            assert move.kv_tokens >= _PROMPT + 4
            move.round(9)
            move.round(4)
            _same(move.finish(), drawn)
    finally:
        source.end()
        heir.end()


@pytest.mark.parametrize(("degree", "heir_degree"), [(1, 2), (3, 1)])
@pytest.mark.parametrize("after", [0, 7])
@pytest.mark.parametrize("copy", [False, True])
def test_it_moves_at_any_time(
    model: _Model, drawn: tuple[list[int], list[TokenLogprobs]], degree: int, heir_degree: int, after: int, copy: bool
) -> None:
    """While its prompt is fed in pieces, and between tokens; its cache computed anew, or what there is of it copied."""
    source, heir = model.group(degree, 0, limits=_PIECES), model.group(heir_degree, degree, limits=_PIECES)
    try:
        move = Move(source, heir, model.ask())
        if after:
            move.hear_until(Tokens, after)
        move.begin(copy)
        move.round(3)
        move.round(0)
        _same(move.finish(), drawn)
    finally:
        source.end()
        heir.end()


def test_what_one_stage_has_not_is_computed_anew(model: _Model, drawn: tuple[list[int], list[TokenLogprobs]]) -> None:
    """Here the second stage drops it before the group asks; nothing is kept of what the others have."""
    source, heir = model.group(1, 0), model.group(3, 1)
    try:
        move = Move(source, heir, model.ask())
        move.hear_until(Tokens, 5)
        keep = heir.shelves[1].keep
        heir.shelves[1].keep = lambda name, kept: (keep(name, kept), heir.shelves[1].drop(name))[0]  # type: ignore[method-assign]
        move.begin(copy=True)
        move.round(2)
        _same(move.finish(), drawn)
        assert all(not shelf._claimed and not shelf._places for shelf in heir.shelves)
    finally:
        source.end()
        heir.end()


@pytest.mark.parametrize("family", [family for family in SUPPORTED_FAMILIES if family != "llama"])
def test_every_familys_kv_cache_moves(store: ModelStore, tmp_path: Path, family: str) -> None:
    """From two stages to one, whose layers have computed nothing before: all that it attends to came from elsewhere."""
    model = _Model(store, tmp_path, family)
    submit = replace(model.ask(GREEDY, 24), stop_tokens=())
    expected = model.undisturbed(submit)
    assert len(set(expected[0])) > 3, "the model says too little to tell anything"
    source, heir = model.group(2, 0), model.group(1, 2, PagedCache)
    try:
        move = Move(source, heir, submit)
        move.hear_until(Tokens, 3)
        move.begin(copy=True)
        assert move.kv_tokens > _PROMPT
        move.round(0)
        _same(move.finish(), expected)
    finally:
        source.end()
        heir.end()


def test_a_cache_that_follows_lengths_is_computed_anew(store: ModelStore, tmp_path: Path) -> None:
    """Its keys depend on how long the prompt was, too: the group says that it has none to give, and none is given."""
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}
    model = _Model(store, tmp_path, rope_parameters=rope, max_position_embeddings=64)
    submit = replace(model.ask(GREEDY, 24), stop_tokens=())
    expected = model.undisturbed(submit)
    source, heir = model.group(1, 0), model.group(2, 1)
    try:
        move = Move(source, heir, submit)
        move.hear_until(Tokens, 3)
        move.begin(copy=True)
        assert move.kv_tokens == 0
        (pulled,) = source.pull("other", 3, source.sources(1))
        assert "depends on more" in pulled.fault
        move.round(2)
        _same(move.finish(), expected)
    finally:
        source.end()
        heir.end()
