"""How a group takes in what another generates, as its stages hear it: what is said when, and that nothing stays."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager

import pytest

from cluster.contract import KvOf
from cluster.errors import NoToken, Refused, StageFailed
from cluster.following import Following
from cluster.group import Group
from cluster.wire.kv import DropKv, KvPulled, KvSource, PullKv
from cluster.wire.requests import (
    AskPlace,
    Cancel,
    Caught,
    Failed,
    Follow,
    GoOn,
    More,
    Placed,
    Rejected,
    Submit,
    Tokens,
    Yield,
    Yielded,
)
from tests.cluster.played_doors import BYTES, WITHIN_S, PlayedStage, failed, played_group, pulled, silent

_SUBMIT = Submit("here", (1, 2, 3, 4), 2, 10, ())


@asynccontextmanager
async def _followed(submit: Submit = _SUBMIT) -> AsyncIterator[tuple[Group, PlayedStage, Following]]:
    """A group of one stage that has begun to follow, and nothing was copied."""
    async with played_group("d", (0, 4), pulled) as (group, (stage,)):
        following = await group.follow(submit, None, WITHIN_S)
        assert await stage.until(Follow) == Follow(submit, 0)
        yield group, stage, following


async def test_a_request_is_followed_and_gone_on_with() -> None:
    async with _followed() as (_group, stage, following):
        stage.tell(Caught("here", 4))
        assert await following.caught_up() == 4
        following.more(())
        following.more((5, 6))
        following.more((7,))
        assert await stage.until(More, More) == More("here", (7,))
        stage.tell(Caught("here", 6), Caught("here", 7))
        assert await following.caught_up() == 7
        assert await following.caught_up() == 7
        async with aclosing(following.go_on((8,))) as stream:
            first = asyncio.ensure_future(anext(stream))
            assert await stage.until(GoOn) == GoOn("here", (8,))
            stage.tell(Tokens("here", (9,)), Tokens("here", (10,), "stop"))
            assert [await first, *[event async for event in stream]] == [
                Tokens("here", (9,)),
                Tokens("here", (10,), "stop"),
            ]
        await following.close()
        assert (following.copied_tokens, following.copied_bytes, stage.heard) == (0, 0, [])


async def test_what_was_caught_before_is_not_what_is_asked_for() -> None:
    async with _followed() as (_group, stage, following):
        following.more((5,))
        stage.tell(Caught("here", 4))
        caught = asyncio.ensure_future(following.caught_up())
        await asyncio.sleep(0.05)
        assert not caught.done()
        stage.tell(Caught("here", 5))
        assert await asyncio.wait_for(caught, WITHIN_S) == 5


async def test_whoever_gives_up_has_it_cancelled_once() -> None:
    async with _followed() as (group, stage, following):
        await following.close()
        await following.close()
        group.yield_up("here")
        following.more((5,))
        (again := group.generate(Submit("next", (1,), 1, 1, ())))
        task = asyncio.ensure_future(anext(again))
        await stage.until(Cancel, Submit)
        stage.tell(Tokens("next", (1,), "length"))
        await task
        await again.aclose()


async def test_whoever_leaves_after_it_went_on_has_it_cancelled() -> None:
    async with _followed() as (_group, stage, following):
        stream = following.go_on()
        task = asyncio.ensure_future(anext(stream))
        await stage.until(GoOn)
        stage.tell(Tokens("here", (9,)))
        await task
        await stream.aclose()
        assert await stage.until(Cancel) == Cancel("here")


@pytest.mark.parametrize(
    ("told", "error"),
    [(Rejected("here", "no room"), Refused), (Failed("here", "no number"), NoToken), (Yielded("here"), Refused)],
)
async def test_what_ends_it_is_told_to_whoever_waits_and_nothing_is_cancelled(
    told: object, error: type[Exception]
) -> None:
    async with _followed() as (_group, stage, following):
        stage.tell(told)
        with pytest.raises(error):
            await asyncio.wait_for(following.caught_up(), WITHIN_S)
        await following.close()
        await asyncio.sleep(0.05)
        assert stage.heard == []


async def test_a_group_that_is_lost_ends_every_wait_and_takes_nothing_more() -> None:
    async with _followed() as (group, stage, following):
        waiting = asyncio.ensure_future(following.caught_up())
        await asyncio.sleep(0)
        stage.cut_off()
        for _ in range(2):
            with pytest.raises(StageFailed, match="the first stage is gone"):
                await asyncio.wait_for(waiting, WITHIN_S)
            waiting = asyncio.ensure_future(following.caught_up())
        waiting.cancel()
        with pytest.raises(StageFailed, match="the first stage is gone"):
            await group.follow(_SUBMIT, None, WITHIN_S)
        with pytest.raises(StageFailed, match="the first stage is gone"):
            await anext(following.go_on())


async def test_a_stream_that_is_yielded_up_ends_without_a_finish() -> None:
    async with played_group("s", (0, 4), pulled) as (group, (stage,)):
        stream = group.generate(_SUBMIT)
        first = asyncio.ensure_future(anext(stream))
        await stage.until(Submit)
        group.yield_up("nobody")
        group.yield_up("here")
        assert await stage.until(Yield) == Yield("here")
        stage.tell(Tokens("here", (5,)), Tokens("here", (6,)), Yielded("here"))
        assert [await first, *[event async for event in stream]] == [Tokens("here", (5,)), Tokens("here", (6,))]
        await asyncio.sleep(0.05)
        assert stage.heard == []


# ---- the KV cache


@asynccontextmanager
async def _moving(
    *answers: Callable[[PullKv], KvPulled | None],
) -> AsyncIterator[tuple[KvOf, PlayedStage, Group, list[PlayedStage]]]:
    """A request that runs at stages of layers 0 to 2 and 3 to 5, and a group of as many stages as there are answers."""
    bounds = {1: (0, 6), 2: (0, 2, 6)}[len(answers)]
    async with (
        played_group("s", (0, 3, 6), pulled, pulled) as (source, (first, _)),
        played_group("d", bounds, *answers) as (group, stages),
    ):
        stream = source.generate(Submit("there", (1, 2), 2, 12, ()))
        running = asyncio.ensure_future(anext(stream))
        await first.until(Submit)
        yield KvOf(source, "there"), first, group, stages
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def _begun(kv_of: KvOf, first: PlayedStage, group: Group, placed: Placed) -> "asyncio.Task[Following]":
    task = asyncio.ensure_future(group.follow(_SUBMIT, kv_of, WITHIN_S))
    assert await first.until(AskPlace) == AskPlace("there")
    first.tell(placed)
    return task


@pytest.mark.parametrize(
    ("answers", "layers"),
    [((pulled,), [[(0, 3), (3, 6)]]), ((pulled, pulled), [[(0, 3)], [(0, 3), (3, 6)]])],
    ids=["two to one", "two to two"],
)
async def test_every_stage_pulls_its_layers_from_those_that_have_them(
    answers: tuple[Callable[[PullKv], KvPulled]], layers: list[list[tuple[int, int]]]
) -> None:
    async with _moving(*answers) as (kv_of, first, group, stages):
        task = await _begun(kv_of, first, group, Placed("there", 5, 3))
        following = await asyncio.wait_for(task, WITHIN_S)
        assert (following.copied_tokens, following.copied_bytes) == (3, BYTES * len(answers))
        for rank, (stage, wanted) in enumerate(zip(stages, layers, strict=True)):
            ask = await stage.until(PullKv)
            assert (ask.request, ask.tokens, 0 < ask.timeout_s < WITHIN_S) == ("here", 3, True)
            assert [(one.first_layer, one.end_layer) for one in ask.sources] == wanted
            assert all(isinstance(one, KvSource) and (one.group, one.slot) == ("s", 5) for one in ask.sources)
            assert [(hello.group, hello.secret) for hello in stage.hellos if hello.kv] == [("d", f"d's {rank}")]
        assert ask.sources[-1].secret == "s's 1"
        assert await stages[0].until(Follow) == Follow(_SUBMIT, 3)


async def test_no_more_is_copied_than_all_but_the_last_of_what_is_known() -> None:
    """The last is fed anyhow: from it the next is chosen."""
    async with _moving(pulled) as (kv_of, first, group, stages):
        following = await asyncio.wait_for(await _begun(kv_of, first, group, Placed("there", 5, 9)), WITHIN_S)
        assert following.copied_tokens == len(_SUBMIT.tokens) - 1
        assert (await stages[0].until(PullKv)).tokens == len(_SUBMIT.tokens) - 1


@pytest.mark.parametrize("placed", [Placed("there", None, 0), Placed("there", 5, 0)], ids=["gone", "nothing yet"])
async def test_where_there_is_nothing_to_copy_no_stage_is_asked(placed: Placed) -> None:
    async with _moving(pulled) as (kv_of, first, group, stages):
        following = await asyncio.wait_for(await _begun(kv_of, first, group, placed), WITHIN_S)
        assert following.copied_tokens == 0
        assert await stages[0].until(Follow) == Follow(_SUBMIT, 0)


async def test_a_source_that_is_lost_is_not_waited_for() -> None:
    async with _moving(pulled) as (kv_of, first, group, stages):
        task = asyncio.ensure_future(group.follow(_SUBMIT, kv_of, WITHIN_S))
        await first.until(AskPlace)
        kv_of.group.lose("for a test")
        await asyncio.wait_for(task, WITHIN_S)
        assert await stages[0].until(Follow) == Follow(_SUBMIT, 0)
        await task.result().close()
        again = await asyncio.wait_for(group.follow(_SUBMIT, kv_of, WITHIN_S), WITHIN_S)
        assert again.copied_tokens == 0


@pytest.mark.parametrize("other", [failed, silent])
async def test_what_one_stage_cannot_copy_is_computed_anew_by_all(other: Callable[[PullKv], KvPulled | None]) -> None:
    async with _moving(pulled, other) as (kv_of, first, group, stages):
        task = asyncio.ensure_future(group.follow(_SUBMIT, kv_of, WITHIN_S if other is failed else 0.5))
        await first.until(AskPlace)
        first.tell(Placed("there", 5, 3))
        following = await asyncio.wait_for(task, WITHIN_S)
        assert (following.copied_tokens, following.copied_bytes) == (0, 0)
        await _until_heard(stages[0], PullKv, Follow, DropKv)
        await _until_heard(stages[1], PullKv, DropKv)


async def test_a_source_that_does_not_answer_is_done_without() -> None:
    async with _moving(pulled) as (kv_of, first, group, stages):
        following = await asyncio.wait_for(group.follow(_SUBMIT, kv_of, 0.1), WITHIN_S)
        assert following.copied_tokens == 0
        assert await stages[0].until(Follow) == Follow(_SUBMIT, 0)
        await first.until(AskPlace)


async def test_whoever_is_cancelled_while_it_copies_leaves_nothing() -> None:
    async with _moving(pulled, silent) as (kv_of, first, group, stages):
        task = await _begun(kv_of, first, group, Placed("there", 5, 3))
        await stages[1].until(PullKv)
        task.cancel()
        await asyncio.wait({task}, timeout=WITHIN_S)
        assert task.cancelled()
        await _until_heard(stages[0], PullKv, DropKv)
        assert await stages[1].until(DropKv) == DropKv("here")
        assert not group._streams


async def test_whoever_gives_up_what_was_copied_has_it_dropped() -> None:
    """It may be there yet: a request that waits for a room has not claimed it."""
    async with _moving(pulled, pulled) as (kv_of, first, group, stages):
        following = await asyncio.wait_for(await _begun(kv_of, first, group, Placed("there", 5, 3)), WITHIN_S)
        await following.close()
        await _until_heard(stages[0], PullKv, Follow, Cancel, DropKv)
        await _until_heard(stages[1], PullKv, DropKv)


async def _until_heard(stage: PlayedStage, *kinds: type) -> None:
    """It has heard messages of these kinds by now, over several connections, and no others."""
    async with asyncio.timeout(WITHIN_S):
        while len(stage.heard) < len(kinds):
            stage._more.clear()
            await stage._more.wait()
    assert sorted(type(message).__name__ for message in stage.heard) == sorted(kind.__name__ for kind in kinds)
