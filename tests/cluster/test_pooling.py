"""Vectors of prompts: equal to what transformers' hidden states give when they are pooled by hand, at every degree, in
pieces, beside requests that generate.

Allowed are 1e-4 of a value and 1e-5 beside it: float32, whose sums a stage makes in another order.
"""

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cluster.model_facts import facts_of
from cluster.stage.attending.paged import PagedCache
from cluster.stage.attending.slabs import SlabCache
from cluster.stage.batching import Batching
from cluster.stage.building.model import StageModel
from cluster.stage.pooling import Pools, vector_bytes
from cluster.stage.stepping.acceleration import Accelerated
from cluster.stage.stepping.static_steps import StaticSteps
from cluster.stage.steps import Segment, StepLimits
from cluster.stage.worker import Worker
from cluster.wire.requests import Cancel, Embedded, Event, Failed, Rejected, Submit
from cluster.wire.vocabulary import from_wire, to_wire
from schedules.placing.partition import split_layers
from storage_tiers.model_store import ModelStore
from storage_tiers.pooling import Mode
from storage_tiers.publishing.publish import publish
from tests.cluster.groups import GREEDY, prompts_of
from tests.cluster.played_captures import PlayedCaptures
from tests.cluster.threaded_group import DEADLINE_S, NoPulse, ThreadedGroup
from tests.embedders import pooled_by_hand
from tests.published import tensors_by_store
from tests.reference import greedy, load_reference
from tests.tiny import CHANGING_ROTATIONS, make_tiny

_SMALL = StepLimits(prefill_tokens=8, prefill_tokens_alone=16)
"""Prompts of a few dozen tokens come in several pieces."""
_CPU = torch.device("cpu")
_ODD: dict[str, dict[str, Any]] = {
    "qwen3": {}, "gemma2": {}, "opt": {"word_embed_proj_dim": 48}, CHANGING_ROTATIONS[0][0]: CHANGING_ROTATIONS[0][1],
}  # fmt: skip


def embed(name: str, prompt: Sequence[int], mode: Mode) -> Submit:
    """A request for a vector."""
    return Submit(name, tuple(prompt), len(prompt), 0, (), pooling=mode)


def close(vector: bytes, expected: np.ndarray) -> bool:
    return np.allclose(np.frombuffer(vector, "<f4"), expected, rtol=1e-4, atol=1e-5)


def told(group: ThreadedGroup, submits: Sequence[Submit]) -> tuple[dict[str, bytes], dict[str, list[int]]]:
    """The vectors and the tokens of requests that come at once."""
    vectors: dict[str, bytes] = {}
    tokens: dict[str, list[int]] = {}
    ended = 0
    for submit in submits:
        group.driver.inbox.put(submit)
    while ended < len(submits):
        for event in group.events.get(timeout=DEADLINE_S):
            if isinstance(event, Embedded):
                vectors[event.request] = event.vector
            else:
                tokens.setdefault(event.request, []).extend(event.tokens)  # type: ignore[union-attr]
            ended += event.finish is not None  # type: ignore[union-attr]
    return vectors, tokens


@pytest.mark.parametrize("family", _ODD)
def test_vectors_are_what_the_unsplit_model_gives_beside_others_that_generate(
    device: torch.device, store: ModelStore, tmp_path: Path, family: str
) -> None:
    """By mean and by last token, of prompts of one token, of one piece and of many; who generates notices nothing."""
    source = make_tiny(family, tmp_path / "source", seed=11, **_ODD[family])
    checkpoint = publish(str(source), f"pooled-{family}", store)
    weights = tensors_by_store(store, checkpoint)
    prompts = prompts_of(256, (1, 5, 16, 17, 61))
    expected = {mode: pooled_by_hand(source, prompts, mode) for mode in ("mean", "last")}
    reference = load_reference(source)
    reference.generation_config.eos_token_id = None
    answer = greedy(reference, prompts[1], 12)
    modes: tuple[Mode, ...] = ("mean", "last")
    asked = [embed(f"{mode} {i}", prompt, mode) for i, prompt in enumerate(prompts) for mode in modes]
    beside = [Submit(f"says {i}", tuple(prompts[1]), len(prompts[1]), 12, (), GREEDY) for i in range(2)]
    for degree in (1, 2, 4):
        bounds = split_layers(facts_of(checkpoint), degree)
        group = ThreadedGroup(checkpoint, weights, bounds, device=device, limits=_SMALL)
        try:
            runs = [told(group, [beside[0], *asked, beside[1]])]
            if group.hasten():
                runs.append(told(group, [beside[0], *asked, beside[1]]))
        finally:
            group.end()
        for vectors, tokens in runs:
            assert tokens == {"says 0": answer, "says 1": answer}, f"degree {degree}"
            wrong = [name for name, vector in vectors.items() if not _right(name, vector, expected)]
            assert (len(vectors), wrong) == (len(asked), []), f"degree {degree}"


