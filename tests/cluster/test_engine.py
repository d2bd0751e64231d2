"""The decode loop, over layers that only remember: what is fed to whom, what is told to the others, and how it ends."""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import msgpack
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cluster.stage.attending.slabs import SlabCache
from cluster.stage.batching import Batching, room_tokens
from cluster.stage.engine import Driver, Fault, follow
from cluster.stage.joining.hop import Header, Op
from cluster.stage.steps import Adoption, Choice, Segment
from cluster.stage.worker import Worker
from cluster.wire.requests import (
    AskPlace,
    Cancel,
    Caught,
    Event,
    Follow,
    GoOn,
    More,
    Placed,
    Rejected,
    Sampling,
    Submit,
    Tokens,
    Words,
    Yield,
    Yielded,
)
from cluster.wire.vocabulary import to_wire
from tests.cluster.fake_stages import FakeNeighbours, FakeWorker, texts_of

_STOP = 99


def _submit(name: str, prompt: int = 3, max_tokens: int = 4, generated: int = 0) -> Submit:
    tokens = tuple(range(1, prompt + generated + 1))
    return Submit(name, tokens, prompt, max_tokens, (_STOP,))


class _Run:
    """A driver over fakes, run until every request has ended. `at_token` acts on tokens as they are given out."""

    def __init__(
        self,
        *commands: Submit | Cancel,
        kv_tokens: int = 1000,
        degree: int = 1,
        script: Mapping[str, Sequence[int]] | None = None,
        at_token: Callable[["_Run", Tokens], None] = lambda _run, _event: None,
        ends: int | None = None,
        fault: Fault = lambda _submit: None,
        worker: FakeWorker | None = None,
        heard: list[Event] | None = None,
    ) -> None:
        self.emitted: list[list[Tokens | Rejected]] = []
        self.worker = worker or FakeWorker(script or {})
        self._heard = heard
        self.neighbours = FakeNeighbours() if degree > 1 else None
        self._at_token = at_token
        self._ends = sum(isinstance(command, Submit) for command in commands) if ends is None else ends
        self.driver = Driver(
            self.worker,  # type: ignore[arg-type]
            self.neighbours,  # type: ignore[arg-type]
            Batching(kv_tokens, degree),
            self._emit,
            60.0,
            fault,
        )
        for command in commands:
            self.driver.inbox.put(command)
        self.driver.run()

    def _emit(self, events: Sequence[Event]) -> None:
        if self._heard is not None:
            self._heard += [event for event in events if isinstance(event, Placed)]
        own = [event for event in events if isinstance(event, Tokens | Rejected)]
        self.emitted.append(own)
        for event in own:
            if isinstance(event, Tokens):
                self._at_token(self, event)
            if isinstance(event, Rejected) or event.finish is not None:
                self._end_one()

    def _end_one(self) -> None:
        self._ends -= 1
        if self._ends == 0:
            self.driver.inbox.put(None)

    @property
    def events(self) -> list[Tokens | Rejected]:
        return [event for events in self.emitted for event in events]

    @property
    def finishes(self) -> dict[str, str]:
        return {e.request: e.finish for e in self.events if isinstance(e, Tokens) and e.finish is not None}

    @property
    def texts(self) -> dict[str, list[int]]:
        return texts_of(self.events)


def test_the_prompt_is_fed_at_once_and_then_token_by_token() -> None:
    run = _Run(_submit("a", prompt=3, max_tokens=3), script={"a": [10, 11, 12]})
    assert run.worker.fed == [[(1, [1, 2, 3], 0)], [(1, [10], 3)], [(1, [11], 4)]]
    assert run.events == [Tokens("a", (10,)), Tokens("a", (11,)), Tokens("a", (12,), "length")]


def test_a_stop_token_ends_a_request_and_is_given_out() -> None:
    run = _Run(_submit("a", max_tokens=9), script={"a": [10, _STOP]})
    assert run.events == [Tokens("a", (10,)), Tokens("a", (_STOP,), "stop")]


