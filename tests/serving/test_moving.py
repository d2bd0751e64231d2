"""Replicas that make way under load, over a cluster in memory: every client reads what it would have read anyway."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cluster.wire.requests import Sampling, Submit
from schedules import events
from schedules.world.habits import Misfortune
from serving.answering.answerer import Answerer
from serving.answering.ask import Ask
from serving.errors import Interrupted, MoveRefused, Unavailable
from serving.text import AnswerText
from tests.schedules.worlds import world_node
from tests.serving.routed import PROMPT, Call, Routed, played, said, served, until
from tests.serving.tokenizers import LocalText, byte_files
from tests.told import objectives_of

MODEL = served("m")
LONG = 400
OVER = ("done", "given up")
THREE = (world_node("a"), world_node("b"), world_node("c"))
PIPELINES: Mapping[str, Any] = {
    "objectives": objectives_of(kv_tokens=16384, max_degree=2, keep_alive_s=60.0), "policy": "fixed", "consolidate": False,
}  # fmt: skip
WHOLE: Mapping[str, Any] = PIPELINES | {"objectives": objectives_of(kv_tokens=16384, max_degree=1, keep_alive_s=60.0)}


async def consolidated(now: Routed) -> Mapping[str, Any]:
    """The model becomes whole; the move when it is over."""
    return await over(now, await now.router.moves.wish(lambda wish: events.ConsolidationWanted(wish, "m")))


async def drained(now: Routed, node: str) -> Mapping[str, Any]:
    return await over(now, await now.router.moves.wish(lambda wish: events.NodeDrained(node, wish)))


async def over(now: Routed, ordered: Mapping[str, Any]) -> Mapping[str, Any]:
    await until(lambda: not now.router.moves.under_way())
    found = now.router.moves.find(ordered["move"])
    assert found is not None
    return found


def nodes_of(now: Routed) -> list[str]:
    """Where replicas run, are made, or end."""
    return sorted({str(node) for replica in now.router.replicas() for node in replica["nodes"]})  # type: ignore[attr-defined]


async def whole(calls: Sequence[Call], tokens: int = LONG) -> None:
    """Everyone reads all of it, and each token once."""
    await asyncio.gather(*(call.reading for call in calls))
    for call in calls:
        assert (call.error, call.finish) == (None, "length")
        assert call.tokens == said("m", tokens)


# ---- the three kinds, and requests alone


def test_a_pipeline_becomes_whole_under_ten_requests_that_notice_nothing() -> None:
    async def test(now: Routed) -> None:
        calls = [now.ask(MODEL, LONG) for _ in range(10)]
        await calls[0].until(20)
        (before,) = now.router.replicas()
        assert before["degree"] == 2
        move = await consolidated(now)
        assert (move["step"], move["carrier"], move["kind"]) == ("done", "front end", "consolidate")
        assert not any(call.reading.done() for call in calls)
        await whole(calls)
        assert move["requests"]["shifted"] == 10
        assert len(move["pauses_s"]) == 10
        (after,) = now.router.replicas()
        assert (after["degree"], after["state"]) == (1, "serving")
        assert list(now.cluster._groups) == [after["group"]] == list(now.router._groups.up)
        assert now.measured('firsttoken_moves_total{kind="consolidate",outcome="done"}') == 1.0
        assert now.measured('firsttoken_shifts_total{model="m",outcome="shifted"}') == 10.0
        assert now.measured('firsttoken_cold_starts_total{model="m",outcome="started"}') == 1.0

    played(test, *THREE, **PIPELINES)


def test_a_drained_node_is_left_by_all_and_taken_by_none_until_it_is_undrained() -> None:
    async def test(now: Routed) -> None:
        calls = [now.ask(MODEL, LONG) for _ in range(4)]
        await calls[0].until(20)
        (node,) = nodes_of(now)
        move = await drained(now, node)
        assert (move["step"], move["node"], move["requests"]["shifted"]) == ("done", node, 4)
        assert node not in nodes_of(now)
        await whole(calls)
        with pytest.raises(MoveRefused, match="drained already"):
            await drained(now, node)
        others = sorted({each.name for each in THREE} - {node})
        assert (await drained(now, others[0]))["step"] == "done"
        with pytest.raises(MoveRefused, match="last one"):
            await drained(now, others[1])
        now.router.tell(events.NodeUndrained(node))
        assert (await drained(now, others[1]))["step"] == "done"
        assert nodes_of(now) == [node]
        assert (await now.answered(MODEL)).tokens == said("m", 8)

    played(test, *THREE, **WHOLE)


def test_what_finds_no_room_elsewhere_ends_where_it_is() -> None:
    async def test(now: Routed) -> None:
        calls = [now.ask(MODEL, LONG) for _ in range(2)]
        await calls[0].until(20)
        move = await drained(now, "a")
        assert (move["step"], move["requests"]["shifted"]) == ("done", 0)
        await whole(calls)
        assert now.states() == []

    played(test, world_node("a"), world_node("b", 1_000_000), **WHOLE)


def test_a_replica_goes_on_at_another_node() -> None:
    async def test(now: Routed) -> None:
        calls = [now.ask(MODEL, LONG) for _ in range(3)]
        await calls[0].until(20)
        (node,) = nodes_of(now)
        to = "c" if node != "c" else "b"
        wished = await now.router.moves.wish(lambda wish: events.MigrationWanted(wish, to, "m"))
        move = await over(now, wished)
        assert (move["step"], move["requests"]["shifted"]) == ("done", 3)
        assert nodes_of(now) == [to]
        await whole(calls)

    played(test, *THREE, **WHOLE)


def test_a_request_alone_goes_on_at_another_replica_and_back() -> None:
    async def test(now: Routed) -> None:
        calls = [now.ask(MODEL, LONG) for _ in range(3)]
        await until(lambda: now.states() == ["serving", "serving"])
        await calls[2].until(5)
        places = {str(each["group"]): str(each["nodes"][0]) for each in now.router.replicas()}  # type: ignore[index]
        name = calls[0].ticket.name
        at = now.router._tickets[name]._here
        assert at is not None
        (there,) = (node for group, node in places.items() if group != at.group.name)
        for to in (there, places[at.group.name]):
            wished = await now.router.moves.wish(lambda wish, to=to: events.MigrationWanted(wish, to, request=name))
            assert wished["request"] == name
            move = await over(now, wished)
            assert (move["step"], move["requests"]["shifted"]) == ("done", 1)
        await whole(calls)

    narrow = objectives_of(kv_tokens=2 * (LONG + 200), max_degree=1, max_replicas=2, keep_alive_s=60.0)
    played(test, *THREE, **{**WHOLE, "objectives": narrow})


def test_moves_one_after_the_other_lose_nothing() -> None:
    """The pipeline becomes whole, its node is left, and what runs then migrates: three shifts of every request."""

    async def test(now: Routed) -> None:
        calls = [now.ask(MODEL, 3 * LONG) for _ in range(5)]
        await calls[0].until(20)
        moves = [await consolidated(now)]
        moves.append(await drained(now, nodes_of(now)[0]))
        (at,) = nodes_of(now)
        (to,) = {"a", "b", "c"} - {at, moves[1]["node"]}
        moves.append(await over(now, await now.router.moves.wish(lambda w: events.MigrationWanted(w, to, "m"))))
        assert [(move["step"], move["requests"]["shifted"]) for move in moves] == [("done", 5)] * 3
        await whole(calls, 3 * LONG)

    played(test, *THREE, **PIPELINES)


# ---- what is refused and given up


def test_what_cannot_move_is_refused_and_nothing_has_changed() -> None:
    async def test(now: Routed) -> None:
        with pytest.raises(MoveRefused):
            await now.router.moves.wish(lambda wish: events.ConsolidationWanted(wish, "nobody"))
        await now.answered(MODEL)
        with pytest.raises(MoveRefused, match="does not run as a pipeline"):
            await consolidated(now)
        assert now.router.moves.latest(9) == []

    played(test, *THREE, **WHOLE)


def test_a_move_that_is_given_up_leaves_everything_as_it_was() -> None:
    async def test(now: Routed) -> None:
        calls = [now.ask(MODEL, LONG) for _ in range(3)]
        await calls[0].until(20)
        before = now.groups()
        ordered = await now.router.moves.wish(lambda wish: events.ConsolidationWanted(wish, "m"))
        now.router.moves.give_up(ordered["move"], "an operator changed their mind")
        move = await over(now, ordered)
        assert (move["step"], move["why"]) == ("given up", "an operator changed their mind")
        await until(lambda: len(now.router.replicas()) == 1)
        assert now.groups() == before
        await whole(calls)
        assert now.measured('firsttoken_moves_total{kind="consolidate",outcome="given up"}') == 1.0

    played(test, *THREE, **PIPELINES)


@pytest.mark.parametrize("after_s", [0.0, 0.3, 0.5, 0.505, 0.52, 0.6])
def test_whenever_the_router_is_closed_in_a_move_nothing_is_left_behind(after_s: float) -> None:
    async def test(now: Routed) -> None:
        calls = [now.ask(MODEL, LONG) for _ in range(4)]
        await calls[0].until(20)
        await now.router.moves.wish(lambda wish: events.ConsolidationWanted(wish, "m"))
        await asyncio.sleep(after_s)
        await now.router.close()
        for call in calls:
            await call.leave()
        assert len(now.router._tasks) == 0

    played(test, *THREE, **PIPELINES)


# ---- answers across a switch


class Text:
    """As a model's text is asked."""

    def __init__(self, local: LocalText) -> None:
        self._local = local

    async def answers(self) -> AnswerText:
        return self._local.answers

    def token(self, token: int) -> Any:
        return self._local.token(token)


