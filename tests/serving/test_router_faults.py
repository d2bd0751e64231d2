"""The router whatever goes wrong beside requests: stops and starts that fail, groups that are found, and its own end."""

import asyncio
import logging
from typing import Any

import pytest

from cluster.errors import StageFailed
from cluster.fake import FakeCluster
from cluster.fake_group import FakeGroup
from schedules import events
from schedules.facts import Placement
from schedules.placing.policies.fixed import place
from tests.schedules.worlds import MB, world_node
from tests.serving.routed import START_TIMEOUT_S, WANTED, Routed, played, said, served, until

MODEL, OTHER = served("m"), served("n")
LONG = 200


def test_a_stop_that_fails_is_over_all_the_same() -> None:
    """Its lease ends the group; who waits for its room gets it."""

    class Failing(FakeCluster):
        async def dissolve(self, group: FakeGroup) -> None:
            await super().dissolve(group)
            if errors:
                raise errors.pop()

    errors: list[Exception] = []

    async def test(now: Routed) -> None:
        await now.answered(MODEL)
        for error in (StageFailed("nobody answers"), RuntimeError("odd")):
            errors.append(error)
            assert (await now.answered(OTHER)).tokens == said("n", 8)
            assert errors == []
            await until(lambda: now.states() == [], 2 * WANTED.keep_alive_s)
            assert now.router._groups.up == {}
            assert (await now.answered(MODEL)).tokens == said("m", 8)

    played(test, world_node("a", 70 * MB), kind=Failing)


def test_a_group_that_forms_although_its_start_was_given_up_is_dissolved() -> None:
    """What a start became as it was cancelled was nobody's: it was up, and its lease was renewed, for ever."""
    formed: list[str] = []

    class Deaf(FakeCluster):
        async def form(self, *ordered: Any, **how: Any) -> FakeGroup:
            forming = asyncio.ensure_future(super().form(*ordered, **how))
            try:
                return await asyncio.shield(forming)
            except asyncio.CancelledError:
                formed.append(ordered[0])
                return await forming

    async def test(now: Routed) -> None:
        call = now.ask(MODEL)
        await asyncio.sleep(0.1)
        (group,) = now.groups("starting")
        now.router.tell(events.GroupLost(group, "for a test"))
        await call.reading
        assert call.tokens == said("m", 8)
        assert formed == [group]
        await until(lambda: group not in now.router._groups.up)
        assert list(now.cluster._groups) == now.groups() != [group]

    played(test, kind=Deaf)