def test_a_request_that_was_moved_goes_on_after_what_it_had() -> None:
    run = _Run(_submit("a", prompt=2, generated=3, max_tokens=2))
    assert run.worker.fed == [[(1, [1, 2, 3, 4, 5], 0)], [(1, [7], 5)]]


def test_requests_are_fed_together_and_a_step_is_given_out_together() -> None:
    run = _Run(_submit("a", max_tokens=2), _submit("b", max_tokens=2), script={"a": [10, 11], "b": [20, 21]})
    assert run.worker.fed == [[(1, [1, 2, 3], 0), (2, [1, 2, 3], 0)], [(1, [10], 3), (2, [20], 3)]]
    assert run.emitted == [
        [Tokens("a", (10,)), Tokens("b", (20,))],
        [Tokens("a", (11,), "length"), Tokens("b", (21,), "length")],
    ]


def test_a_request_that_comes_later_joins_those_who_run() -> None:
    def second(run: _Run, event: Tokens) -> None:
        if len(run.events) == 1:
            run.driver.inbox.put(_submit("b", max_tokens=1))

    run = _Run(_submit("a", max_tokens=5), at_token=second, ends=2)
    assert [event.request for event in run.events] == ["a", "a", "b", "a", "a", "a"]


def test_what_ended_is_forgotten() -> None:
    run = _Run(_submit("a"), _submit("b"))
    assert run.worker.started == run.worker.rooms == {}


def test_requests_run_together_as_far_as_the_cache_reaches() -> None:
    names = ["a", "b", "c", "d", "e"]
    run = _Run(*(_submit(name) for name in names), kv_tokens=2 * 64)
    assert run.worker.most_room == 2 * 64
    assert set(run.finishes) == set(names)


def test_a_request_that_never_fits_is_rejected_and_the_others_go_on() -> None:
    run = _Run(_submit("a", 3, 5), _submit("b", 3, 4), kv_tokens=7)
    (rejected,) = [event for event in run.events if isinstance(event, Rejected)]
    assert rejected.request == "a"
    assert "8 tokens, this replica's KV cache holds 7" in rejected.message
    assert run.finishes == {"b": "length"}


def test_a_request_with_a_fault_is_rejected_and_the_others_go_on() -> None:
    run = _Run(_submit("a"), _submit("b"), fault=lambda submit: "no such token" if submit.request == "a" else None)
    assert [event for event in run.events if isinstance(event, Rejected)] == [Rejected("a", "no such token")]
    assert run.finishes == {"b": "length"}
    assert {slot for step in run.worker.fed for slot, _, _ in step} == {1}


@pytest.mark.parametrize("degree", [1, 2])
def test_a_cancelled_request_stops_and_gives_its_room_to_the_next(degree: int) -> None:
    """The next was given its room before that of the first was freed: the stages held more than they had reserved."""

    def leave(run: _Run, event: Tokens) -> None:
        if event.request == "a" and len(run.events) == 2:
            run.driver.inbox.put(Cancel("a"))

    run = _Run(
        _submit("a", max_tokens=11), _submit("b", max_tokens=11),
        kv_tokens=14, degree=degree, at_token=leave, ends=1,
    )  # fmt: skip
    assert run.finishes == {"b": "length"}
    assert len(run.texts["a"]) <= 3
    assert run.worker.rooms == {}
    assert run.worker.most_room == 14


def test_a_request_that_is_cancelled_while_it_waits_never_runs() -> None:
    run = _Run(_submit("a"), _submit("b"), Cancel("b"), kv_tokens=7, ends=1)
    assert {slot for step in run.worker.fed for slot, _, _ in step} == {1}
    assert "b" not in run.texts


def test_cancelling_what_is_unknown_or_over_does_nothing() -> None:
    def late(run: _Run, event: Tokens) -> None:
        if event.finish and event.request == "a":
            run.driver.inbox.put(Cancel("a"))

    run = _Run(Cancel("nobody"), _submit("a", max_tokens=1), _submit("b"), at_token=late, ends=2)
    assert set(run.finishes) == {"a", "b"}