def _asked(model: Any, choices: int, stops: tuple[str, ...], logprobs: int | None) -> Ask:
    sampling = Sampling(temperature=0.0, logprobs=logprobs)
    submits = tuple(
        Submit(f"cmpl-1.0.{index}", (*PROMPT, index), len(PROMPT) + 1, LONG, (), sampling) for index in range(choices)
    )
    arrived_s = asyncio.get_running_loop().time()
    return Ask("cmpl-1", "text_completion", model, submits, choices, stops, arrived_s, True, True)


async def _answer(now: Routed, model: Any, ask: Ask, stream: bool, move: bool) -> Any:
    """What the client reads, with the model becoming whole in the middle or not."""
    tickets = now.router.admit(MODEL, ask.submits, ask.arrived_s, 1e9)
    answerer = Answerer(now.metrics, 1e9, lambda *_: None)

    async def read() -> Any:
        try:
            if not stream:
                return await answerer.whole(ask, tickets)
            async with aclosing(answerer.events(ask, tickets)) as found:
                return [json.loads(event[6:]) async for event in found if event.startswith(b"data: {")]
        finally:
            for ticket in tickets:
                ticket.close()

    reading = asyncio.ensure_future(read())
    if move:
        await until(lambda: len(tickets[-1]._done) > 10)
        done = await consolidated(now)
        assert (done["step"], done["requests"]["shifted"]) == ("done", len(tickets))
        assert not reading.done()
    return await reading


