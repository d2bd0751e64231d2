"""A request that goes on at another group, and every way out of that, in every order: each token comes once."""

import asyncio

import pytest

from cluster.errors import Refused, StageFailed
from schedules import events
from schedules.moving.rounds import LONGEST_ROUND_S, NEAR_TOKENS, ROUNDS
from serving.errors import Unavailable
from serving.moving.shifting import FOLLOWED_WITHIN_S
from tests.serving.hand_groups import PROMPT, Counted, Reader, by_hand, soon, whole


async def taken_in(reader: Reader, gap: int = 1) -> None:
    """The other group follows, and has caught up but for so many tokens: the first is asked to give the request up."""
    reader.d.follows.put_nowait(None)
    await soon()
    if gap:
        reader.s.say(gap)
        await soon()
    reader.d.followings[-1].caught.put_nowait(None)
    await soon()
    assert reader.s.yielded == ["r.1"]


async def at_the_end(reader: Reader) -> None:
    """It has all of its tokens, each once."""
    assert (reader.tokens, reader.finish, reader.error) == (whole(), "length", None)
    assert [event for event in reader.told if isinstance(event, events.RequestEnded)] == [events.RequestEnded("r")]
    assert not any(isinstance(event, events.RequestLeft) for event in reader.told)


def test_a_request_goes_on_at_the_very_next_token() -> None:
    """What comes while the other group takes it in goes there in rounds, what comes after that with the switch."""

    async def test(reader: Reader) -> None:
        account = reader.shift(copy=True)
        await soon()
        (following,) = reader.d.followings
        assert following.submit.tokens == (*PROMPT, 3, 4)
        assert (following.submit.request, following.submit.max_tokens) == ("r.2", 298)
        assert following.kv_of is not None
        assert (following.kv_of.group, following.kv_of.request) == (reader.s, "r.1")
        following.copied_tokens, following.copied_bytes = 4, 400
        reader.d.follows.put_nowait(None)
        reader.s.say(NEAR_TOKENS + 1)
        await soon()
        following.caught.put_nowait(None)
        await soon()
        assert following.rounds == [tuple(range(5, 6 + NEAR_TOKENS))]
        assert reader.s.yielded == []
        reader.s.say(1)
        await asyncio.sleep(0.3)
        following.caught.put_nowait(None)
        await soon()
        assert reader.s.yielded == ["r.1"]
        assert reader.shifts == []
        reader.s.end(tokens=1)
        await soon()
        assert reader.shifts == [events.RequestShifted("r", "s", "d")]
        assert following.went_on == (14, 15)
        await asyncio.sleep(0.05)
        reader.d.say(3)
        await soon()
        reader.d.say_rest()
        await soon()
        assert account.told == [("shifted", 4, 400), ("paused", 0.05)]
        await at_the_end(reader)
        assert following.closed == 0
        told = [event for event in reader.told if isinstance(event, events.RequestProgressed)]
        assert [(event.group, event.tokens) for event in told][:-1] == [
            ("s", 2), ("s", NEAR_TOKENS + 1), ("s", 1), ("s", 1), ("d", 3),
        ]  # fmt: skip

    by_hand(test)


def test_without_a_copy_it_is_computed_anew() -> None:
    async def test(reader: Reader) -> None:
        account = reader.shift()
        await soon()
        assert reader.d.followings[0].kv_of is None
        await taken_in(reader)
        reader.s.end()
        await soon()
        reader.d.say_rest()
        await soon()
        assert account.told[0] == ("shifted", 0, 0)
        await at_the_end(reader)

    by_hand(test)


def test_who_has_no_token_yet_goes_too() -> None:
    async def test(reader: Reader) -> None:
        other = Reader()
        other.assign("s")
        await soon()
        other.shift()
        await soon()
        await taken_in(other, gap=0)
        other.s.end()
        await soon()
        other.d.say_rest()
        await soon()
        await at_the_end(other)

    by_hand(test)


def test_who_was_assigned_and_has_asked_for_nothing_yet_goes_there_at_once() -> None:
    async def test(reader: Reader) -> None:
        other = Reader()
        other.assign("s")
        account = other.shift()
        assert other.shifts == [events.RequestShifted("r", "s", "d")]
        assert account.told == [("shifted", 0, 0), ("over",)]
        await soon()
        assert other.s.asked == []
        other.d.say_rest()
        await soon()
        await at_the_end(other)

    by_hand(test)


