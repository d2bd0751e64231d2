"""The decode loop, over layers that only remember: who runs, who waits, and how a request ends."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cluster.engine import Driver, follow
from cluster.hop import Header, Op
from cluster.messages import Cancel, Rejected, Submit, Tokens, pack
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
    ) -> None:
        self.events: list[Tokens | Rejected] = []
        self.worker = FakeWorker(script or {})
        self.neighbours = FakeNeighbours() if degree > 1 else None
        self._at_token = at_token
        self._ends = sum(isinstance(command, Submit) for command in commands) if ends is None else ends
        self.driver = Driver(self.worker, self.neighbours, degree, kv_tokens, self._emit, 60.0)  # type: ignore[arg-type]
        for command in commands:
            self.driver.inbox.put(command)
        self.driver.run()

    def _emit(self, event: Tokens | Rejected) -> None:
        self.events.append(event)
        if isinstance(event, Tokens):
            self._at_token(self, event)
        if isinstance(event, Rejected) or event.finish is not None:
            self.end_one()

    def end_one(self) -> None:
        """One request less to wait for; after the last the driver is told to end."""
        self._ends -= 1
        if self._ends == 0:
            self.driver.inbox.put(None)

    @property
    def finishes(self) -> dict[str, str]:
        return {e.request: e.finish for e in self.events if isinstance(e, Tokens) and e.finish is not None}

    @property
    def order(self) -> list[str]:
        return [event.request for event in self.events]


def test_the_prompt_is_fed_at_once_and_then_token_by_token() -> None:
    run = _Run(_submit("a", prompt=3, max_tokens=3), script={"a": [10, 11, 12]})
    assert run.worker.fed == [("a", [1, 2, 3], 0), ("a", [10], 3), ("a", [11], 4)]
    assert run.events == [Tokens("a", (10,)), Tokens("a", (11,)), Tokens("a", (12,), "length")]


def test_a_stop_token_ends_a_request_and_is_given_out() -> None:
    run = _Run(_submit("a", max_tokens=9), script={"a": [10, _STOP]})
    assert run.events == [Tokens("a", (10,)), Tokens("a", (_STOP,), "stop")]


def test_a_stop_token_at_the_very_end_is_a_stop() -> None:
    assert _Run(_submit("a", max_tokens=2), script={"a": [10, _STOP]}).finishes == {"a": "stop"}


def test_a_request_that_was_moved_goes_on_after_what_it_had() -> None:
    run = _Run(_submit("a", prompt=2, generated=3, max_tokens=2))
    assert run.worker.fed == [("a", [1, 2, 3, 4, 5], 0), ("a", [7], 5)]


def test_two_requests_take_turns() -> None:
    assert _Run(_submit("a"), _submit("b")).order == ["a", "b"] * 4


def test_a_request_that_comes_later_does_not_wait_for_the_first_to_end() -> None:
    def second(run: _Run, event: Tokens) -> None:
        if len(run.events) == 1:
            run.driver.inbox.put(_submit("b", max_tokens=1))

    run = _Run(_submit("a", max_tokens=5), at_token=second, ends=2)
    assert run.order.index("b") <= 2


def test_what_ended_is_forgotten() -> None:
    assert _Run(_submit("a"), _submit("b")).worker.alive == {}


def test_requests_run_together_as_far_as_the_cache_reaches() -> None:
    """Each takes 3 + 4 tokens."""
    names = ["a", "b", "c", "d", "e"]
    run = _Run(*(_submit(name) for name in names), kv_tokens=14)
    assert run.worker.most_alive == 2
    assert set(run.finishes) == set(names)


def test_requests_start_in_the_order_in_which_they_came() -> None:
    run = _Run(_submit("a"), _submit("large", prompt=10), _submit("small", prompt=1, max_tokens=1), kv_tokens=14)
    first_fed = [name for name, _, position in run.worker.fed if position == 0]
    assert first_fed == ["a", "large", "small"]
    assert run.worker.most_alive == 1


def test_a_request_that_fills_the_cache_runs_alone() -> None:
    assert set(_Run(_submit("a", 3, 4), _submit("b", 3, 4), kv_tokens=7).finishes) == {"a", "b"}


def test_a_request_that_never_fits_is_rejected_and_the_others_go_on() -> None:
    run = _Run(_submit("a", 3, 5), _submit("b", 3, 4), kv_tokens=7)
    (rejected,) = [event for event in run.events if isinstance(event, Rejected)]
    assert rejected.request == "a"
    assert "8 tokens, this replica's KV cache holds 7" in rejected.message
    assert run.finishes == {"b": "length"}


def test_a_cancelled_request_stops_and_gives_its_room_to_the_next() -> None:
    def leave(run: _Run, event: Tokens) -> None:
        if event.request == "a" and len(run.events) == 2:
            run.driver.inbox.put(Cancel("a"))

    run = _Run(_submit("a", max_tokens=11), _submit("b", max_tokens=11), kv_tokens=14, at_token=leave, ends=1)
    assert run.finishes == {"b": "length"}
    assert len(texts_of(run.events)["a"]) <= 3
    assert run.worker.alive == {}


def test_a_request_that_is_cancelled_while_it_waits_never_runs() -> None:
    run = _Run(_submit("a"), _submit("b"), Cancel("b"), kv_tokens=7, ends=1)
    assert run.worker.fed[0][0] == "a"
    assert "b" not in run.order


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
    assert run.worker.alive == {}


def test_none_ends_it_with_requests_still_running() -> None:
    def end(run: _Run, event: Tokens) -> None:
        run.driver.inbox.put(None)

    assert len(_Run(_submit("a", max_tokens=100), at_token=end).events) == 1


def test_none_ends_an_idle_driver() -> None:
    driver = Driver(FakeWorker(), None, 1, 10, lambda _event: None, 60.0)  # type: ignore[arg-type]
    driver.inbox.put(None)
    driver.run()


_LOADS = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 6), st.booleans()), min_size=1, max_size=12)


@given(_LOADS, st.integers(4, 30), st.sampled_from([1, 2, 4]))
def test_whatever_comes_everyone_gets_all_tokens_within_the_cache(
    loads: list[tuple[int, int, bool]], kv_tokens: int, degree: int
) -> None:
    submits = [_submit(f"r{i}", prompt, max_tokens) for i, (prompt, max_tokens, _) in enumerate(loads)]
    fitting = {s.request: s.max_tokens for s in submits if len(s.tokens) + s.max_tokens <= kv_tokens}
    run = _Run(*submits, kv_tokens=kv_tokens, degree=degree)
    assert {name: len(text) for name, text in texts_of(run.events).items()} == fitting
    assert {event.request for event in run.events if isinstance(event, Rejected)} == {
        submit.request for submit in submits if submit.request not in fitting
    }
    assert run.worker.alive == {}


# ---- over several stages


@pytest.mark.parametrize("degree", [2, 3])
def test_as_many_steps_are_under_way_as_there_are_stages(degree: int) -> None:
    run = _Run(*(_submit(f"r{i}") for i in range(5)), degree=degree)
    assert run.neighbours is not None
    assert run.neighbours.most_under_way == degree
    assert run.neighbours.under_way == 0


def test_one_request_has_one_step_under_way() -> None:
    run = _Run(_submit("a"), degree=4)
    assert run.neighbours is not None
    assert run.neighbours.most_under_way == 1


def test_parameters_travel_with_the_first_step_alone() -> None:
    submit = _submit("a", prompt=3, max_tokens=3)
    run = _Run(submit, degree=2)
    assert run.neighbours is not None
    steps = [(header, extra) for header, _, extra in run.neighbours.sent if header.op is Op.STEP]
    assert [extra for _, extra in steps] == [pack(submit), b"", b""]
    assert [(header.tokens, header.position) for header, _ in steps] == [(3, 0), (1, 3), (1, 4)]


def test_the_others_are_told_to_forget_and_at_the_end_to_stop() -> None:
    run = _Run(_submit("a", max_tokens=1), _submit("b", max_tokens=1), degree=2)
    assert run.neighbours is not None
    assert run.neighbours.ops() == [(Op.STEP, 1), (Op.STEP, 2), (Op.FORGET, 1), (Op.FORGET, 2), (Op.STOP, 0)]
    assert run.neighbours.drained


def test_an_idle_group_is_told_that_its_driver_lives() -> None:
    neighbours = FakeNeighbours()
    driver = Driver(FakeWorker(), neighbours, 2, 10, lambda _event: None, alive_every_s=0.001)  # type: ignore[arg-type]
    neighbours.on_send = lambda header: driver.inbox.put(None) if len(neighbours.sent) == 3 else None
    driver.run()
    assert neighbours.ops() == [(Op.ALIVE, 0)] * 3 + [(Op.STOP, 0)]


def _followed(last: bool) -> tuple[FakeWorker, FakeNeighbours]:
    """A later stage that was led through one request of two steps."""
    submit = _submit("a", prompt=2)
    hidden = torch.zeros(1, 2, 4)
    hops = deque([
        (Header(Op.STEP, 5, 2, 0, 1), hidden, pack(submit)),
        (Header(Op.ALIVE), None, b""),
        (Header(Op.STEP, 5, 1, 2), hidden[:, :1], b""),
        (Header(Op.FORGET, 5), None, b""),
        (Header(Op.STOP), None, b""),
    ])  # fmt: skip
    worker, neighbours = FakeWorker({"a": [10, 11]}), FakeNeighbours(hops)
    follow(worker, neighbours, last)  # type: ignore[arg-type]
    return worker, neighbours


def test_a_stage_in_the_middle_passes_everything_on() -> None:
    worker, neighbours = _followed(last=False)
    assert [position for _, _, position in worker.fed] == [0, 2]
    assert neighbours.ops() == [(Op.STEP, 5), (Op.ALIVE, 0), (Op.STEP, 5), (Op.FORGET, 5), (Op.STOP, 0)]
    assert [extra != b"" for _, _, extra in neighbours.sent] == [True, False, False, False, False]
    assert (neighbours.tokens, neighbours.drained) == ([], True)


def test_the_last_stage_chooses_and_sends_nothing_but_tokens() -> None:
    worker, neighbours = _followed(last=True)
    assert neighbours.tokens == [10, 11]
    assert (neighbours.sent, neighbours.drained, worker.alive) == ([], True, {})