def _same(answer: Any) -> Any:
    """But for when; what a stream adds to each choice, whatever came when."""
    if not isinstance(answer, list):
        return {**answer, "created": 0}
    found: dict[int, list[Any]] = {}
    for event in answer:
        for choice in event["choices"]:
            entries = (choice["logprobs"] or {}).get("token_logprobs")
            said = [choice["text"], choice["token_ids"], entries, choice["finish_reason"]]
            found.setdefault(choice["index"], []).append(said)
    return found, answer[-1]["usage"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("choices", "logprobs"), [(1, 3), (4, None)])
def test_an_answer_across_a_switch_is_the_one_that_it_would_have_been(
    stream: bool, choices: int, logprobs: int | None, tmp_path: Path
) -> None:
    text = Text(LocalText(tmp_path, byte_files()))
    answers = []
    for move in (False, True):

        async def test(now: Routed, move: bool = move) -> None:
            model = replace(MODEL, text=text)
            answers.append(_same(await _answer(now, model, _asked(model, choices, (), logprobs), stream, move)))

        played(test, *THREE, **PIPELINES)
    assert answers[0] == answers[1]


def test_a_stop_text_that_comes_after_the_switch_ends_the_answer_there(tmp_path: Path) -> None:
    text = Text(LocalText(tmp_path, byte_files()))
    answers: list[Any] = []

    for stops in ((), None):

        async def test(now: Routed, stops: tuple[str, ...] | None = stops) -> None:
            if stops is None:  # what stands near the end of the undisturbed answer
                stops = (answers[0]["choices"][0]["text"][-12:-4],)
            model = replace(MODEL, text=text)
            answers.append(await _answer(now, model, _asked(model, 1, stops, None), False, stops != ()))
            await until(lambda: now.measured("firsttoken_running_requests") == 0.0)

        played(test, *THREE, **PIPELINES)
    whole_text, (choice,) = answers[0]["choices"][0]["text"], answers[1]["choices"]
    assert choice["finish_reason"] == "stop"
    assert choice["text"] == whole_text[: whole_text.index(whole_text[-12:-4])]