# ---- it stays


def stays(reader: Reader) -> str:
    """Why; the request has nobody that follows it any more."""
    (event,) = reader.shifts
    assert isinstance(event, events.RequestStayed)
    assert (event.group, event.to) == ("s", "d")
    return event.reason


@pytest.mark.parametrize("error", [Refused("no room"), StageFailed("it is gone"), OSError("odd")])
@pytest.mark.parametrize("late", [False, True])
def test_what_goes_wrong_before_the_switch_its_client_never_notices(error: Exception, late: bool) -> None:
    async def test(reader: Reader) -> None:
        account = reader.shift()
        await soon()
        reader.d.follows.put_nowait(None if late else error)
        await soon()
        if late:
            reader.d.followings[0].caught.put_nowait(error)
            await soon()
        assert str(error) in stays(reader)
        assert account.told == [("stayed", stays(reader))]
        assert reader.d.followings[0].closed == late
        reader.s.say_rest()
        await soon()
        await at_the_end(reader)

    by_hand(test)


def test_a_group_that_is_lost_just_before_the_switch_is_not_gone_to() -> None:
    """The request was asked to end where it was, and did: it begins there again, with all that it had."""

    async def test(reader: Reader) -> None:
        account = reader.shift()
        await soon()
        await taken_in(reader)
        reader.d.lose("a stage died")
        reader.s.end(tokens=1)
        await soon()
        assert stays(reader) == "a stage died"
        assert account.told == [("stayed", "a stage died")]
        assert reader.d.followings[0].closed == 1
        assert reader.s.asked[-1].tokens == (*PROMPT, 3, 4, 5, 6)
        assert reader.s.asked[-1].max_tokens == 296
        reader.s.say_rest()
        await soon()
        await at_the_end(reader)

    by_hand(test)


def test_a_group_that_is_lost_while_it_catches_up_is_not_waited_for() -> None:
    async def test(reader: Reader) -> None:
        reader.shift()
        await soon()
        reader.d.follows.put_nowait(None)
        await soon()
        reader.d.lose("a stage died")
        reader.d.followings[0].caught.put_nowait(None)
        await soon()
        assert stays(reader) == "a stage died"
        assert reader.s.yielded == []
        reader.s.say_rest()
        await soon()
        await at_the_end(reader)

    by_hand(test)


@pytest.mark.parametrize("followed", [False, True])
def test_a_group_that_takes_too_long_is_given_up(followed: bool) -> None:
    async def test(reader: Reader) -> None:
        reader.shift()
        await soon()
        if followed:
            reader.d.follows.put_nowait(None)
        await asyncio.sleep(FOLLOWED_WITHIN_S - 1.0)
        assert reader.shifts == []
        await asyncio.sleep(2.0)
        assert "within 120 s" in stays(reader)
        assert reader.d.followings[0].closed == followed
        reader.s.say_rest()
        await soon()
        await at_the_end(reader)

    by_hand(test)


@pytest.mark.parametrize("group", ["e", "s"])
def test_who_is_not_where_it_shall_leave_and_where_nobody_is_stays(group: str) -> None:
    async def test(reader: Reader) -> None:
        account = reader.shift(group, "d" if group == "e" else "nowhere")
        assert [type(event) for event in reader.shifts] == [events.RequestStayed]
        assert [told[0] for told in account.told] == ["stayed"]
        reader.s.say_rest()
        await soon()
        await at_the_end(reader)

    by_hand(test)


# ---- the gap


async def rounds(reader: Reader, count: int, gap: int, taken_s: float) -> None:
    """So many rounds, in each of which so many tokens come where it is answered."""
    for _ in range(count):
        reader.s.say(gap)
        await asyncio.sleep(taken_s)
        assert reader.s.yielded == []
        reader.d.followings[0].caught.put_nowait(None)
        await soon()


async def followed(reader: Reader) -> None:
    reader.d.follows.put_nowait(None)
    await soon()


