"""The router carries out what the brain decides: over a cluster in memory, under virtual time."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import pytest

from cluster.errors import NoToken, Refused, StageFailed
from cluster.fake import FakeCluster
from cluster.fake_group import FakeGroup
from cluster.wire.requests import Grammar, Submit, Tokens
from schedules import events
from schedules.world.habits import Habits
from serving.errors import BadRequest, Interrupted, ModelFailed, Overloaded, Unavailable
from tests.schedules.worlds import MB, world_node
from tests.serving.routed import START_TIMEOUT_S, WANTED, Routed, played, said, served, until
from tests.told import objectives_of

MODEL, OTHER = served("m"), served("n")
LONG = 200


# ---- requests


def test_a_cold_request_waits_for_its_replica_and_streams_and_is_recorded() -> None:
    async def test(now: Routed) -> None:
        call = now.ask(MODEL)
        assert now.states() == ["starting"]
        assert now.measured("firsttoken_held_requests") == 1.0
        await call.reading
        assert (call.tokens, call.finish, call.error) == (said("m", 8), "length", None)
        assert now.states() == ["serving"]
        warm = await now.answered(MODEL)
        assert warm.tokens == call.tokens
        assert now.measured('firsttoken_ttft_seconds_count{model="m",start="cold"}') == 1.0
        assert now.measured('firsttoken_ttft_seconds_count{model="m",start="warm"}') == 1.0
        assert now.measured('firsttoken_cold_starts_total{model="m",outcome="started"}') == 1.0
        assert now.measured('firsttoken_replicas{state="serving"}') == 1.0
        await now.router.settle_ledger()
        (start,) = now.ledger.latest(None, 9)
        assert (start.model, start.group) == ("m", now.groups()[0])
        assert {"receive and tokenise", "decide", "take process", "build skeleton"} <= {p.name for p in start.phases}
        assert 0.5 < start.ttft_s < 2.0
        assert start.predicted is not None

    played(test)


def test_the_time_that_others_took_to_make_room_is_told_as_that() -> None:
    """Until they had ended it was deciding, by the ledger."""

    async def test(now: Routed) -> None:
        await now.answered(MODEL)
        await now.answered(OTHER)
        await now.router.settle_ledger()
        start, _ = now.ledger.latest(None, 9)
        took_s = {phase.name: phase.end_s - phase.start_s for phase in start.phases}
        assert took_s["wait for room"] == pytest.approx(Habits().dissolve_s, rel=0.1)
        assert took_s["decide"] == pytest.approx(0.0, abs=1e-3)

    played(test, world_node("a", 70 * MB))


def test_requests_that_come_together_start_one_replica() -> None:
    async def test(now: Routed) -> None:
        calls = [now.ask(MODEL) for _ in range(5)]
        await asyncio.gather(*(call.reading for call in calls))
        assert [call.tokens for call in calls] == [said("m", 8)] * 5
        assert now.measured('firsttoken_cold_starts_total{model="m",outcome="started"}') == 1.0

    played(test)


def test_a_lost_group_costs_a_pause_and_no_token() -> None:
    async def test(now: Routed) -> None:
        call = now.ask(MODEL, LONG)
        for had in (5, 50):
            await call.until(had)
            (group,) = now.groups()
            now.cluster.lose_group(group)
            await until(lambda group=group: now.groups() not in ([], [group]))
        await call.reading
        assert (call.tokens, call.finish) == (said("m", LONG), "length")
        assert now.measured('firsttoken_replays_total{model="m"}') == 2.0

    played(test)


def test_a_node_that_is_lost_is_a_lost_group() -> None:
    async def test(now: Routed) -> None:
        call = now.ask(MODEL, LONG)
        await call.until(5)
        (node,) = now.router.replicas()[0]["nodes"]  # type: ignore[misc]
        now.cluster.lose_node(str(node))
        await call.reading
        assert call.tokens == said("m", LONG)

    played(test)


def test_a_stream_that_is_lost_again_and_again_ends_with_an_error() -> None:
    async def test(now: Routed) -> None:
        call = now.ask(MODEL, LONG)
        for attempt in range(4):
            await call.until(5 * (attempt + 1))
            now.cluster.lose_group()
            await asyncio.sleep(0.1)
        await call.reading
        assert isinstance(call.error, Interrupted)
        assert call.error.retry_after_s is None
        assert call.tokens == said("m", LONG)[: len(call.tokens)]
        assert len(call.tokens) >= 20

    played(test)


def test_a_group_that_dies_as_it_is_given_requests_is_none_of_theirs() -> None:
    """The group was lost between the decision that gave it a request and the request's first step to it."""

    async def test(now: Routed) -> None:
        await now.answered(MODEL)
        call = now.ask(MODEL)
        now.cluster._groups[now.groups()[0]].lose("it died")
        now.router.hear(events.GroupLost(now.groups()[0], "it died"))
        await call.reading
        assert call.tokens == said("m", 8)

    played(test)