# ---- misfortunes

MISFORTUNES = st.tuples(
    st.floats(0.0, 2.5),
    st.sampled_from(
        [
            (Misfortune.NODE_LOST, "a"),
            (Misfortune.NODE_LOST, "b"),
            (Misfortune.NODE_LOST, "c"),
            (Misfortune.NODE_SILENT, "a"),
            (Misfortune.NODE_SILENT, "c"),
            (Misfortune.GROUP_LOST, "old"),
            (Misfortune.GROUP_LOST, "heir"),
            (Misfortune.START_REFUSED, ""),
            (Misfortune.SCHEDULER_LOST, ""),
        ]
    ),
)
WISHES = st.tuples(st.floats(0.0, 2.5), st.sampled_from(["consolidate", "drain a", "drain b", "drain c", "give up"]))
LEAVING = st.lists(st.tuples(st.floats(0.0, 2.5), st.integers(0, 7)), max_size=2)


@example([], [(0.13, "drain a"), (0.41, "drain b")], [(0.66, 0)], 1)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(MISFORTUNES, max_size=3), st.lists(WISHES, min_size=1, max_size=3), LEAVING, st.integers(1, 8))
def test_whatever_befalls_a_move_nobody_reads_anything_wrong_and_nothing_leaks(
    misfortunes: list[tuple[float, tuple[Misfortune, str]]],
    wishes: list[tuple[float, str]],
    leaving: list[tuple[float, int]],
    clients: int,
) -> None:
    async def test(now: Routed) -> None:
        calls = [now.ask(MODEL, LONG) for _ in range(clients)]
        await calls[0].until(5)
        old = now.groups()[0]
        doing = [asyncio.ensure_future(_befall(now, old, *each)) for each in misfortunes]
        doing += [asyncio.ensure_future(_wish(now, *each)) for each in wishes]
        doing += [asyncio.ensure_future(_leave(calls, *each)) for each in leaving]
        await asyncio.gather(*doing)
        for name in "abc":
            now.cluster.restore(name)
        now.cluster.restore_scheduler()
        left = {number % clients for _, number in leaving}
        for number, call in enumerate(calls):
            await asyncio.gather(call.reading, return_exceptions=True)
            expected = said("m", LONG)
            if call.error is None and number not in left:
                assert (call.tokens, call.finish) == (expected, "length")
            else:
                assert call.tokens == expected[: len(call.tokens)]
                assert call.error is None or isinstance(call.error, Interrupted | Unavailable)
        await until(lambda: not now.router.moves.under_way())
        for name in "abc":
            now.router.tell(events.NodeUndrained(name))
        assert now.router._tickets == {}
        assert (await now.answered(MODEL)).tokens == said("m", 8)
        await until(lambda: now.states() == [])
        assert now.router._groups.up == now.router._groups._forming == {}
        await until(lambda: not any(node.device_reserved_bytes for node in now.cluster.view().nodes))

    played(test, *THREE, **PIPELINES)


async def _befall(now: Routed, old: str, after_s: float, what: tuple[Misfortune, str]) -> None:
    await asyncio.sleep(after_s)
    kind, name = what
    if name == "heir":
        name = next((group for group in now.groups() if group != old), "nobody")
    now.cluster.befall(kind, old if name == "old" else name)


async def _wish(now: Routed, after_s: float, what: str) -> None:
    await asyncio.sleep(after_s)
    kind, _, node = what.partition(" ")
    if what == "give up":
        for move in now.router.moves.under_way():
            now.router.moves.give_up(move["move"], "an operator changed their mind")
        return
    try:
        if kind == "drain":
            await now.router.moves.wish(lambda wish: events.NodeDrained(node, wish))
        else:
            await now.router.moves.wish(lambda wish: events.ConsolidationWanted(wish, "m"))
    except MoveRefused:
        pass


async def _leave(calls: list[Call], after_s: float, number: int) -> None:
    await asyncio.sleep(after_s)
    await calls[number % len(calls)].leave()