def test_a_gap_that_stays_as_it_is_is_small_enough_if_its_client_waits_little_for_it() -> None:
    async def test(reader: Reader) -> None:
        reader.shift()
        await followed(reader)
        await rounds(reader, 2, NEAR_TOKENS + 1, LONGEST_ROUND_S / 2)
        assert reader.s.yielded == ["r.1"]
        reader.s.end()
        await soon()
        assert len(reader.d.followings[0].went_on or ()) == NEAR_TOKENS + 1
        reader.d.say_rest()
        await soon()
        await at_the_end(reader)

    by_hand(test)


def test_a_gap_that_shrinks_is_let_shrink() -> None:
    async def test(reader: Reader) -> None:
        reader.shift()
        await followed(reader)
        for gap in (14, 12, 10):
            await rounds(reader, 1, gap, 0.1)
        assert reader.s.yielded == []
        await rounds(reader, 1, NEAR_TOKENS, 0.1)
        assert reader.s.yielded == ["r.1"]
        assert [len(told) for told in reader.d.followings[0].rounds] == [14, 12, 10]

    by_hand(test)


def test_who_would_wait_long_for_a_gap_that_does_not_close_stays() -> None:
    async def test(reader: Reader) -> None:
        reader.shift()
        await followed(reader)
        await rounds(reader, ROUNDS, NEAR_TOKENS + 1, 1.1 * LONGEST_ROUND_S)
        assert reader.s.yielded == []
        assert f"after {ROUNDS} rounds" in stays(reader)
        assert reader.d.followings[0].closed == 1
        reader.s.say_rest()
        await soon()
        await at_the_end(reader)

    by_hand(test)


# ---- the request is over, or lost, meanwhile

Stage = str
STAGES = ("asked", "followed", "given up")


async def come_to(reader: Reader, stage: Stage) -> None:
    """The shift has come so far."""
    await soon()
    if stage == "followed":
        await followed(reader)
    elif stage == "given up":
        await taken_in(reader)