# ---- who goes


def test_who_leaves_while_held_waits_no_more_and_what_starts_for_nobody_ends() -> None:
    async def test(now: Routed) -> None:
        first, second = now.ask(MODEL), now.ask(MODEL)
        await asyncio.sleep(0.1)
        await first.leave()
        assert now.measured("firsttoken_held_requests") == 1.0
        await second.leave()
        assert now.measured("firsttoken_held_requests") == 0.0
        await until(lambda: now.states() == [], 2 * WANTED.keep_alive_s)
        assert now.router._tickets == {}
        assert now.router._groups.up == {}

    played(test)


def test_who_leaves_in_the_middle_makes_room() -> None:
    async def test(now: Routed) -> None:
        call = now.ask(MODEL, LONG)
        await call.until(5)
        await call.leave()
        assert now.measured("firsttoken_running_requests") == 0.0
        assert now.router._tickets == {}
        assert (await now.answered(MODEL)).tokens == said("m", 8)

    played(test)


def test_a_ticket_that_is_closed_without_being_read_is_nobodys() -> None:
    async def test(now: Routed) -> None:
        for ticket in now.admit(MODEL, choices=3):
            ticket.close()
            ticket.close()
        assert now.measured("firsttoken_held_requests") == 0.0
        assert now.router._tickets == {}
        await now.answered(MODEL)
        (unread,) = now.admit(MODEL)
        await asyncio.sleep(1.0)
        unread.close()
        assert now.measured("firsttoken_running_requests") == 0.0

    played(test)


# ---- who is rejected


def test_what_no_replica_could_hold_is_refused_before_anything_starts() -> None:
    async def test(now: Routed) -> None:
        with pytest.raises(BadRequest):
            now.admit(MODEL, WANTED.kv_tokens)
        assert now.router._tickets == {}

    played(test)


def test_without_nodes_it_is_said_at_once() -> None:
    async def test(now: Routed) -> None:
        now.cluster.lose_node("a")
        await until(lambda: not now.cluster.view().nodes)
        with pytest.raises(Unavailable, match="no node is connected") as refused:
            now.admit(MODEL)
        assert refused.value.retry_after_s
        assert now.router._tickets == {}

    played(test, world_node("a"))


def test_beyond_a_bound_come_again_later() -> None:
    """Of one model's, so that others still may wait, and of all together. A request whose first choice may wait is admitted
    with all of them: it would be refused for ever otherwise, however little waits."""

    async def test(now: Routed) -> None:
        calls = [now.ask(MODEL) for _ in range(3)]
        with pytest.raises(Overloaded, match="3 requests wait for m already") as refused:
            now.admit(MODEL)
        assert refused.value.retry_after_s
        with_choices = now.admit(OTHER, choices=3)
        assert now.measured("firsttoken_held_requests") == 6.0
        for ticket in with_choices:
            ticket.close()
        assert now.measured("firsttoken_held_requests") == 3.0
        calls += [now.ask(OTHER), now.ask(OTHER)]
        with pytest.raises(Overloaded, match="5 requests wait already"):
            now.admit(OTHER)
        await asyncio.gather(*(call.reading for call in calls))
        assert all(call.error is None for call in calls)

    played(test, max_held_per_model=3, max_held_requests=5)