def test_what_goes_wrong_while_one_event_is_handled_does_not_keep_the_next_from_being(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What was decided with an action that could not be carried out was never done either, and nobody decides it twice."""

    async def test(now: Routed) -> None:
        handle, faults = now.router._brain.handle, [KeyError("odd")]

        def faulty(event: events.Event, now_s: float) -> Any:
            if isinstance(event, events.NodeReported) and faults:
                raise faults.pop()
            return handle(event, now_s)

        monkeypatch.setattr(now.router._brain, "handle", faulty)
        await until(lambda: not faults)
        monkeypatch.setattr(now.router, "_note_decision", lambda _action: [][0])
        assert (await now.answered(MODEL)).tokens == said("m", 8)
        with pytest.raises(AttributeError):
            now.router.tell(events.ModelKnown(None, WANTED))  # type: ignore[arg-type]
        assert (await now.answered(MODEL)).tokens == said("m", 8)

    with caplog.at_level(logging.ERROR):
        played(test)
    assert [record.exc_info is not None for record in caplog.records] == [True, True]


def test_a_request_that_cannot_be_told_of_is_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """Choices that had been told of before were held for ever, and counted."""

    async def test(now: Routed) -> None:
        tell, left = now.router.tell, [None, None, ValueError("odd")]

        def faulty(event: events.Event) -> None:
            if isinstance(event, events.RequestArrived) and (error := left.pop(0)) is not None:
                raise error
            tell(event)

        monkeypatch.setattr(now.router, "tell", faulty)
        with pytest.raises(ValueError, match="odd"):
            now.admit(MODEL, choices=3)
        assert now.measured("firsttoken_held_requests") == 0.0

    played(test)


# ---- groups that are found


def test_a_group_that_is_found_is_adopted_once_its_model_is_open() -> None:
    async def test(now: Routed) -> None:
        placement = place(MODEL.facts, now.cluster.view(), 1, WANTED.kv_tokens)
        assert isinstance(placement, Placement)
        await now.cluster.form("theirs", placement, MODEL.checkpoint, START_TIMEOUT_S)
        now.cluster.abandon_group("theirs")
        await until(lambda: now.groups() == ["theirs"])
        assert now.opened == ["m"]
        assert (await now.answered(MODEL)).tokens == said("m", 8)
        assert now.groups() == ["theirs"]
        await until(lambda: now.states() == [], 2 * WANTED.keep_alive_s)

    played(test, catalog=[MODEL])


def test_a_group_whose_model_cannot_be_opened_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    async def test(now: Routed) -> None:
        now.router.hear(events.GroupFound("theirs", MODEL.facts.key, Placement("m", (), 1024, ())))
        await asyncio.sleep(1.0)
        assert now.states() == []

    with caplog.at_level(logging.WARNING):
        played(test)
    assert "not adopted" in caplog.text


@pytest.mark.parametrize("error", [StageFailed("it is gone"), OSError("odd"), TimeoutError()])
def test_an_adoption_that_fails_leaves_room_for_a_start(error: Exception) -> None:
    """What nobody expected left a replica that starts for ever, which requests waited for until they were rejected."""

    class Failing(FakeCluster):
        async def adopt(self, name: str) -> FakeGroup:
            raise error

    async def test(now: Routed) -> None:
        now.router.know(MODEL)
        now.router.hear(events.GroupFound("theirs", MODEL.facts.key, Placement("m", (), 1024, ())))
        await asyncio.sleep(1.0)
        assert now.states() == []
        assert (await now.answered(MODEL)).tokens == said("m", 8)

    played(test, kind=Failing)


# ---- ends


@pytest.mark.parametrize("after_s", [0.0, 0.1, 0.55, 0.8, 1.5])
def test_whenever_it_is_closed_nothing_is_left_behind(after_s: float) -> None:
    """Tasks that were cancelled said that their groups had stopped, which began others' starts, and timers."""

    async def test(now: Routed) -> None:
        calls = [now.ask(model, LONG) for model in (MODEL, OTHER)]
        await asyncio.sleep(after_s)
        await now.router.close()
        assert len(now.router._tasks) == 0
        for call in calls:
            await call.leave()
        now.router.hear(events.GroupFound("theirs", MODEL.facts.key, Placement("m", (), 1024, ())))
        assert len(now.router._tasks) == 0

    played(test, world_node("a", 70 * MB))


def test_a_replica_that_makes_room_as_the_router_is_closed_begins_nothing() -> None:
    async def test(now: Routed) -> None:
        await now.answered(MODEL)
        call = now.ask(OTHER)
        assert sorted(now.states()) == ["stopping", "wanted"]
        await asyncio.sleep(0.001)
        await now.router.close()
        assert len(now.router._tasks) == 0
        await call.leave()

    played(test, world_node("a", 70 * MB))


def test_who_is_recorded_as_the_router_is_closed_is_in_the_ledger_or_given_up() -> None:
    """Tasks that recorded outlived the router, and asked a client that was gone."""

    class Silent(FakeCluster):
        async def phases(self, group: FakeGroup) -> Any:
            await asyncio.sleep(self.answers_after_s)
            return await super().phases(group)

        answers_after_s = 0.5

    for Silent.answers_after_s, kept in ((0.5, 1), (500.0, 0)):

        async def test(now: Routed, kept: int = kept) -> None:
            await now.answered(MODEL)
            await now.router.close()
            assert len(now.ledger.latest(None, 9)) == kept

        played(test, kind=Silent)