def nobody_follows(reader: Reader, stage: Stage) -> bool:
    return [following.closed for following in reader.d.followings] == [stage != "asked"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_request_that_ends_meanwhile_ends_where_it_is(stage: Stage) -> None:
    async def test(reader: Reader) -> None:
        account = reader.shift()
        await come_to(reader, stage)
        reader.s.say_rest()
        await soon()
        await at_the_end(reader)
        assert reader.shifts == []
        assert account.told == [("over",)]
        assert nobody_follows(reader, stage)

    by_hand(test)


@pytest.mark.parametrize("stage", STAGES)
def test_whoever_leaves_meanwhile_is_nobodys(stage: Stage) -> None:
    async def test(reader: Reader) -> None:
        account = reader.shift()
        await come_to(reader, stage)
        await reader.leave()
        assert reader.told[-1] == events.RequestLeft("r")
        assert reader.shifts == []
        assert account.told == [("over",)]
        await soon()
        assert nobody_follows(reader, stage)

    by_hand(test)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("how", ["assign", "wait", "reject"])
def test_a_request_that_is_lost_meanwhile_is_replayed(stage: Stage, how: str) -> None:
    """The brain heard of it first: what it says then holds."""

    async def test(reader: Reader) -> None:
        account = reader.shift()
        await come_to(reader, stage)
        had = len(reader.tokens)
        if how == "assign":
            reader.assign("e")
        elif how == "wait":
            reader.ticket.wait()
        else:
            reader.ticket.reject(Unavailable("there is nobody"))
        assert account.told == [("over",)]
        reader.s.lose("a node is gone")
        await soon()
        assert nobody_follows(reader, stage)
        assert reader.shifts == []
        if how == "reject":
            assert isinstance(reader.error, Unavailable)
            return
        if how == "wait":
            reader.assign("e")
            await soon()
        assert len(reader.groups["e"].asked[0].tokens) == len(PROMPT) + had
        reader.groups["e"].say_rest()
        await soon()
        await at_the_end(reader)

    by_hand(test)


def test_a_group_that_breaks_meanwhile_breaks_the_request_there() -> None:
    async def test(reader: Reader) -> None:
        account = reader.shift()
        await followed(reader)
        reader.s.say(StageFailed("a stage died"))
        await soon()
        assert reader.told[-1] == events.RequestBroke("r", "s", "a stage died")
        assert account.told == [("over",)]
        assert nobody_follows(reader, "followed")

    by_hand(test)


def test_a_stream_that_ends_unasked_is_broken() -> None:
    async def test(reader: Reader) -> None:
        reader.s.end()
        await soon()
        assert isinstance(reader.told[-1], events.RequestBroke)

    by_hand(test)


# ---- after the switch


async def switched(reader: Reader) -> Counted:
    account = reader.shift()
    await soon()
    await taken_in(reader)
    reader.s.end()
    await soon()
    assert reader.shifts == [events.RequestShifted("r", "s", "d")]
    return account


@pytest.mark.parametrize("had", [0, 3])
def test_a_group_that_is_lost_after_the_switch_is_replayed_as_any(had: int) -> None:
    async def test(reader: Reader) -> None:
        account = await switched(reader)
        if had:
            reader.d.say(had)
            await soon()
        reader.d.lose("a stage died")
        await soon()
        assert reader.told[-1] == events.RequestBroke("r", "d", "a stage died")
        assert [told[0] for told in account.told] == ["shifted", "paused" if had else "over"]
        reader.assign("e")
        await soon()
        assert len(reader.groups["e"].asked[0].tokens) == len(PROMPT) + 3 + had
        reader.groups["e"].say_rest()
        await soon()
        await at_the_end(reader)

    by_hand(test)


def test_who_leaves_in_the_pause_is_nobodys() -> None:
    async def test(reader: Reader) -> None:
        account = await switched(reader)
        await reader.leave()
        assert reader.told[-1] == events.RequestLeft("r")
        assert [told[0] for told in account.told] == ["shifted", "over"]
        assert reader.d.asking == []

    by_hand(test)


def test_what_the_brain_orders_as_it_hears_of_the_switch_leaves_the_stream_alone() -> None:
    """It stops the group that nobody is at any more, and may order the next shift at once."""

    async def test(reader: Reader) -> None:
        accounts: list[Counted] = []

        def hear(event: events.Event) -> None:
            if isinstance(event, events.RequestShifted) and event.to == "d":
                reader.s.lose("the group was dissolved")
                accounts.append(reader.shift("d", "e"))

        reader.on_told = hear
        await switched(reader)
        reader.d.say(1)
        reader.groups["e"].follows.put_nowait(None)
        await soon()
        reader.groups["e"].followings[0].caught.put_nowait(None)
        await soon()
        assert reader.d.yielded == ["r.2"]
        reader.d.end(tokens=2)
        await soon()
        reader.groups["e"].say_rest()
        await soon()
        assert accounts[0].told[0] == ("shifted", 0, 0)
        await at_the_end(reader)

    by_hand(test)


def test_a_second_shift_ends_the_first() -> None:
    async def test(reader: Reader) -> None:
        first = reader.shift()
        await followed(reader)
        second = reader.shift("s", "e")
        await soon()
        assert (first.told, second.told) == ([("over",)], [])
        assert nobody_follows(reader, "followed")
        reader.groups["e"].follows.put_nowait(None)
        await soon()
        reader.groups["e"].followings[0].caught.put_nowait(None)
        await soon()
        reader.s.end()
        await soon()
        assert reader.shifts == [events.RequestShifted("r", "s", "e")]
        reader.groups["e"].say_rest()
        await soon()
        await at_the_end(reader)

    by_hand(test)


def test_a_second_shift_after_the_request_was_given_up_begins_where_it_is_again() -> None:
    async def test(reader: Reader) -> None:
        reader.shift()
        await soon()
        await taken_in(reader)
        reader.shift("s", "e")
        reader.s.end()
        await soon()
        assert [type(event) for event in reader.shifts] == [events.RequestStayed]
        reader.s.say_rest()
        await soon()
        await at_the_end(reader)

    by_hand(test)


def test_who_is_over_is_not_shifted() -> None:
    async def test(reader: Reader) -> None:
        reader.s.say_rest()
        await soon()
        assert reader.shift().told == [("over",)]
        assert reader.shifts == []

    by_hand(test)
