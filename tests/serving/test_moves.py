"""The moves of a front end, step by step: who carries them out, who takes over, and what is told and kept of them."""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any

import pytest

from cluster.virtual_time import run_virtual
from schedules import events
from schedules.actions import MoveAt, Refuse, Shift
from schedules.facts import ModelKey, Placement, StagePlan
from schedules.moving.plan import Handover, Heir, Kind, Plan, Step
from serving.errors import MoveRefused, Unavailable
from serving.metrics import Metrics
from serving.moving.moves import KEPT, PATIENCE_S, Moves
from serving.moving.notices import LATE, LISTENERS, QUEUED, Notices
from serving.moving.report import Carrier
from tests.serving.hand_groups import soon


def placed(*nodes: str) -> Placement:
    stages = tuple(StagePlan(node, 0, 1, (), 0, 0) for node in nodes)
    return Placement("m", stages, 1024, ())


def plan(name: str, wish: str = "", **more: Any) -> Plan:
    heirs = (Heir("g2", placed("c")),)
    handover = Handover("g1", ModelKey("m", "digest"), placed("a", "b"), heirs)
    return Plan(name, Kind.CONSOLIDATE, (handover,), "one is enough", wish=wish, predicted_s={"ready": 2.0}, **more)


class Front:
    """Moves, and a brain that takes every step it is asked for and no other, as the real one does."""

    def __init__(self) -> None:
        self.told: list[events.Event] = []
        self.over: list[Mapping[str, Any]] = []
        self.metrics, self.notices = Metrics(), Notices()
        self.moves = Moves(self.tell, self.metrics, self.notices, self.over.append)
        self.answers: Callable[[str], object] = lambda wish: self.order("m1", wish)

    def tell(self, event: events.Event) -> None:
        self.told.append(event)
        if isinstance(event, events.ConsolidationWanted):
            self.answers(event.wish)

    def order(self, name: str, wish: str = "", **more: Any) -> None:
        self.at(name, Step.ORDERED, wish=wish, **more)

    def at(self, name: str, step: Step, reason: str = "", **more: Any) -> None:
        self.moves.stands(MoveAt(plan(name, **more), step, reason))

    @property
    def went_on(self) -> list[str]:
        """The moves of which somebody said MoveGoOn."""
        return [event.move for event in self.told if isinstance(event, events.MoveGoOn)]

    def shown(self, name: str = "m1") -> Mapping[str, Any]:
        found = self.moves.find(name)
        assert found is not None
        return found

    def measured(self, line: str) -> float | None:
        name, _, labels = line.partition("{")
        pairs = dict(pair.split("=") for pair in labels.rstrip("}").split(",")) if labels else {}
        return self.metrics.registry.get_sample_value(name, pairs)


class Ear:
    """Listens to what is told."""

    def __init__(self, front: Front) -> None:
        self.heard: list[dict[str, Any]] = []
        self.stream: AsyncGenerator[bytes] = front.notices.listen()
        self.listening = asyncio.get_running_loop().create_task(self._listen())

    async def _listen(self) -> None:
        async for line in self.stream:
            self.heard.append(json.loads(line))

    @property
    def notices(self) -> list[str]:
        return [each["notice"] for each in self.heard if each["notice"] != "alive"]

    async def go(self) -> None:
        self.listening.cancel()
        await asyncio.gather(self.listening, return_exceptions=True)
        await self.stream.aclose()


def with_front(test: Callable[[Front], Awaitable[None]]) -> None:
    """Under virtual time; at the end no timer is left."""

    async def main() -> None:
        front = Front()
        await test(front)
        front.moves.close()
        front.notices.close()
        await soon()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        loop = asyncio.get_running_loop()
        assert [timer for timer in loop._scheduled if not timer.cancelled()] == []  # type: ignore[attr-defined]

    run_virtual(main())


# ---- carriers


def test_with_nobody_there_the_front_end_takes_every_step_at_once() -> None:
    async def test(front: Front) -> None:
        front.order("m1")
        assert front.went_on == ["m1"]
        front.at("m1", Step.PREPARING)
        assert front.went_on == ["m1"]
        front.at("m1", Step.READY)
        assert front.went_on == ["m1", "m1"]
        front.at("m1", Step.SWITCHING)
        front.at("m1", Step.DONE)
        assert front.went_on == ["m1", "m1"]
        assert front.shown()["carrier"] == "front end"
        assert [each["move"] for each in front.over] == ["m1"]

    with_front(test)