def test_a_cancelled_name_can_come_again_while_the_first_still_runs() -> None:
    """The first one's end forgot the second, whose own end then broke the stage."""

    def again(run: _Run, event: Tokens) -> None:
        if len(run.events) == 1:
            run.driver.inbox.put(Cancel("a"))
            run.driver.inbox.put(_submit("a", max_tokens=2))

    run = _Run(_submit("a", max_tokens=9), at_token=again, ends=1)
    assert run.finishes == {"a": "length"}
    assert run.worker.started == {}


@pytest.mark.parametrize("degree", [1, 3])
def test_none_ends_it_with_requests_still_running(degree: int) -> None:
    def end(run: _Run, event: Tokens) -> None:
        run.driver.inbox.put(None)

    run = _Run(_submit("a", max_tokens=100), degree=degree, at_token=end)
    assert len(run.events) == 1
    if run.neighbours is not None:
        assert run.neighbours.ops()[-1] == (Op.STOP, [])
        assert run.neighbours.drained


def test_none_ends_an_idle_driver() -> None:
    driver = Driver(FakeWorker(), None, Batching(10, 1), lambda _events: None, 60.0)  # type: ignore[arg-type]
    driver.inbox.put(None)
    driver.run()


_LOADS = st.lists(st.tuples(st.integers(1, 400), st.integers(1, 6), st.integers(0, 9)), min_size=1, max_size=12)


@given(_LOADS, st.integers(4, 900), st.sampled_from([1, 2, 4]))
def test_whatever_comes_everyone_gets_all_tokens_within_the_cache(
    loads: list[tuple[int, int, int]], kv_tokens: int, degree: int
) -> None:
    """Each is cancelled after so many tokens as its third number says, if it has more."""
    submits = {f"r{i}": _submit(f"r{i}", prompt, most) for i, (prompt, most, _) in enumerate(loads)}
    leave_at = {f"r{i}": count for i, (_, most, count) in enumerate(loads) if 0 < count < most}
    fitting = {name: s.max_tokens for name, s in submits.items() if len(s.tokens) + s.max_tokens <= kv_tokens}

    def leave(run: _Run, event: Tokens) -> None:
        if len(run.texts[event.request]) == leave_at.get(event.request):
            run.driver.inbox.put(Cancel(event.request))
            run._end_one()

    run = _Run(*submits.values(), kv_tokens=kv_tokens, degree=degree, at_token=leave)
    assert {name: len(text) for name, text in run.texts.items()} == {
        name: leave_at.get(name, count) for name, count in fitting.items()
    }
    assert {e.request for e in run.events if isinstance(e, Rejected)} == submits.keys() - fitting.keys()
    assert run.worker.most_room <= kv_tokens


# ---- over several stages


