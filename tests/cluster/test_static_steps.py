"""Steps of fixed sizes over buffers that stay: which they take, when they are captured, and that they give the same."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import pytest
import torch

from cluster.model_facts import facts_of, model_config
from cluster.stage.attending.paged import PagedCache
from cluster.stage.attending.paged_attention import Kind, Rule
from cluster.stage.building.model import StageModel
from cluster.stage.stepping.acceleration import Accelerated, NoAcceleration, prepare_kernels
from cluster.stage.stepping.fusing import Fusing
from cluster.stage.stepping.static_steps import StaticSteps
from cluster.stage.steps import Segment
from cluster.stage.worker import Worker
from cluster.wire.requests import Submit
from schedules.placing.partition import split_layers
from storage_tiers.model_store import ModelStore
from tests.cluster.groups import GREEDY
from tests.cluster.played_captures import PlayedCaptures
from tests.cluster.spoken import NEW_TOKENS, publish_tiny
from tests.cluster.threaded_group import DEADLINE_S, NoPulse, ThreadedGroup
from tests.cluster.triton_kernels import attention as kernels
from tests.published import tensors_by_store
from tests.tiny import SUPPORTED_FAMILIES

_CPU = torch.device("cpu")
_CONFIG = {
    "model_type": "llama", "num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 64, "vocab_size": 50,
    "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def _next(slot: int, position: int, wanted: bool = True, room: int = 64) -> Segment:
    return Segment(slot, 1, position, wanted, room)


class _Stage:
    """A small random model, computed step by step as ever and in static steps, each over a cache of its own."""

    def __init__(
        self, sizes: Sequence[int] = (1, 2, 4), refuses: bool = False, kv_tokens: int = 2000, layers: int = 2
    ) -> None:
        torch.manual_seed(3)
        self.model = StageModel(model_config(_CONFIG), torch.float32, 0, layers, lambda _unit, _gate: None)
        buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers() if not buffer.is_meta}
        self.model.to_empty(device=_CPU)
        for name, buffer in self.model.named_buffers():
            if name in buffers:
                buffer.data.copy_(buffers[name])
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)
            torch.nn.init.normal_(parameter.data, 0.0, 0.3)
        for gate in self.model._gates.values():
            gate.open()
        self.captures = PlayedCaptures(refuses)
        self.caches = [PagedCache(layers, kv_tokens, _CPU) for _ in range(2)]
        self.steps = StaticSteps(self.model, self.model, self.caches[1], self.captures, _CPU, sizes)
        self._drawn = torch.Generator().manual_seed(1)

    @torch.inference_mode()
    def prompt(self, slot: int, tokens: int, room: int = 64) -> None:
        x = torch.randint(50, (1, tokens), generator=self._drawn)
        for cache in self.caches:
            self.model.turn_to(cache.plan([Segment(slot, tokens, 0, True, room)]))
            self.model(x)

    @torch.inference_mode()
    def step(self, *segments: Segment) -> None:
        """The same tokens both ways: the same logits."""
        x = torch.randint(50, (1, len(segments)), generator=self._drawn)
        assert self.steps.takes(segments)
        found = self.steps.run(segments, x).clone()
        self.model.turn_to(self.caches[0].plan(segments))
        torch.testing.assert_close(found, self.model(x), rtol=1e-5, atol=1e-5)


def test_a_step_is_computed_once_then_captured_then_replayed() -> None:
    stage = _Stage()
    stage.prompt(1, 5)
    counts = []
    for position in range(5, 9):
        stage.step(_next(1, position))
        counts.append((stage.captures.captures, stage.captures.replays))
    assert counts == [(0, 0), (1, 1), (1, 2), (1, 3)]
    assert stage.steps.captured == 1


def test_a_step_is_filled_up_to_the_next_size_and_nobody_else_is_touched() -> None:
    stage = _Stage()
    for slot, tokens in ((1, 5), (2, 30), (3, 17), (4, 2)):
        stage.prompt(slot, tokens)
    for step in range(6):
        stage.step(_next(1, 5 + step), _next(2, 30 + step), _next(3, 17 + step))
    stage.step(_next(4, 2))
    stage.step(_next(4, 3), _next(2, 36))


def test_lengths_are_no_part_of_what_is_captured() -> None:
    """Requests come and go, and any of them may stand in any row: with kernels one capture serves all of that."""
    stage = _Stage()
    stage.model.attention.paged.kernels = kernels
    for slot, tokens in ((1, 60), (2, 3)):
        stage.prompt(slot, tokens)
    stage.step(_next(1, 60), _next(2, 3))
    stage.step(_next(2, 4), _next(1, 61))
    stage.caches[0].forget(1)
    stage.caches[1].forget(1)
    stage.prompt(3, 33)
    stage.step(_next(3, 33), _next(2, 5))
    assert (stage.captures.captures, stage.captures.replays) == (1, 2)


def test_without_kernels_there_is_a_capture_for_each_reach() -> None:
    stage = _Stage()
    stage.prompt(1, 30)
    for position in range(30, 36):
        stage.step(_next(1, position))
    assert stage.captures.captures == 2, "up to 32 tokens, and up to 64"


def test_no_more_is_captured_than_there_are_sizes_and_what_is_used_stays() -> None:
    stage = _Stage(sizes=(1, 2))
    for slot, tokens in ((1, 2), (2, 40), (3, 70)):
        stage.prompt(slot, tokens, room=128)
    for _ in range(2):
        for slot, position in ((1, 2), (2, 40)):
            stage.step(_next(slot, position, room=128))
    assert (stage.steps.captured, stage.captures.captures) == (2, 2)
    stage.step(_next(1, 2, room=128))
    for _ in range(2):
        stage.step(_next(3, 70, room=128))
    assert (stage.steps.captured, stage.captures.captures) == (2, 3)
    stage.step(_next(1, 2, room=128))
    assert stage.captures.captures == 3
    stage.step(_next(2, 40, room=128))
    assert (stage.steps.captured, stage.captures.captures) == (2, 4)


def test_hidden_states_that_are_on_their_way_are_not_written_over() -> None:
    """The first of two stages: the next stage may not have them yet when the next step is told."""
    stage = _Stage(layers=1)
    stage.prompt(1, 5)
    with torch.inference_mode():
        for position in range(5, 8):
            sent = stage.steps.run([_next(1, position)], torch.tensor([[3]]))
        before = sent.clone()
        stage.steps.run([_next(1, 8)], torch.tensor([[4]]))
    assert stage.captures.replays == 3
    assert torch.equal(sent, before)


def test_what_cannot_be_captured_is_computed_each_time_and_not_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    stage = _Stage(refuses=True)
    stage.prompt(1, 5)
    for position in range(5, 9):
        stage.step(_next(1, position))
    assert (stage.steps.captured, stage.captures.replays) == (0, 0)
    assert [record.message for record in caplog.records if "captured" in record.message] == [
        "this model's steps cannot be captured, and are told to the device one by one: "
        "operation not permitted when stream is capturing"
    ]


def test_what_was_captured_is_given_up_with_the_table_that_it_reads() -> None:
    """More requests than the table has rows: it lies elsewhere then."""
    stage = _Stage(kv_tokens=64 * 40)
    stage.prompt(1, 5)
    for position in range(5, 8):
        stage.step(_next(1, position))
    table = stage.caches[1].table
    stage.caches[1]._grow(2 * len(table))
    assert stage.caches[1].table is not table
    stage.step(_next(1, 8))
    assert (stage.captures.forgotten, stage.steps.captured) == (1, 1)
    stage.step(_next(1, 9))


@pytest.mark.parametrize(
    "segments",
    [
        [Segment(1, 2, 5, True, 64)],
        [Segment(1, 1, 0, True, 64)],
        [_next(1, 5, wanted=False)],
        [_next(slot, 5) for slot in range(5)],
    ],
    ids=["a piece", "a prompt of one token", "not wanted", "more than the largest size"],
)
def test_what_is_no_step_of_one_token_each_is_computed_as_ever(segments: Sequence[Segment]) -> None:
    assert not _Stage().steps.takes(segments)


# ---- when they begin


class _Ready:
    """Kernels that are ready when they are let."""

    def __init__(self, found: ModuleType | Exception | None = None) -> None:
        self.found = found
        self.asked: list[Sequence[Kind]] = []

    def __call__(self, kinds: Sequence[Kind]) -> ModuleType | None:
        self.asked.append(kinds)
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


def _accelerated(ready: Callable[[Sequence[Kind]], ModuleType | None]) -> tuple[_Stage, Accelerated]:
    stage = _Stage()
    stage.prompt(1, 5)
    return stage, Accelerated(stage.model, stage.steps, ready)


def _run(stage: _Stage, accelerated: Accelerated, position: int) -> bool:
    with torch.inference_mode():
        return accelerated.run([_next(1, position)], torch.tensor([[3]])) is not None


def test_nothing_is_got_ready_before_the_first_step_is_over_and_then_once() -> None:
    ready = _Ready(kernels)
    stage, accelerated = _accelerated(ready)
    assert not _run(stage, accelerated, 5)
    assert not accelerated.takes([_next(1, 5)])
    assert ready.asked == []
    accelerated.follow_up()
    accelerated.follow_up()
    assert accelerated.join(DEADLINE_S)
    assert stage.model.attention.paged.kernels is None, "it is the computing thread that begins to use them"
    assert _run(stage, accelerated, 5)
    assert accelerated.takes([_next(1, 6)])
    assert ready.asked == [[Kind(4, 2, 8, 8, torch.float32, Rule(8**-0.5))]]
    assert stage.model.attention.paged.kernels is kernels


def test_kernels_that_cannot_be_had_leave_steps_to_torch(caplog: pytest.LogCaptureFixture) -> None:
    stage, accelerated = _accelerated(_Ready(RuntimeError("no compiler")))
    accelerated.follow_up()
    assert accelerated.join(DEADLINE_S)
    assert _run(stage, accelerated, 5)
    assert stage.model.attention.paged.kernels is None
    assert "kernels of our own cannot be had; attention is torch's" in caplog.text


def test_a_stage_that_still_lacks_a_unit_computes_as_ever() -> None:
    """The embedding may come behind the first tokens, whose rows came before it."""
    stage, accelerated = _accelerated(_Ready())
    accelerated.follow_up()
    assert accelerated.join(DEADLINE_S)
    gates = stage.model._gates
    missing = gates.pop("embed")
    gates["embed"] = type(missing)()
    assert not _run(stage, accelerated, 5)
    gates["embed"].open()
    assert _run(stage, accelerated, 5)


def test_a_model_whose_factors_follow_lengths_computes_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    stage, accelerated = _accelerated(_Ready())
    accelerated.follow_up()
    assert accelerated.join(DEADLINE_S)
    monkeypatch.setattr(type(stage.model), "repeats", False)
    assert not _run(stage, accelerated, 5)
    assert not accelerated.takes([_next(1, 5)])


def test_without_triton_nothing_is_got_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.stage.kernels.available", lambda: False)
    assert prepare_kernels(Fusing(_Stage().model.lm), _CPU, []) is None


def test_nothing_is_accelerated_unless_it_is_asked_for() -> None:
    plain = NoAcceleration()
    assert plain.run([_next(1, 5)], torch.zeros(1, 1)) is None
    assert not plain.takes([_next(1, 5)])


@pytest.mark.parametrize("family", SUPPORTED_FAMILIES)
def test_static_steps_of_every_family_equal_the_unsplit_model(store: ModelStore, tmp_path: Path, family: str) -> None:
    """Two stages, over pages, each step of one token filled up to its size; asked twice, so that all are replayed."""
    tiny = publish_tiny(family, False, tmp_path, store)
    asked = [Submit(f"r{i}", tuple(p), len(p), NEW_TOKENS, (), GREEDY) for i, p in enumerate(tiny.prompts)]
    captures: list[PlayedCaptures] = []

    def make_worker(model: StageModel, kv_tokens: int) -> Worker:
        cache = PagedCache(model.layers, kv_tokens, _CPU)
        captures.append(PlayedCaptures())
        steps = StaticSteps(model, model, cache, captures[-1], _CPU, (1, 2, 4, 8))
        accelerated = Accelerated(model, steps, lambda _kinds: None)
        return Worker(model, model, cache, lambda _name, _started_s: None, NoPulse(), accelerated)

    weights = tensors_by_store(store, tiny.checkpoint)
    group = ThreadedGroup(
        tiny.checkpoint, weights, split_layers(facts_of(tiny.checkpoint), 2), make_worker=make_worker
    )  # fmt: skip
    try:
        first = group.answers(asked)
        again = group.answers(
            [Submit(f"again {s.request}", s.tokens, s.prompt_tokens, NEW_TOKENS, (), GREEDY) for s in asked]
        )
    finally:
        group.end()
    assert list(first.values()) == list(again.values()) == tiny.expected
    assert len(captures) == 2
    assert all(capture.replays > 10 for capture in captures)