@pytest.mark.parametrize("degree", [1, 2])
def test_vectors_are_the_same_over_pages_where_steps_of_decoding_are_captured(
    store: ModelStore, tmp_path: Path, degree: int
) -> None:
    """A GPU's means, played on a CPU: a last piece of one token is no step that is replayed."""
    source = make_tiny("qwen3", tmp_path / "source", seed=12)
    checkpoint = publish(str(source), f"paged-{degree}", store)
    prompts = prompts_of(256, (17, 33, 5))
    captures: list[PlayedCaptures] = []

    def make_worker(model: StageModel, kv_tokens: int) -> Worker:
        cache = PagedCache(model.layers, kv_tokens, _CPU)
        captures.append(PlayedCaptures())
        accelerated = Accelerated(
            model, StaticSteps(model, model, cache, captures[-1], _CPU, (1, 2, 4)), lambda _k: None
        )
        return Worker(model, model, cache, lambda _name, _started_s: None, NoPulse(), accelerated)

    bounds = split_layers(facts_of(checkpoint), degree)
    group = ThreadedGroup(
        checkpoint, tensors_by_store(store, checkpoint), bounds, make_worker=make_worker, limits=_SMALL
    )
    try:
        says = [Submit(f"says {i}", tuple(prompts[2]), 5, 12, (), GREEDY) for i in range(2)]
        told(group, says[:1])
        vectors, tokens = told(group, [says[1], *(embed(f"last {i}", p, "last") for i, p in enumerate(prompts))])
    finally:
        group.end()
    expected = {"last": pooled_by_hand(source, prompts, "last")}
    assert [name for name, vector in vectors.items() if not _right(name, vector, expected)] == []
    assert len(vectors) == 3
    assert len(tokens["says 1"]) == 12
    assert all(each.replays > 0 for each in captures), "nothing was captured, so that nothing is shown"


def _right(name: str, vector: bytes, expected: dict[str, list[np.ndarray]]) -> bool:
    mode, number = name.split()
    return close(vector, expected[mode][int(number)])


def _ready(batching: Batching) -> list[Segment]:
    step = batching.next_step(lambda segment: (segment.room, segment.slot))
    assert step is not None
    return list(step.segments)


def test_a_request_for_a_vector_is_over_with_its_last_piece_and_leaves_its_room() -> None:
    batching = Batching(100, 1, limits=_SMALL)
    assert batching.submit(embed("v", range(20), "mean")) is None
    (first,) = _ready(batching)
    assert (first.tokens, first.pooling, first.pooled, first.wanted) == (16, "mean", False, False)
    assert batching.land([]) == []
    (second,) = _ready(batching)
    assert (second.tokens, second.position, second.pooled, second.wanted) == (4, 16, True, False)
    assert batching.land([], vectors=[b"1234"]) == [Embedded("v", (), "stop", vector=b"1234")]
    assert (batching.used_tokens, batching.take_ended(), batching.idle) == (0, [second.slot], True)


def test_a_last_piece_of_one_token_is_no_step_of_decoding() -> None:
    """It gives no token, which is what whoever decodes is in step for."""
    batching = Batching(1000, 1, limits=_SMALL)
    assert batching.submit(embed("v", range(17), "last")) is None
    _ready(batching)
    batching.land([])
    assert batching.submit(Submit("says", (1, 2), 2, 3, ())) is None
    assert [(s.tokens, s.wanted, s.pooled) for s in _ready(batching)] == [(1, False, True), (2, True, False)]


def test_a_vector_that_is_no_numbers_fails_its_request_alone() -> None:
    batching = Batching(200, 1)
    for name in ("bad", "good"):
        assert batching.submit(embed(name, (1, 2), "last")) is None
    _ready(batching)
    events: list[Event] = batching.land([], vectors=[None, b"1234"])
    assert isinstance(events[0], Failed)
    assert "not finite" in events[0].message
    assert events[1] == Embedded("good", (), "stop", vector=b"1234")
    assert vector_bytes(torch.tensor([1.0, float("nan")])) is None
    assert vector_bytes(torch.tensor([1.0, 2.0])) == np.array([1, 2], "<f4").tobytes()


