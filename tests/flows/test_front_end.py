"""How flows speak to the front end, and what they make of its answers."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from prefect.states import Failed

from firsttoken.ports import free_port
from flows import front_end as module
from flows.errors import FlowError, FrontEndAway, NotInTime, Refused, Unanswered, Unintelligible
from flows.front_end import FrontEnd
from flows.moving import steps
from flows.moving.moves import Wish, read_move
from flows.moving.page import page_of
from flows.planning.answering import known_of
from flows.planning.asking import Known, Wishes
from schedules.facts import Rate
from schedules.moving.plan import Kind, Step
from schedules.traces.errors import BadTrace
from schedules.traces.happened import Asked
from tests.flows.front_end_double import FrontEndDouble, front_end_double, told

KEY = "a-key"
CONSOLIDATE = Wish(Kind.CONSOLIDATE, model="tiny")


@pytest.fixture(scope="module")
def port() -> int:
    """Where the double listens."""
    return free_port()


@pytest.fixture(scope="module")
def double(port: int) -> Iterator[FrontEndDouble]:
    """A front end that has moves."""
    with front_end_double(port, KEY) as double:
        yield double


@pytest.fixture
def front_end(port: int, double: FrontEndDouble) -> FrontEnd:
    """The way to it."""
    return FrontEnd(f"http://127.0.0.1:{port}", KEY)


async def test_a_move_is_ordered_and_driven(front_end: FrontEnd) -> None:
    ordered = await front_end.order(CONSOLIDATE)
    assert (ordered.step, ordered.carrier, ordered.models, ordered.goes_to) == (
        Step.ORDERED,
        "caller",
        ("tiny",),
        ("node-2",),
    )
    assert (await front_end.go_on(ordered.move, Step.ORDERED, 5)).step is Step.READY
    assert (await front_end.go_on(ordered.move, Step.READY, 5)).over
    assert (await front_end.move(ordered.move)).requests.shifted == 2


async def test_a_move_that_does_not_get_on_is_told_as_it_stands(front_end: FrontEnd) -> None:
    held = await front_end.order(Wish(Kind.MIGRATE, model="held", node="node-2"))
    assert (await front_end.go_on(held.move, Step.ORDERED, 0.05)).step is Step.PREPARING
    given_up = await front_end.give_up(held.move, "too long a reason " * 100)
    assert given_up.step is Step.GIVEN_UP
    assert len(given_up.why or "") == 500


@pytest.mark.parametrize("step", [steps.prepare, steps.switch])
async def test_a_step_that_takes_too_long_is_an_error_that_says_where_the_move_stands(
    front_end: FrontEnd, monkeypatch: pytest.MonkeyPatch, step: Any
) -> None:
    for name, seconds in (("PREPARED_WITHIN_S", 0.05), ("SWITCHED_WITHIN_S", 0.05), ("_ROUND_S", 0.02)):
        monkeypatch.setattr(steps, name, seconds)
    held = await front_end.order(Wish(Kind.MIGRATE, model="held", node="node-2"))
    await front_end.go_on(held.move, Step.ORDERED, 0.0)
    with pytest.raises(NotInTime, match="but preparing"):
        await step.fn(front_end, held)


async def test_a_move_of_another_kind_is_not_carried_out_under_a_wrong_name(front_end: FrontEnd) -> None:
    ordered = await front_end.order(CONSOLIDATE)
    with pytest.raises(Refused, match="is to consolidate, not to drain"):
        await steps.plan.fn(front_end, Wish(Kind.DRAIN, node="node-1"), ordered.move)


@pytest.mark.parametrize(
    ("model", "error", "sentence"),
    [
        ("nothing-runs", Refused, "nothing of 'nothing-runs' can be moved"),
        ("not-now", Unanswered, "cannot do it now: wait"),
    ],
)
async def test_what_is_not_ordered_is_not_asked_for_again(
    front_end: FrontEnd, model: str, error: type[FlowError], sentence: str
) -> None:
    """A front end that cannot say whether it ordered the move must not be asked twice: only a faulty connection is."""
    with pytest.raises(error, match=sentence) as raised:
        await front_end.order(Wish(Kind.CONSOLIDATE, model=model))
    assert not steps.front_end_was_away(steps.plan, None, Failed(data=raised.value))  # type: ignore[arg-type]


async def test_who_cannot_be_reached_is_asked_again(port: int) -> None:
    nobody = FrontEnd(f"http://127.0.0.1:{free_port()}", KEY)
    for question in (nobody.order(CONSOLIDATE), nobody.move("m"), nobody.go_on("m", Step.READY, 1)):
        with pytest.raises(FrontEndAway) as raised:
            await question
        assert steps.front_end_was_away(steps.plan, None, Failed(data=raised.value))  # type: ignore[arg-type]


async def test_who_does_not_know_the_key_is_told_so(port: int, double: FrontEndDouble) -> None:
    stranger = FrontEnd(f"http://127.0.0.1:{port}", "a guess")
    with pytest.raises(Refused, match="operator's key"):
        await stranger.move("m")
    with pytest.raises(Refused, match="operator's key"):
        await anext(stranger.notices())
    assert KEY not in repr(FrontEnd("http://x", KEY))


async def test_a_stream_that_falls_silent_is_left(front_end: FrontEnd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENT_AFTER_S", 0.1)

    async def hear_all() -> None:
        async for _ in front_end.notices():
            pass

    with pytest.raises(FrontEndAway, match="tells nothing"):
        await asyncio.wait_for(hear_all(), 5)


@pytest.mark.parametrize("text", ["{", "3", "<html>"])
def test_what_is_no_json_object_is_not_understood(text: str) -> None:
    with pytest.raises(Unintelligible):
        module._object(text)


@pytest.mark.parametrize("change", [{"step": "flying"}, {"kind": None}, {"handovers": [{"group": "g"}]}])
def test_a_move_that_cannot_be_read_is_named(change: dict[str, Any]) -> None:
    with pytest.raises(Unintelligible, match=next(iter(change))):
        read_move(told("m", Kind.DRAIN) | change)


def test_a_newer_front_end_may_say_more() -> None:
    assert read_move(told("m", Kind.DRAIN) | {"colour": "red"}).move == "m"


def test_a_page_says_why_a_move_was_given_up_and_what_is_not_known() -> None:
    page = page_of(read_move(told("m", Kind.DRAIN) | {"step": "given up", "why": "node-2 has left"}), recorded=False)
    assert "Drain: **given up**, what was to make way goes on as it was. node-2 has left" in page
    assert "| prepare: heirs start | - | 1.500 |" in page
    assert "pause" not in page


def test_a_page_says_who_carried_the_move_out() -> None:
    move = told("m", Kind.DRAIN) | {"step": "done", "carrier": "front end", "done_at": 1e9}
    assert "carried out by the front end until 2001-09-09 01:46:40.000 UTC" in page_of(read_move(move), recorded=True)
    assert "The front end took its steps over." in page_of(read_move(move), recorded=False)
    assert "took its steps over" not in page_of(read_move(move | {"carrier": "flow"}), recorded=False)


def test_a_page_says_what_goes_where() -> None:
    page = page_of(read_move(told("m", Kind.DRAIN)), recorded=False)
    assert "- tiny: `m-old`, 2 stages at node-1, node-2 → `m-new`, 1 stage at node-2" in page


def test_a_page_shows_what_has_no_heirs() -> None:
    move = told("m", Kind.DRAIN)
    move["handovers"][0]["heirs"] = []
    page = page_of(read_move(move | {"pauses_s": [0.3, 0.1, 0.2]}), recorded=False)
    assert "- tiny: `m-old`, 2 stages at node-1, node-2 has no heirs: its requests end where they are" in page
    assert "| pause, median | 200.0 ms |" in page
    assert "| pause, longest | 300.0 ms |" in page


@pytest.mark.parametrize(
    ("flow", "asked", "name"),
    [
        ("consolidate", {"model": "tiny", "node": ""}, "consolidate tiny"),
        ("consolidate", {"model": "tiny", "node": "node-2"}, "consolidate tiny -> node-2"),
        ("migrate", {"model": "", "request": "r-1", "group": "", "node": "node-2"}, "migrate r-1 -> node-2"),
        ("drain", {"node": "node-2"}, "drain node-2"),
    ],
)
def test_a_run_is_called_by_what_moves_and_where_to(flow: str, asked: dict[str, str], name: str) -> None:
    assert steps.name_of(flow, asked) == name


async def test_the_nodes_are_told_with_what_they_have_measured(front_end: FrontEnd) -> None:
    (node,) = await front_end.nodes()
    assert (node.name, node.machine, node.gpu, node.device_bytes) == ("node-1", "box", "", 4 << 30)
    assert node.rates == {"nic": Rate(1e9, 9e8, 4)}


async def test_nodes_that_nobody_can_read_are_an_error(front_end: FrontEnd, double: FrontEndDouble) -> None:
    node = double.nodes.pop()
    double.nodes.append({"name": "node-1"})
    with pytest.raises(Unintelligible, match="what are no nodes"):
        await front_end.nodes()
    double.nodes[:] = [node]


async def test_the_latest_cold_starts_are_told(front_end: FrontEnd, double: FrontEndDouble) -> None:
    double.cold_starts = [{"model": "a"}, {"model": "b"}]
    assert await front_end.cold_starts(1) == [{"model": "a"}]
    double.cold_starts = None
    with pytest.raises(Unintelligible, match="what are no cold starts"):
        await front_end.cold_starts(1)
    double.cold_starts = []


async def test_what_was_asked_is_told_as_far_as_there_is_an_end_to_it(
    front_end: FrontEnd, double: FrontEndDouble
) -> None:
    asked = [Asked("tiny", at_s, 10, 20, 5, ttft_s=0.2) for at_s in (100.0, 150.0, 200.0)]
    double.requests[:] = [each._asdict() for each in asked]
    assert await front_end.requests(100.0, 200.0) == asked[:2]
    double.ends = False
    with pytest.raises(FrontEndAway, match="broke off"):
        await front_end.requests(100.0, 200.0)
    double.ends = True
    double.requests[:] = [{"at_s": 100.0}]
    with pytest.raises(Unintelligible, match="what is no request"):
        await front_end.requests(100.0, 200.0)


async def test_of_the_front_end_only_that_is_asked_what_the_wishes_are_about(
    front_end: FrontEnd, double: FrontEndDouble
) -> None:
    double.requests[:] = [Asked("tiny", 1e9 - 50.0, 10, 20, 5)._asdict()]
    nowhere = FrontEnd("http://127.0.0.1:1", KEY)
    wishes = Wishes("a.npz", "h100=4", "300s", 4, 1024)
    assert await known_of(wishes, nowhere, 1e9) == Known()
    past = replace(wishes, trace="history", duration="2min")
    known = await known_of(replace(past, node_types="cluster=1"), front_end, 1e9)
    assert [node.name for node in known.nodes] == ["node-1"]
    assert known.past is not None
    assert (known.past.duration_s, known.past.at_s.tolist(), known.past.models) == (120.0, [70.0], ("tiny",))
    with pytest.raises(BadTrace, match="no request came"):
        await known_of(replace(past, duration="10s"), front_end, 1e9)


async def test_who_has_no_key_asks_without_one(port: int, double: FrontEndDouble) -> None:
    """An empty one cannot even be sent, and the front end was taken for one that is away."""
    with pytest.raises(Refused, match="key is missing"):
        await FrontEnd(f"http://127.0.0.1:{port}", "").nodes()