def test_whoever_listens_is_given_the_order_and_takes_the_steps() -> None:
    async def test(front: Front) -> None:
        ear = Ear(front)
        await soon()
        front.order("m1")
        await soon()
        (order,) = [each for each in ear.heard if each["notice"] == "order"]
        assert (order["move"]["move"], order["move"]["step"], order["move"]["carrier"]) == ("m1", "ordered", "flow")
        assert order["move"]["ordered_at"] > 0
        prepared = asyncio.ensure_future(front.moves.go_on("m1", Step.ORDERED, 600.0))
        await soon()
        assert front.went_on == ["m1"]
        front.at("m1", Step.PREPARING)
        await asyncio.sleep(60.0)
        assert not prepared.done()
        front.at("m1", Step.READY)
        assert (await prepared or {})["step"] == "ready"
        done = asyncio.ensure_future(front.moves.go_on("m1", Step.READY, 600.0))
        await soon()
        assert front.went_on == ["m1", "m1"]
        front.at("m1", Step.SWITCHING)
        await asyncio.sleep(60.0)
        assert not done.done()
        front.at("m1", Step.DONE)
        told = await done or {}
        assert (told["step"], told["carrier"]) == ("done", "flow")
        await soon()
        assert ear.notices == ["order", "move"]
        assert ear.heard[-1]["move"] == told
        await ear.go()

    with_front(test)


@pytest.mark.parametrize("at", [Step.ORDERED, Step.READY])
def test_who_listens_and_keeps_silent_is_not_waited_for(at: Step, caplog: pytest.LogCaptureFixture) -> None:
    """And whoever says it late, or again, changes nothing."""

    async def test(front: Front) -> None:
        ear = Ear(front)
        await soon()
        front.order("m1")
        said = []
        if at is Step.READY:
            await front.moves.go_on("m1", Step.ORDERED, 0.0)
            front.at("m1", Step.READY)
            said = ["m1"]
        patience_s = PATIENCE_S[Carrier.FLOW, at]
        await asyncio.sleep(patience_s - 0.01)
        assert front.went_on == said
        await asyncio.sleep(0.02)
        assert front.went_on == [*said, "m1"]
        assert front.shown()["carrier"] == "front end"
        assert "said nothing" in caplog.text
        front.at("m1", Step.PREPARING if at is Step.ORDERED else Step.SWITCHING)
        late = asyncio.ensure_future(front.moves.go_on("m1", at, 600.0))
        await soon()
        assert front.went_on == [*said, "m1"]
        front.at("m1", Step.GIVEN_UP, "there is no room")
        assert (await late or {})["why"] == "there is no room"
        await ear.go()

    with_front(test)


@pytest.mark.parametrize("at", [Step.ORDERED, Step.PREPARING, Step.READY])
def test_where_who_listened_goes_in_the_middle_the_front_end_takes_over(at: Step) -> None:
    async def test(front: Front) -> None:
        ear = Ear(front)
        await soon()
        front.order("m1")
        before = 0
        if at is not Step.ORDERED:
            await front.moves.go_on("m1", Step.ORDERED, 0.0)
            front.at("m1", at)
            before = 1
        await ear.go()
        assert len(front.went_on) == before + (at is not Step.PREPARING)
        assert front.shown()["carrier"] == "front end"
        if at is Step.PREPARING:
            front.at("m1", Step.READY)
            assert len(front.went_on) == 2

    with_front(test)


def test_whoever_asked_may_drive_the_steps_and_nobody_else_does() -> None:
    async def test(front: Front) -> None:
        ear = Ear(front)
        await soon()
        told = await front.moves.wish(lambda wish: events.ConsolidationWanted(wish, "m"), Carrier.CALLER)
        assert (told["carrier"], told["wish"]) == ("caller", "w1")
        await asyncio.sleep(20.0)
        assert front.went_on == []
        assert ear.notices == []
        await front.moves.go_on("m1", Step.ORDERED, 0.0)
        assert front.went_on == ["m1"]
        await ear.go()
        assert front.shown()["carrier"] == "caller"

    with_front(test)


def test_who_waits_for_a_step_is_told_how_it_stands_when_the_time_is_over() -> None:
    async def test(front: Front) -> None:
        front.order("m1")
        assert (await front.moves.go_on("m1", Step.READY, 5.0) or {})["step"] == "ordered"
        assert await front.moves.go_on("m9", Step.READY, 5.0) is None

    with_front(test)