def test_what_was_cancelled_on_the_way_takes_its_vector_with_it() -> None:
    batching = Batching(200, 1)
    for name in ("gone", "stays"):
        assert batching.submit(embed(name, (1, 2), "last")) is None
    _ready(batching)
    batching.cancel("gone")
    assert batching.land([], vectors=[b"gone", b"here"]) == [Embedded("stays", (), "stop", vector=b"here")]


@pytest.mark.parametrize("degree", [1, 2])
def test_who_leaves_while_a_batch_is_computed_has_nothing_more_of_it_computed(
    store: ModelStore, tmp_path: Path, degree: int
) -> None:
    """Beyond the step that is under way: neither the rest of a long prompt nor prompts that had not begun."""
    checkpoint = publish(str(make_tiny("qwen3", tmp_path / "source", seed=13)), f"left-{degree}", store)
    computed, third, go_on = list[int](), threading.Event(), threading.Event()

    class Halting(NoPulse):
        def step(self, tokens: int) -> None:
            computed.append(tokens)
            if len(computed) == 3:
                third.set()
                assert go_on.wait(DEADLINE_S)

    def make_worker(model: StageModel, kv_tokens: int) -> Worker:
        cache, pulse = SlabCache(model.layers, kv_tokens, _CPU), Halting() if model.first else NoPulse()
        return Worker(model, model, cache, lambda _name, _started_s: None, pulse)

    bounds = split_layers(facts_of(checkpoint), degree)
    weights = tensors_by_store(store, checkpoint)
    group = ThreadedGroup(checkpoint, weights, bounds, make_worker=make_worker, limits=_SMALL)
    try:
        left = [embed(f"left {i}", prompt, "mean") for i, prompt in enumerate(prompts_of(256, (300, 90, 90)))]
        for submit in left:
            group.driver.inbox.put(submit)
        assert third.wait(DEADLINE_S)
        for submit in left:
            group.driver.inbox.put(Cancel(submit.request))
        go_on.set()
        vectors, _ = told(group, [embed("stays", (1, 2, 3), "mean")])
    finally:
        go_on.set()
        group.end()
    assert vectors.keys() == {"stays"}
    assert (len(computed), computed[3:]) == (4, [3])


def test_steps_with_vectors_are_short_so_that_little_is_computed_for_who_has_left() -> None:
    limits = StepLimits(prefill_tokens=8, prefill_tokens_alone=64, embed_tokens=16)
    batching = Batching(1000, 1, limits=limits)
    for name in "abc":
        assert batching.submit(Submit(name, tuple(range(10)), 10, 5, ())) is None
    assert sum(segment.tokens for segment in _ready(batching)) == 30
    batching = Batching(1000, 1, limits=limits)
    for name in "abc":
        assert batching.submit(embed(name, range(10), "mean")) is None
    assert [segment.tokens for segment in _ready(batching)] == [10, 6]


def test_nobody_follows_what_is_embedded() -> None:
    rejected = Batching(100, 1).follow(embed("v", (1, 2), "mean"))
    assert isinstance(rejected, Rejected)
    assert "nothing to follow" in rejected.message


def test_a_prompt_may_fill_the_cache_to_its_last_token() -> None:
    batching = Batching(64, 1)
    assert batching.submit(embed("fits", range(64), "mean")) is None
    assert isinstance(batching.submit(embed("too long", range(65), "mean")), Rejected)


def test_a_slot_that_is_forgotten_leaves_no_sum_to_the_next() -> None:
    pools, piece = Pools(), Segment(1, 2, 0, False, 64, 4, "mean")
    assert pools.take([piece], torch.full((1, 2, 3), 100.0)) == []
    pools.forget(1)
    (vector,) = pools.take([replace(piece, whole=2)], torch.full((1, 2, 3), 2.0))
    assert vector.tolist() == [2.0, 2.0, 2.0]


def test_means_are_summed_in_float32() -> None:
    """In bfloat16 a sum of ones stands still at 256."""
    ones = torch.ones(1, 600, 2, dtype=torch.bfloat16)
    (vector,) = Pools().take([Segment(1, 600, 0, False, 640, 600, "mean")], ones)
    assert (vector.dtype, vector.tolist()) == (torch.float32, [1.0, 1.0])


def test_a_vector_survives_the_wire() -> None:
    event = Embedded("v", (), "stop", vector=bytes(range(256)))
    assert from_wire(to_wire(event)) == event