@pytest.mark.parametrize("degree", [2, 3])
def test_as_many_steps_are_under_way_as_there_are_stages(degree: int) -> None:
    run = _Run(*(_submit(f"r{i}") for i in range(6)), degree=degree)
    assert run.neighbours is not None
    assert run.neighbours.most_under_way == degree
    assert not run.neighbours.under_way
    assert {len(step) for step in run.worker.fed} == {6 // degree}


def test_one_request_has_one_token_under_way() -> None:
    run = _Run(_submit("a"), degree=4)
    assert run.neighbours is not None
    assert run.neighbours.most_under_way == 1


def test_a_long_prompt_is_under_way_at_every_stage_and_gives_one_token() -> None:
    run = _Run(_submit("a", prompt=900, max_tokens=1), degree=3)
    assert run.neighbours is not None
    assert run.neighbours.most_under_way == 3
    assert [(len(tokens), position) for ((_, tokens, position),) in run.worker.fed] == [
        (300, 0),
        (300, 300),
        (300, 600),
    ]
    assert run.texts == {"a": [7]}


def test_parameters_travel_with_the_first_step_alone() -> None:
    submits = [_submit("a", prompt=300, max_tokens=3), _submit("b", prompt=300, max_tokens=2)]
    run = _Run(*submits, degree=2)
    assert run.neighbours is not None
    extras = [msgpack.unpackb(extra, use_list=False) for _, _, extra in run.neighbours.sent if extra]
    wire = [msgpack.unpackb(msgpack.packb([(i + 1, to_wire(s))]), use_list=False) for i, s in enumerate(submits)]
    assert extras == wire
    assert [extra != b"" for _, _, extra in run.neighbours.sent][:4] == [True, True, False, False]


def test_the_others_are_told_to_forget_and_at_the_end_to_stop() -> None:
    run = _Run(*(_submit(name, max_tokens=1) for name in "abc"), degree=2)
    assert run.neighbours is not None
    assert run.neighbours.ops() == [
        (Op.STEP, [1, 2]), (Op.STEP, [3]), (Op.FORGET, [1, 2]), (Op.FORGET, [3]), (Op.STOP, []),
    ]  # fmt: skip
    assert run.neighbours.drained


def test_the_others_forget_a_cancelled_request_before_the_next_gets_its_room() -> None:
    def leave(run: _Run, event: Tokens) -> None:
        if event.request == "a":
            run.driver.inbox.put(Cancel("a"))

    run = _Run(_submit("a"), _submit("b", max_tokens=1), kv_tokens=7, degree=2, at_token=leave, ends=1)
    assert run.neighbours is not None
    assert run.neighbours.ops() == [
        (Op.STEP, [1]), (Op.FORGET, [1]), (Op.STEP, [2]), (Op.FORGET, [2]), (Op.STOP, []),
    ]  # fmt: skip


def test_an_idle_group_is_told_that_its_driver_lives() -> None:
    neighbours = FakeNeighbours()
    driver = Driver(
        FakeWorker(),  # type: ignore[arg-type]
        neighbours,  # type: ignore[arg-type]
        Batching(10, 2),
        lambda _events: None,
        alive_every_s=0.001,
    )
    neighbours.on_send = lambda header: driver.inbox.put(None) if len(neighbours.sent) == 3 else None
    driver.run()
    assert neighbours.ops() == [(Op.ALIVE, [])] * 3 + [(Op.STOP, [])]


# ---- requests that come from elsewhere and go on elsewhere


def _driven(
    *commands: object,
    degree: int = 1,
    held: bool = True,
    exports: bool = True,
    ends_with: type = Tokens,
    count: int = 1,
) -> tuple[list[Event], FakeWorker, FakeNeighbours]:
    """What a driver says until so many events of a kind have come; the others' stages have what is claimed, or not."""
    told: list[Event] = []
    worker, neighbours = FakeWorker(held={"a"} if held else set(), exports=exports), FakeNeighbours(held=held)

    def emit(events: Sequence[Event]) -> None:
        told.extend(events)
        if sum(isinstance(event, ends_with) for event in told) == count:
            driver.inbox.put(None)

    driver = Driver(
        worker,  # type: ignore[arg-type]
        neighbours if degree > 1 else None,  # type: ignore[arg-type]
        Batching(1000, degree),
        emit,
        60.0,
        lambda submit: "a token that is none" if 999 in submit.tokens else None,
    )
    for command in commands:
        driver.inbox.put(command)  # type: ignore[arg-type]
    driver.run()
    return told, worker, neighbours


def test_what_is_followed_is_fed_told_of_and_goes_on() -> None:
    told, worker, _ = _driven(Follow(_submit("a")), ends_with=Caught)
    assert (told, worker.fed, worker.started) == ([Caught("a", 3)], [[(1, [1, 2], 0)]], {})
    told, worker, _ = _driven(Follow(_submit("a")), More("a", (4,)), GoOn("a", (5,)), count=2)
    assert worker.fed == [[(1, [1, 2, 3, 4, 5], 0)], [(1, [7], 5)]]
    assert told == [Tokens("a", (7,)), Tokens("a", (7,), "length")]


def test_a_first_answer_is_awaited_from_when_a_request_goes_on() -> None:
    """Not from when it was followed, which may be long before."""
    at: dict[str, float] = {}

    def emit(events: Sequence[Event]) -> None:
        at.setdefault(type(events[0]).__name__, time.monotonic())
        driver.inbox.put(GoOn("a") if isinstance(events[0], Caught) else None)

    def report(_phase: str, since_s: float) -> None:
        at["since"] = since_s

    driver = Driver(FakeWorker(), None, Batching(1000, 1), emit, 60.0, report=report)  # type: ignore[arg-type]
    driver.inbox.put(Follow(_submit("a", max_tokens=1)))
    driver.run()
    assert at["Caught"] <= at["since"] <= at["Tokens"]


@pytest.mark.parametrize("said", [More("a", (999,)), GoOn("a", (999,)), Follow(_submit("b", prompt=999))])
def test_tokens_that_the_model_does_not_know_are_refused_whenever_they_come(said: More | GoOn | Follow) -> None:
    told, worker, _ = _driven(Follow(_submit("a")), said, ends_with=Rejected)
    assert isinstance(told[-1], Rejected)
    assert told[-1].message == "a token that is none"
    assert not any(999 in tokens for step in worker.fed for _, tokens, _ in step)


def test_what_is_given_up_is_told_and_forgotten() -> None:
    told, worker, _ = _driven(_submit("a"), Yield("a"), ends_with=Yielded)
    assert (told, worker.rooms) == ([Yielded("a")], {})


@pytest.mark.parametrize(("exports", "kv_tokens"), [(True, 2), (False, 0)])
def test_a_place_is_told(exports: bool, kv_tokens: int) -> None:
    asked: list[Event] = []

    def ask(run: _Run, _event: Tokens) -> None:
        run.driver.inbox.put(AskPlace("a"))

    worker = FakeWorker(exports=exports)
    run = _Run(_submit("a", prompt=2, max_tokens=2), at_token=ask, worker=worker, heard=asked)
    assert asked[0] == Placed("a", 1, kv_tokens)
    assert run.finishes == {"a": "length"}
    told, *_ = _driven(AskPlace("nobody"), ends_with=Placed)
    assert told == [Placed("nobody", None)]


@pytest.mark.parametrize("degree", [1, 3])
def test_what_all_stages_have_is_put_in_its_place_before_anything_is_fed(degree: int) -> None:
    told, worker, neighbours = _driven(Follow(_submit("a", prompt=600), 599), degree=degree, ends_with=Caught)
    assert (told, worker.fed) == ([Caught("a", 600)], [])
    assert worker.adopted == [Adoption(1, 768, first, min(first + 256, 599)) for first in (0, 256, 512)]
    if degree > 1:
        sent = [(header.op, header.numbers, extra) for header, _, extra in neighbours.sent]
        slices = [(Op.ADOPT, (1, 768, first, min(first + 256, 599)), b"") for first in (0, 256, 512)]
        assert sent == [(Op.CLAIM, (1, 599, 1), b"a"), *slices, (Op.STOP, (), b"")]


@pytest.mark.parametrize("degree", [1, 3])
def test_what_not_all_stages_have_is_given_back_and_computed_anew(degree: int) -> None:
    told, worker, neighbours = _driven(Follow(_submit("a"), 2), degree=degree, held=False, ends_with=Caught)
    assert (told, worker.fed, worker.adopted) == ([Caught("a", 3)], [[(1, [1, 2], 0)]], [])
    if degree > 1:
        assert neighbours.ops()[:3] == [(Op.CLAIM, []), (Op.FORGET, [1]), (Op.STEP, [1])]


@pytest.mark.parametrize(("before", "own"), [(1, True), (1, False), (0, True)])
@pytest.mark.parametrize("last", [False, True])
def test_a_later_stage_says_whether_it_has_what_is_claimed_too(last: bool, before: int, own: bool) -> None:
    """What the ones before it have not is had by none; the last one tells the first."""
    hops = deque([
        (Header(Op.CLAIM, extra_bytes=1, numbers=(5, 9, before)), None, b"a"),
        (Header(Op.ADOPT, numbers=(5, 64, 0, 9)), None, b""),
        (Header(Op.STOP), None, b""),
    ])  # fmt: skip
    worker, neighbours = FakeWorker(held={"a"} if own else set()), FakeNeighbours(hops)
    follow(worker, neighbours, last)  # type: ignore[arg-type]
    held = before and own
    assert worker.adopted == [Adoption(5, 64, 0, 9)]
    assert neighbours.choices == ([[Choice(1 if held else None)]] if last else [])
    if not last:
        assert [(header.op, header.numbers, extra) for header, _, extra in neighbours.sent[:2]] == [
            (Op.CLAIM, (5, 9, int(held)), b"a"), (Op.ADOPT, (5, 64, 0, 9), b""),
        ]  # fmt: skip


_WORDS = Words("d", (b"a", b""), (1,))


def test_words_go_to_the_last_stage() -> None:
    """They are packed by who brings them, and read in a thread of the last one's; those between only pass them on."""
    neighbours = FakeNeighbours()
    driver = Driver(FakeWorker(), neighbours, Batching(1000, 3), lambda _told: None, 60.0)  # type: ignore[arg-type]
    driver.hear(_WORDS)
    driver.hear(None)
    driver.run()
    ((header, hidden, extra), _) = neighbours.sent
    for last in (False, True):
        worker, after = FakeWorker(), FakeNeighbours(deque([(header, hidden, extra), (Header(Op.STOP), None, b"")]))
        follow(worker, after, last)  # type: ignore[arg-type]
        assert worker.learned == ({"d": _WORDS} if last else {})
        assert after.sent == ([] if last else [(header, None, extra), (Header(Op.STOP), None, b"")])


def test_the_only_stage_keeps_them() -> None:
    worker = FakeWorker()
    driver = Driver(worker, None, Batching(1000, 1), lambda _told: None, 60.0)  # type: ignore[arg-type]
    driver.hear(_WORDS)
    driver.hear(None)
    driver.run()
    assert worker.learned == {"d": _WORDS}


def _followed(last: bool) -> tuple[FakeWorker, FakeNeighbours]:
    """A later stage that was led through two requests: one of two steps, one whose prompt comes in two pieces."""
    submit, other = _submit("a", prompt=2), _submit("b", prompt=5)
    hidden = torch.zeros(1, 5, 4)
    extra = msgpack.packb([(5, to_wire(submit)), (6, to_wire(other))])
    first = (Segment(5, 2, 0, True, 64), Segment(6, 3, 0, False, 64))
    second = (Segment(5, 1, 2, True, 64), Segment(6, 2, 3, True, 64))
    hops = deque([
        (Header(Op.STEP, first, extra_bytes=len(extra)), hidden, extra),
        (Header(Op.ALIVE), None, b""),
        (Header(Op.STEP, second), hidden[:, :3], b""),
        (Header(Op.FORGET, slots=(5, 6)), None, b""),
        (Header(Op.STOP), None, b""),
    ])  # fmt: skip
    worker, neighbours = FakeWorker({"a": [10, 11], "b": [20]}), FakeNeighbours(hops)
    follow(worker, neighbours, last)  # type: ignore[arg-type]
    return worker, neighbours


def test_a_stage_in_the_middle_passes_everything_on() -> None:
    worker, neighbours = _followed(last=False)
    assert [[(slot, position) for slot, _, position in step] for step in worker.fed] == [
        [(5, 0), (6, 0)],
        [(5, 2), (6, 3)],
    ]
    assert neighbours.ops() == [
        (Op.STEP, [5, 6]), (Op.ALIVE, []), (Op.STEP, [5, 6]), (Op.FORGET, [5, 6]), (Op.STOP, []),
    ]  # fmt: skip
    assert [extra != b"" for _, _, extra in neighbours.sent] == [True, False, False, False, False]
    assert (neighbours.choices, neighbours.drained, worker.rooms) == ([], True, {})


def test_the_last_stage_chooses_and_sends_nothing_but_choices() -> None:
    worker, neighbours = _followed(last=True)
    assert neighbours.choices == [[Choice(10)], [Choice(11), Choice(20)]]
    assert (neighbours.sent, neighbours.drained, worker.started) == ([], True, {})


# ---- what a stage does with a step


class _Layers:
    """Layers that give `hidden` states of 16 numbers, a pulse that counts, and a model that knows its plan."""

    def __init__(self, breaks: bool = False) -> None:
        self._breaks = breaks
        self.told: list[str] = []
        self.worker = Worker(
            self._forward,
            self,  # type: ignore[arg-type]
            SlabCache(1, 1000, torch.device("cpu")),
            lambda name, _started_s: self.told.append(name),
            self,
        )

    def turn_to(self, plan: object) -> None:
        self.told.append("turn")

    def step(self, tokens: int) -> None:
        self.told.append(f"step of {tokens}")

    def rest(self) -> None:
        self.told.append("rest")

    def _forward(self, x: torch.Tensor) -> torch.Tensor:
        if self._breaks:
            raise RuntimeError("broken")
        return torch.arange(16.0).repeat(1, 2, 1)


def _segment(slot: int, tokens: int, position: int = 0) -> Segment:
    return Segment(slot, tokens, position, True, room_tokens(tokens, 1000))


def test_nothing_runs_ahead_of_requests_of_which_no_token_is_chosen() -> None:
    """One that follows, or is embedded, has no sampler to ask; its neighbour in the step has one."""
    worker = _Layers().worker
    worker.start(1, _submit("says"))
    assert not worker.may_run_ahead([_segment(1, 1, 5), replace(_segment(2, 4, 0), wanted=False, pooling="mean")])


def test_the_first_step_is_reported_and_none_after_it() -> None:
    layers = _Layers()
    for position in (0, 2):
        layers.worker.step([_segment(1, 2, position)], torch.zeros(1, 2))
    assert layers.told == ["step of 2", "turn", "rest", "first step", "step of 2", "turn", "rest"]


def test_layers_that_break_are_not_taken_for_layers_that_hang() -> None:
    layers = _Layers(breaks=True)
    with pytest.raises(RuntimeError, match="broken"):
        layers.worker.step([_segment(1, 2)], torch.zeros(1, 2))
    assert layers.told == ["step of 2", "turn", "rest"]


def test_tokens_are_chosen_for_their_positions_with_what_was_generated_before() -> None:
    """A request that was moved is penalised for what it has generated, not for its prompt, and draws as before."""
    worker = _Layers().worker
    moved = Submit("a", (15, 14, 13), 1, 9, (), Sampling(0.0, presence_penalty=5.0))
    drawn = Submit("b", (1, 2), 2, 9, (), Sampling(1.0, seed=3, top_k=3))
    worker.start(1, moved)
    worker.start(2, drawn)
    out = worker.step([_segment(1, 3), _segment(2, 2)], torch.zeros(1, 5))
    first, second = worker.choose([_segment(1, 3), _segment(2, 2)], out)
    worker.forget([1, 2])
    worker.start(1, drawn)
    assert first == Choice(15)
    assert worker.choose([_segment(1, 2)], out[:, 1:]) == [second]
    assert worker.choose([], out[:, :0]) == []


def test_a_request_that_was_moved_is_kept_from_ending_for_as_long_as_before() -> None:
    """`min_tokens` counts what was generated before the move, and from the prompt's end."""
    worker = _Layers().worker
    out = worker.step([_segment(1, 3)], torch.zeros(1, 3))

    def chosen(prompt_tokens: int, stops: tuple[int, ...], min_tokens: int) -> int | None:
        worker.start(1, Submit("a", (15, 14, 13), prompt_tokens, 9, stops, Sampling(0.0), min_tokens))
        return worker.choose([_segment(1, 3)], out[:, -1:])[0].token

    end = chosen(3, (), 0)
    assert end is not None
    assert chosen(3, (end,), 1) != end
    assert chosen(1, (end,), 3) != end
    assert chosen(1, (end,), 2) == end