def test_when_the_front_end_ends_whoever_waits_for_a_step_is_let_go() -> None:
    async def test(front: Front) -> None:
        front.order("m1")
        waiting = asyncio.ensure_future(front.moves.go_on("m1", Step.READY, 600.0))
        await soon()
        front.moves.let_go()
        assert (await waiting or {})["step"] == "ordered"
        assert (await front.moves.go_on("m1", Step.READY, 600.0) or {})["step"] == "ordered"

    with_front(test)


# ---- wishes


def test_a_wish_that_is_refused_says_why() -> None:
    async def test(front: Front) -> None:
        front.answers = lambda wish: front.moves.refused(Refuse(wish, "it does not run"))
        with pytest.raises(MoveRefused, match="it does not run"):
            await front.moves.wish(lambda wish: events.ConsolidationWanted(wish, "m"))
        assert front.moves.latest(9) == []

    with_front(test)


def test_a_wish_that_nobody_answers_is_not_waited_for_without_end() -> None:
    async def test(front: Front) -> None:
        front.answers = lambda _wish: None
        with pytest.raises(Unavailable):
            await front.moves.wish(lambda wish: events.ConsolidationWanted(wish, "m"))
        front.moves.refused(Refuse("w1", "too late"))
        front.order("m1", "w1")
        assert front.shown()["wish"] == "w1"

    with_front(test)


def test_a_move_is_given_up_by_whoever_wants_it_no_more() -> None:
    async def test(front: Front) -> None:
        front.order("m1")
        assert front.moves.give_up("m1", "changed my mind") is not None
        assert front.told[-1] == events.MoveGivenUp("m1", "changed my mind")
        front.at("m1", Step.GIVEN_UP, "changed my mind")
        told = front.moves.give_up("m1", "again") or {}
        assert (told["step"], told["why"]) == ("given up", "changed my mind")
        assert isinstance(front.told[-1], events.MoveGoOn | events.MoveGivenUp)
        assert len([event for event in front.told if isinstance(event, events.MoveGivenUp)]) == 1
        assert front.moves.give_up("m9", "again") is None

    with_front(test)


# ---- what is counted and kept


def test_a_move_tells_all_that_became_of_its_requests() -> None:
    async def test(front: Front) -> None:
        front.order("m1")
        await asyncio.sleep(1.0)
        front.at("m1", Step.PREPARING)
        await asyncio.sleep(1.0)
        front.at("m1", Step.READY)
        await asyncio.sleep(1.0)
        front.at("m1", Step.SWITCHING)
        await asyncio.sleep(1.0)
        copied, computed, stayed, ended, others = (
            front.moves.account(Shift(f"r{number}", group, "g2", copy=True), "m")
            for number, group in enumerate(["g1", "g1", "g1", "g1", "g9"])
        )
        copied.shifted(100, 4000)
        computed.shifted(0, 0)
        stayed.stayed("there is no room")
        ended.over()
        others.stayed("no")
        computed.paused(0.25)
        front.at("m1", Step.DONE)
        assert front.over == []
        copied.paused(0.05)
        (told,) = front.over
        assert told["requests"] == {"shifted": 2, "stayed": 1, "copied": 1, "recomputed": 1, "copied_bytes": 4000}
        assert told["pauses_s"] == [0.25, 0.05]
        assert told["handovers"] == [
            {"group": "g1", "model": "m", "degree": 2, "nodes": ["a", "b"],
             "heirs": [{"group": "g2", "degree": 1, "nodes": ["c"]}]}
        ]  # fmt: skip
        assert told["predicted_s"] == {"ready": 2.0}
        assert told["ordered_at"] < told["preparing_at"] < told["ready_at"] < told["switching_at"] < told["done_at"]
        assert json.loads(json.dumps(told)) == told
        assert front.measured("firsttoken_moves_total{kind=consolidate,outcome=done}") == 1.0
        assert front.measured("firsttoken_shifts_total{model=m,outcome=shifted}") == 2.0
        assert front.measured("firsttoken_shifts_total{model=m,outcome=stayed}") == 2.0
        assert front.measured("firsttoken_shifts_total{model=m,outcome=over}") == 1.0
        assert front.measured("firsttoken_shift_copied_bytes_total{model=m}") == 4000.0
        assert front.measured("firsttoken_move_pause_seconds_sum{model=m,kv=copied}") == 0.05
        assert front.measured("firsttoken_move_pause_seconds_sum{model=m,kv=recomputed}") == 0.25

    with_front(test)


