"""What the flow service makes of notices, and how events wait for Prefect."""

import asyncio
import json
import logging
from contextlib import AbstractContextManager, suppress
from datetime import UTC, datetime
from typing import Any, cast

import httpx
import pytest
from prefect.client.orchestration import PrefectClient
from prefect.events import Event

from firsttoken.ports import free_port
from flows import carrying, events
from flows.carrying import Carrier
from flows.errors import Unintelligible
from flows.events import Outbox
from flows.front_end import FrontEnd
from flows.listening import Ear
from flows.moving.moves import read_move
from schedules.facts import ModelKey, Placement, StagePlan
from schedules.moving.plan import Handover, Heir, Kind, Plan, Step
from serving.cold_start import ColdStart
from serving.moving.notices import Notices
from serving.moving.report import Carrier as ToldBy
from serving.moving.report import Move as ToldMove
from tests.flows.front_end_double import FrontEndDouble, front_end_double, told


class Prefect:
    """Prefect's client as far as an outbox and a carrier use it. `failures` are raised first, one a request."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.names: list[str] = []
        self.asked: asyncio.Queue[None] = asyncio.Queue()
        self.runs = 0

    async def request(self, _method: str, _path: str, *, json: list[dict[str, Any]]) -> None:
        self.asked.put_nowait(None)
        if self.failures:
            raise self.failures.pop(0)
        self.names += [event["event"] for event in json]

    async def create_flow_run(self, *_parts: Any, **_named: Any) -> None:
        self.runs += 1
        await asyncio.Event().wait()


class Noted:
    """In place of a carrier and an outbox: what they were told."""

    def __init__(self) -> None:
        self.carried: list[str] = []
        self.orders: asyncio.Queue[None] = asyncio.Queue()
        self.closed: list[str] = []
        self.events: list[str] = []

    def carry(self, move: Any) -> None:
        self.carried.append(move.move)
        self.orders.put_nowait(None)

    def close_record(self, move: Any) -> None:
        self.closed.append(move.move)

    def add(self, told: list[Event]) -> None:
        self.events += [event.event for event in told]


def an_outbox(prefect: Prefect, kept: int = 8) -> Outbox:
    return Outbox(cast("PrefectClient", prefect), kept)


def an_event(name: str) -> Event:
    return Event(event=name, resource={"prefect.resource.id": "firsttoken.node.n"})


def an_ear(noted: Noted) -> Ear:
    return Ear(cast("Carrier", noted), cast("Outbox", noted))


async def delivered(outbox: Outbox, prefect: Prefect, requests: int) -> None:
    """Let it deliver until Prefect was asked so often."""
    delivering = asyncio.create_task(outbox.deliver())
    try:
        async with asyncio.timeout(5):
            for _ in range(requests):
                await prefect.asked.get()
            await asyncio.sleep(0)
    finally:
        delivering.cancel()
        with suppress(asyncio.CancelledError):
            await delivering


async def test_events_wait_in_their_order_until_prefect_takes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "_FIRST_BACKOFF_S", 0.0)
    prefect = Prefect(httpx.ConnectError("refused"), TimeoutError())
    outbox = an_outbox(prefect)
    outbox.add([an_event("a"), an_event("b")])
    outbox.add([an_event("c")])
    await delivered(outbox, prefect, requests=3)
    assert prefect.names == ["a", "b", "c"]
    outbox.add([an_event("d")])
    await delivered(outbox, prefect, requests=1)
    assert prefect.names == ["a", "b", "c", "d"]


async def test_of_too_many_events_the_oldest_are_lost_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    prefect = Prefect()
    outbox = an_outbox(prefect, kept=2)
    outbox.add(an_event(name) for name in "abcd")
    await delivered(outbox, prefect, requests=1)
    assert prefect.names == ["c", "d"]
    assert "2 events are lost" in caplog.text


async def test_what_prefect_calls_wrong_keeps_nothing_from_being_told() -> None:
    request = httpx.Request("POST", "http://prefect/events")
    refusal = httpx.HTTPStatusError("no", request=request, response=httpx.Response(422, request=request, text="no"))
    prefect = Prefect(refusal)
    outbox = an_outbox(prefect)
    outbox.add([an_event("wrong")])
    await delivered(outbox, prefect, requests=1)
    outbox.add([an_event("right")])
    await delivered(outbox, prefect, requests=1)
    assert prefect.names == ["right"]


def test_an_order_is_carried_out_and_told_once() -> None:
    noted = Noted()
    ear = an_ear(noted)
    ear.hear({"notice": "order", "move": told("m", Kind.DRAIN)})
    ear.hear({"notice": "move", "move": told("m", Kind.DRAIN) | {"step": "done"}})
    assert (noted.carried, noted.closed) == (["m"], ["m"])
    assert noted.events == ["firsttoken.move.ordered", "firsttoken.move.done"]


def test_a_move_that_was_carried_out_before_is_told_from_its_beginning() -> None:
    noted = Noted()
    move = told("m", Kind.DRAIN) | {"step": "given up", "carrier": "front end"}
    an_ear(noted).hear({"notice": "move", "move": move, "late": True})
    assert (noted.carried, noted.closed) == ([], ["m"])
    assert noted.events == ["firsttoken.move.ordered", "firsttoken.move.given-up"]


@pytest.mark.parametrize(
    "notice",
    [
        {"notice": "order", "move": {"move": "m"}},
        {"notice": "move"},
        {"notice": "cold_start", "cold_start": None},
        {"notice": "cold_start", "cold_start": {"model": "m", "arrived_at": "noon", "ttft_s": 1}},
        {"notice": "node", "node": "n"},
    ],
)
def test_what_cannot_be_read_is_passed_over_and_logged(
    notice: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    noted = Noted()
    an_ear(noted).hear(notice)
    assert (noted.carried, noted.events) == ([], [])
    assert "cannot be read" in caplog.text


async def test_what_the_real_front_end_tells_is_understood() -> None:
    """A move from its order to its end, a cold start and a node that left, as serving/ words them."""
    notices, noted = Notices(), Noted()
    stream = notices.listen()
    assert json.loads(await anext(stream)) == {"notice": "alive"}
    old, new = (Placement("m", (StagePlan(node, 0, 1, (), 0, 0),), 1024, ()) for node in ("a", "b"))
    plan = Plan("m1", Kind.DRAIN, (Handover("g1", ModelKey("m", "d"), old, (Heir("g2", new),)),), "a is drained", "a")
    move = ToldMove(plan, ToldBy.FLOW, at_s={Step.ORDERED: 1e9})
    notices.tell("order", move=move.as_json())
    move.step, move.at_s[Step.DONE] = Step.DONE, 2e9
    notices.tell("move", move=move.as_json())
    notices.tell("cold_start", cold_start=ColdStart("m", "g1", ("a",), 1e9, 0.5, ()).as_json())
    notices.tell("node", node="a", what="left", at=1e9)
    ear = an_ear(noted)
    for _ in range(4):
        ear.hear(json.loads(await asyncio.wait_for(anext(stream), 5)))
    await stream.aclose()
    assert (noted.carried, noted.closed) == (["m1"], ["m1"])
    assert noted.events == [events.MOVE_ORDERED, events.MOVE_DONE, events.COLD_START, events.NODE + "left"]
    read = read_move(move.as_json())
    assert (read.models, read.goes_to, read.node, read.over, read.done_at) == (("m",), ("b",), "a", True, 2e9)


def test_what_is_not_for_us_is_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    noted = Noted()
    for notice in ({"notice": "alive"}, {"notice": "from a newer front end"}, {}):
        an_ear(noted).hear(notice)
    assert (noted.carried, noted.events, caplog.text) == ([], [], "")


def test_events_speak_of_models_and_nodes() -> None:
    drain = events.of_order(read_move(told("m", Kind.DRAIN) | {"node": "node-1", "handovers": []}))
    assert drain.resource.id == "firsttoken.node.node-1"
    assert drain.occurred == datetime.fromtimestamp(1e9, UTC)
    left = events.of_node({"node": "node-3", "what": "drained", "at": 2e9}, datetime.now(UTC))
    assert (left.event, left.resource.id, left.occurred.year) == (
        "firsttoken.node.drained",
        "firsttoken.node.node-3",
        2033,
    )
    with pytest.raises(Unintelligible):
        events.of_node({"node": "node-3", "what": "drained", "at": "noon"}, datetime.now(UTC))


async def test_more_moves_than_can_be_carried_are_left_to_the_front_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(carrying, "MOST_AT_ONCE", 1)
    prefect = Prefect()
    carrier = Carrier(cast("PrefectClient", prefect))
    for name in ("m1", "m2"):
        carrier.carry(read_move(told(name, Kind.DRAIN)))
    await asyncio.sleep(0)
    assert prefect.runs == 1
    assert "the front end carries out the move m2 alone" in caplog.text
    await carrier.close()


async def test_a_front_end_that_is_away_is_listened_to_when_it_is_back(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    port, noted = free_port(), Noted()
    ear = asyncio.create_task(an_ear(noted).listen(FrontEnd(f"http://127.0.0.1:{port}", "key")))
    async with asyncio.timeout(20):
        for model in ("m1", "m2"):
            await asyncio.to_thread(_order_when_heard, front_end_double(port, "key"), model)
            await noted.orders.get()
    ear.cancel()
    with suppress(asyncio.CancelledError):
        await ear
    assert "no word from the front end" in caplog.text


def _order_when_heard(running: AbstractContextManager[FrontEndDouble], model: str) -> None:
    with running as double:
        double.listeners(1)
        double.order(Kind.CONSOLIDATE, model)
