"""Requests that come from elsewhere and go on elsewhere, as decisions: every token once, no step on a hole, no room lost."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.stage.batching import Batching
from cluster.stage.steps import Choice, Claim
from cluster.wire.requests import Caught, Placed, Rejected, Submit, Tokens, Yielded
from tests.cluster.played_group import text
from tests.cluster.played_moves import LIMITS, PlayedMoves

# ---- taken in


def test_what_is_followed_is_fed_but_for_its_last_token_and_nothing_of_it_is_chosen() -> None:
    group = PlayedMoves()
    name = group.follow(prompt=9, max_tokens=9)
    group.run()
    assert [step.feed for step in group.steps] == [text(0, 0, 8)]
    assert not any(step.wanted or step.started for step in group.steps)
    assert group.told == [Caught(name, 9)]


def test_each_round_is_told_once() -> None:
    group = PlayedMoves()
    name = group.follow(prompt=9, max_tokens=90)
    group.run()
    group.more(name, 30)
    group.run()
    group.more(name, 0)
    group.more(name, 1)
    group.run()
    assert group.told == [Caught(name, 9), Caught(name, 39), Caught(name, 40)]
    assert [step.feed for step in group.steps] == [text(0, 0, 8), text(0, 8, 38), text(0, 38, 39)]


def test_what_lacks_nothing_is_told_at_once() -> None:
    group = PlayedMoves()
    name = group.follow(prompt=1)
    group.run()
    assert (group.told, group.steps) == ([Caught(name, 1)], [])


def test_a_follower_waits_for_its_room_and_its_tokens_come_meanwhile() -> None:
    group = PlayedMoves(kv_tokens=64)
    group.submit(prompt=60, max_tokens=3)
    name = group.follow(prompt=9, max_tokens=9)
    group.step()
    group.more(name, 2)
    assert group.told == []
    assert group.batching.place(name) == Placed(name, None)
    group.run()
    assert group.told[-1] == Caught(name, 11)
    assert group.batching.used_tokens == 64


def test_a_follower_hardly_holds_up_those_who_answer() -> None:
    group = PlayedMoves()
    group.submit(max_tokens=3)
    group.step()
    group.land()
    group.follow(prompt=100, max_tokens=9)
    group.follow(prompt=100, max_tokens=9)
    for _ in range(2):
        group.step()
        group.land()
    assert [len(step.feed) for step in group.steps[1:]] == [1 + LIMITS.follow_tokens] * 2
    group.run()
    assert len(group.steps[3].feed) == LIMITS.prefill_tokens_alone


def test_a_follower_beside_a_prompt_leaves_that_its_tokens() -> None:
    group = PlayedMoves()
    group.follow(prompt=100)
    group.submit(prompt=40)
    group.step()
    assert group.steps[0].feed == text(0, 0, LIMITS.follow_tokens) + text(1, 0, 40)
    group.run()


def test_those_who_only_wait_for_more_count_for_nothing_in_the_stages_share() -> None:
    """Two that decode go in two steps over two stages, however many rest beside them."""
    group = PlayedMoves(stages=2)
    for _ in range(4):
        group.follow()
    group.run()
    before = len(group.steps)
    group.submit(max_tokens=9)
    group.submit(max_tokens=9)
    group.run()
    assert {len(step.segments) for step in group.steps[before:]} == {1}


# ---- gone on with


def test_what_goes_on_is_chosen_by_all_that_it_has() -> None:
    group = PlayedMoves()
    name = group.follow(prompt=3, max_tokens=9, generated=2)
    group.run()
    group.more(name, 2)
    group.run()
    group.go_on(name, 1)
    step = group.step()
    assert step is not None
    assert step.feed == text(0, 6, 8), "what was missing and the last token, in one step"
    ((_, submit),) = step.started
    assert (submit.tokens, submit.prompt_tokens, submit.max_tokens) == (text(0, 0, 8), 3, 6)
    group.end()
    assert [event.tokens for event in group.told if isinstance(event, Tokens)] == [
        text(0, p, p + 1) for p in range(8, 14)
    ]


def test_what_goes_on_while_its_prompt_is_fed_is_fed_on_as_any_prompt() -> None:
    group = PlayedMoves(stages=2)
    name = group.follow(prompt=100, max_tokens=3)
    group.step()
    group.go_on(name, 1)
    group.end()
    assert sum(len(step.started) for step in group.steps) == 1


@pytest.mark.parametrize(("stop_at", "finish"), [(None, "length"), (2, "stop")])
def test_what_is_over_already_is_over(stop_at: int | None, finish: str) -> None:
    group = PlayedMoves()
    name = group.follow(prompt=3, max_tokens=3, stop_at=stop_at)
    group.run()
    group.go_on(name, 3)
    assert group.told[-1] == Tokens(name, (), finish)
    group.end()


@pytest.mark.parametrize("on", [False, True])
def test_more_than_it_may_have_is_refused(on: bool) -> None:
    group = PlayedMoves()
    name = group.follow(prompt=3, max_tokens=3)
    (group.go_on if on else group.more)(name, 4)
    rejected = group.told[-1]
    assert isinstance(rejected, Rejected)
    assert "more than the 3 tokens" in rejected.message
    group.end()


def test_what_is_unknown_or_not_followed_gets_no_more() -> None:
    group = PlayedMoves()
    name = group.submit()
    for request in (name, "nobody"):
        group.more(request, 2)
        group.go_on(request, 2)
    group.end()


# ---- given up


def test_what_is_under_way_still_gives_its_token() -> None:
    group = PlayedMoves()
    name = group.submit(max_tokens=9)
    group.step()
    group.yield_up(name)
    assert group.told == []
    group.land()
    assert group.told == [Tokens(name, text(0, 3, 4)), Yielded(name)]
    group.end()


def test_what_is_between_steps_is_given_up_at_once() -> None:
    group = PlayedMoves()
    name = group.submit(max_tokens=9)
    group.step()
    group.land()
    group.yield_up(name)
    assert group.told[-1] == Yielded(name)
    assert group.batching.used_tokens == 0
    assert group.step() is None
    group.end()


def test_what_waits_is_given_up_at_once() -> None:
    group = PlayedMoves(kv_tokens=64)
    group.submit(prompt=60)
    group.yield_up(group.submit())
    assert group.told == [Yielded("r1")]
    group.end()


def test_a_prompt_that_gives_no_token_yet_is_given_up_at_once_and_its_room_with_the_last_piece() -> None:
    group = PlayedMoves(stages=2)
    name = group.submit(prompt=200)
    group.step()
    group.step()
    group.yield_up(name)
    assert group.told == [Yielded(name)]
    assert group.batching.used_tokens > 0
    group.land()
    group.land()
    group.end()


def test_what_ends_with_its_step_ends_as_ever() -> None:
    group = PlayedMoves()
    name = group.submit(max_tokens=1)
    group.step()
    group.yield_up(name)
    group.land()
    assert group.told == [Tokens(name, text(0, 3, 4), "length")]
    group.yield_up(name)
    group.yield_up("nobody")
    group.end()


@pytest.mark.parametrize("unforeseen", [[], [0]])
def test_what_runs_ahead_is_dropped(unforeseen: list[int]) -> None:
    group = PlayedMoves()
    name = group.submit(prompt=1, max_tokens=9)
    group.step()
    assert group.ahead() is not None
    group.yield_up(name)
    group.land(unforeseen)
    assert group.told == [Tokens(name, text(0, 1, 2)), Yielded(name)]
    assert group.batching.take_ended() == []
    group.land()
    group.end()


def test_nothing_runs_ahead_of_what_is_given_up() -> None:
    group = PlayedMoves()
    name = group.submit(prompt=1, max_tokens=9)
    group.step()
    group.yield_up(name)
    assert group.ahead() is None
    group.land()
    group.end()


def test_what_is_fed_anew_is_given_up_at_once() -> None:
    """Its last step ran ahead with another token, and gives nothing."""
    group = PlayedMoves()
    name = group.submit(prompt=1, max_tokens=9)
    group.step()
    group.ahead()
    group.land([0])
    group.yield_up(name)
    assert group.told[-1] == Yielded(name)
    group.end()


# ---- KV cache that comes from elsewhere


def test_what_is_claimed_is_put_into_its_place_and_only_the_rest_is_fed() -> None:
    group = PlayedMoves()
    name = group.follow(prompt=20, max_tokens=9, kv_tokens=15)
    assert group.claims == [Claim(1, name, 15)]
    assert group.step() is None
    group.run()
    assert [step.feed for step in group.steps] == [text(0, 15, 19)]
    assert group.told == [Caught(name, 20)]
    assert group.batching.place(name) == Placed(name, 1, 19)
    group.end()


def test_what_a_stage_has_not_is_computed_anew() -> None:
    group = PlayedMoves()
    name = group.follow(prompt=20, max_tokens=9, kv_tokens=15)
    group.answer(held=False)
    group.run()
    assert [step.feed for step in group.steps] == [text(0, 0, 19)]
    group.go_on(name)
    group.end()


def test_all_but_the_last_token_is_taken_over_at_most() -> None:
    group = PlayedMoves()
    name = group.follow(prompt=20, max_tokens=9, kv_tokens=20)
    group.run()
    assert group.told == [Caught(name, 20)]
    assert group.batching.place(name) == Placed(name, 1, 0), "that it has come through is not known"
    group.end()


def test_who_goes_on_before_it_is_known_waits_for_it() -> None:
    group = PlayedMoves()
    name = group.follow(prompt=20, max_tokens=2, kv_tokens=15)
    group.go_on(name, 1)
    assert group.step() is None
    assert group.batching.idle, "the stages have to say something first"
    group.end()
    assert [step.feed for step in group.steps] == [text(0, 15, 21)]


def test_what_is_claimed_is_given_back_when_nobody_wants_it_any_more() -> None:
    group = PlayedMoves(kv_tokens=64)
    group.submit(prompt=60)
    name = group.follow(prompt=20, kv_tokens=15)
    group.cancel(name)
    assert group._ended == [2], "the stages keep something for it, though it never ran"
    group.answer()
    group.end()


def test_nothing_is_taken_over_where_the_cache_is_encoded_anew() -> None:
    group = PlayedMoves(renewal=30)
    name = group.follow(prompt=20, kv_tokens=15)
    assert group.claims == []
    group.run()
    assert group.batching.place(name) == Placed(name, 1, 0)
    group.end()


def test_a_follower_that_crosses_the_border_is_fed_anew() -> None:
    group = PlayedMoves(renewal=10)
    name = group.follow(prompt=8, max_tokens=9)
    group.run()
    group.more(name, 4)
    group.run()
    assert [step.feed for step in group.steps] == [text(0, 0, 7), text(0, 0, 11)]
    assert [step.segments[0].whole for step in group.steps] == [8, 11]
    group.end()


def test_the_idle_wait_while_all_rooms_are_those_of_followers() -> None:
    """They would look for something to do for ever."""
    group = PlayedMoves(kv_tokens=64)
    name = group.follow()
    group.submit()
    group.run()
    assert group.batching.idle
    group.cancel(name)
    assert not group.batching.idle
    group.end()


def test_a_name_that_was_given_up_can_come_again_while_its_steps_are_under_way() -> None:
    batching = Batching(1000, 2)
    batching.submit(Submit("a", tuple(range(600)), 600, 4, ()))
    first = batching.next_step(lambda segment: (segment.slot,))
    batching.yield_up("a")
    batching.submit(Submit("a", (1, 2), 2, 4, ()))
    assert batching.take_news() == [Yielded("a")]
    second = batching.next_step(lambda segment: (segment.slot,))
    assert first is not None
    assert second is not None
    assert batching.land([]) == []
    assert batching.land([Choice(5)]) == [Tokens("a", (5,))]


# ---- whatever comes

_NAMES = st.integers(0, 7).map(lambda number: f"r{number}")
_STOPS = st.none() | st.integers(0, 12)
_PROMPTS = st.integers(1, 12) | st.integers(1, 150)
_OPS = st.one_of(
    st.tuples(st.just("submit"), _PROMPTS, st.integers(1, 12), _STOPS),
    st.tuples(st.just("follow"), _PROMPTS, st.integers(1, 30), st.integers(0, 3), st.integers(0, 150), _STOPS),
    st.tuples(st.just("more"), _NAMES, st.integers(0, 9)),
    st.tuples(st.just("go_on"), _NAMES, st.integers(0, 9)),
    st.tuples(st.just("yield_up"), _NAMES),
    st.tuples(st.just("cancel"), _NAMES),
    st.tuples(st.just("answer"), st.booleans()),
    st.just(("step",)), st.just(("step",)), st.just(("land",)), st.just(("land",)), st.just(("ahead",)),
    st.tuples(st.just("land"), st.lists(st.integers(0, 3), max_size=2)),
)  # fmt: skip


@settings(max_examples=400)
@given(
    st.lists(_OPS, max_size=80), st.sampled_from([100, 200, 1000]), st.integers(1, 4), st.none() | st.integers(1, 30)
)
def test_whatever_comes_every_token_is_given_once_and_all_rooms_come_back(
    ops: list[Any], kv_tokens: int, stages: int, renewal: int | None
) -> None:
    """What PlayedMoves holds at any time."""
    group = PlayedMoves(kv_tokens, stages, renewal)
    for what, *arguments in ops:
        getattr(group, what)(*arguments)
    group.end()