def test_a_request_that_ends_in_its_pause_holds_no_move_up() -> None:
    async def test(front: Front) -> None:
        front.order("m1", request="r1")
        account = front.moves.account(Shift("r1", "g1", "g2", copy=False), "m")
        other = front.moves.account(Shift("r2", "g1", "g2", copy=False), "m")
        account.shifted(0, 0)
        front.at("m1", Step.DONE)
        waits = asyncio.ensure_future(front.moves.go_on("m1", Step.READY, 600.0))
        await soon()
        assert not waits.done()
        account.over()
        assert (await waits or {})["requests"]["shifted"] == 1
        other.stayed("no")
        assert front.shown()["requests"]["stayed"] == 0

    with_front(test)


def test_the_latest_moves_are_kept_and_those_of_before_come_after_them() -> None:
    async def test(front: Front) -> None:
        before = [{"move": f"old{number}"} for number in range(KEPT)]
        front.order("m1")
        front.at("m1", Step.DONE)
        front.order("m2")
        front.order("m3")
        front.moves.restore([{"move": "m1"}, *before])
        assert [each["move"] for each in front.moves.latest(5)] == ["m3", "m2", "m1", "old0", "old1"]
        assert [each["move"] for each in front.moves.under_way()] == ["m3", "m2"]
        assert len(front.moves.latest(10 * KEPT)) == KEPT + 2
        assert front.moves.find("old3") == {"move": "old3"}
        for number in range(KEPT):
            front.order(f"new{number}")
            front.at(f"new{number}", Step.DONE)
        assert front.moves.find("m1") is None

    with_front(test)


# ---- who listens


def test_what_nobody_heard_is_told_to_the_next_who_listens() -> None:
    async def test(front: Front) -> None:
        front.order("m1")
        front.at("m1", Step.DONE)
        for number in range(LATE):
            front.notices.tell("cold_start", cold_start={"number": number})
        front.moves.note_node("a", "left")
        ear = Ear(front)
        await soon()
        late = [each for each in ear.heard if each["notice"] != "alive"]
        assert len(late) == LATE
        assert all(each["late"] for each in late)
        front.moves.note_node("a", "drained")
        await soon()
        assert (ear.heard[-1]["node"], ear.heard[-1]["what"]) == ("a", "drained")
        assert "late" not in ear.heard[-1]
        await ear.go()
        again = Ear(front)
        await soon()
        assert again.notices == []
        await again.go()

    with_front(test)


def test_what_a_listener_had_not_taken_when_it_went_is_the_next_ones() -> None:
    async def test(front: Front) -> None:
        stream = front.notices.listen()
        assert json.loads(await anext(stream)) == {"notice": "alive"}
        front.notices.tell("cold_start", cold_start={"number": 1})
        front.notices.tell("node", node="a", what="left")
        front.notices.tell("cold_start", cold_start={"number": 2})
        assert json.loads(await anext(stream))["cold_start"] == {"number": 1}
        await stream.aclose()
        ear = Ear(front)
        await soon()
        assert [each["cold_start"]["number"] for each in ear.heard if each["notice"] == "cold_start"] == [1, 2]
        await ear.go()

    with_front(test)


def test_of_several_the_one_that_came_last_is_told_and_the_others_stand_by() -> None:
    async def test(front: Front) -> None:
        ears = []
        for _ in range(LISTENERS):
            ears.append(Ear(front))
            await soon()
        front.order("m1")
        await soon()
        assert [ear.notices for ear in ears] == [[]] * (LISTENERS - 1) + [["order"]]
        last = ears.pop()
        await last.go()
        front.order("m2")
        await soon()
        assert ears[-1].notices == ["order"]
        more = [Ear(front), Ear(front)]
        await soon()
        assert ears[0].listening.done()
        assert not ears[1].listening.done()
        for ear in (*ears, *more):
            await ear.go()

    with_front(test)


def test_it_is_said_every_two_seconds_that_the_front_end_is_there() -> None:
    async def test(front: Front) -> None:
        ear = Ear(front)
        await asyncio.sleep(9.0)
        assert ear.heard == [{"notice": "alive"}] * 5
        await ear.go()

    with_front(test)


def test_who_is_too_slow_is_let_go() -> None:
    async def test(front: Front) -> None:
        stream = front.notices.listen()
        await anext(stream)
        for number in range(QUEUED + 1):
            front.notices.tell("cold_start", cold_start={"number": number})
        assert front.notices.first() is None
        with pytest.raises(StopAsyncIteration):
            await anext(stream)

    with_front(test)


def test_when_the_front_end_ends_nobody_listens_on_and_nobody_begins_to() -> None:
    async def test(front: Front) -> None:
        ear = Ear(front)
        await soon()
        front.notices.close()
        await soon()
        assert ear.listening.done()
        late = Ear(front)
        await soon()
        assert late.listening.done()

    with_front(test)