def test_when_to_come_again_is_what_those_before_will_take() -> None:
    """A replica that works off its queue tells how fast it does; one that has never been told the last start."""

    async def test(now: Routed) -> None:
        calls = [now.ask(MODEL, LONG) for _ in range(40)]
        await calls[20].reading
        with pytest.raises(Overloaded) as refused:
            calls.extend(now.ask(MODEL, LONG) for _ in range(100))
        begun_s = asyncio.get_running_loop().time()
        await asyncio.gather(*(call.reading for call in calls))
        took_s = asyncio.get_running_loop().time() - begun_s
        assert refused.value.retry_after_s == pytest.approx(took_s, rel=0.5, abs=1.0)
        assert took_s > 5.0

    played(test, world_node("a", decode=4e9), max_held_per_model=40)


def test_a_start_that_fails_rejects_who_waits_before_their_streams_begin() -> None:
    class Failing(FakeCluster):
        async def form(self, *_: Any, **_how: Any) -> FakeGroup:
            await asyncio.sleep(0.2)
            raise StageFailed("its stages fell over")

    async def test(now: Routed) -> None:
        call = await now.answered(MODEL)
        assert isinstance(call.error, Unavailable)
        assert "its stages fell over" in str(call.error)
        assert call.error.retry_after_s
        assert now.measured('firsttoken_cold_starts_total{model="m",outcome="failed"}') == 1.0
        assert now.states() == []
        assert now.router._recorder._ordered_s == {}

    played(test, kind=Failing)


def test_what_is_refused_by_a_node_is_decided_again() -> None:
    async def test(now: Routed) -> None:
        now.cluster.refuse_next_start()
        assert (await now.answered(MODEL)).tokens == said("m", 8)

    played(test)


def test_who_is_held_for_room_is_told_so_by_the_deadline_of_a_start() -> None:
    """A model waits for the memory that a busy one has, which nobody takes away from it: it is more important."""

    async def test(now: Routed) -> None:
        busy = now.ask(MODEL, 900)
        await busy.until(1)
        begun_s = asyncio.get_running_loop().time()
        waiting = now.ask(OTHER)
        assert now.states("n") == ["wanted"]
        now_s = asyncio.get_running_loop().time
        await waiting.reading
        assert isinstance(waiting.error, Unavailable)
        assert waiting.error.retry_after_s
        assert START_TIMEOUT_S <= now_s() - begun_s < START_TIMEOUT_S + 1.0
        await busy.leave()

    important = objectives_of(kv_tokens=1024, max_degree=1, priority=1)
    played(test, world_node("a", 70 * MB, decode=1e9), models={"m": important})


@pytest.mark.parametrize(
    ("error", "kind", "grammar"),
    [
        (Refused("it has no room for it"), Unavailable, None),
        (NoToken("no finite numbers"), ModelFailed, None),
        (NoToken("none of the words may follow"), ModelFailed, Grammar("start: /a/", "words")),
        (OSError("odd"), OSError, None),
    ],
)
def test_what_a_group_will_not_answer_ends_alone(
    error: Exception, kind: type[Exception], grammar: Grammar | None
) -> None:
    """The request is nobody's from then on, whatever ended it, and the replica serves others."""

    async def test(now: Routed) -> None:
        await now.answered(MODEL)
        (group,) = [now.router._groups.up[name] for name in now.groups()]

        async def generate(submit: Submit) -> AsyncGenerator[Tokens]:
            yield Tokens(submit.request, (1,))
            raise error

        whole, group.generate = group.generate, generate  # type: ignore[assignment, method-assign]
        (ticket,) = now.admit(MODEL)
        ticket._submit = replace(ticket._submit, grammar=grammar)
        with pytest.raises(kind, match=str(error)) as ended:
            [each async for each in ticket.tokens()]
        assert ("weights" in str(ended.value)) is (kind is ModelFailed and grammar is None)
        assert now.measured("firsttoken_running_requests") == now.measured("firsttoken_held_requests") == 0.0
        assert now.router._tickets == {}
        group.generate = whole  # type: ignore[method-assign]
        assert (await now.answered(MODEL)).tokens == said("m", 8)
        assert now.groups() == [group.name]

    played(test)
