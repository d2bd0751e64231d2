"""Continuous batching as decisions: who runs, who waits, what makes up a step, and that all room comes back."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.stage.batching import Batching
from cluster.stage.steps import MAX_ROWS, PREFILL_TOKENS, PREFILL_TOKENS_ALONE, Choice, Segment
from cluster.wire.requests import Failed, Rejected, Sampling, Submit, TokenLogprobs, Tokens, Yielded
from schedules.requests import room_tokens
from tests.cluster.played_group import PlayedGroup, ask, expected, text

# ---- rooms


def test_rooms_come_in_few_sizes() -> None:
    sizes = [64, 96, 128, 192, 256, 384, 512, 768, 1024]
    assert sorted({room_tokens(tokens, 10_000) for tokens in range(1, 1025)}) == sizes
    assert [room_tokens(size, 10_000) for size in sizes] == sizes
    assert [room_tokens(size + 1, 10_000) for size in sizes[:-1]] == sizes[1:]


@given(st.integers(1, 200_000), st.integers(0, 200_000))
def test_a_room_holds_its_request_wastes_less_than_half_of_it_and_is_no_larger_than_the_cache(
    tokens: int, more: int
) -> None:
    most_tokens = tokens + more
    room = room_tokens(tokens, most_tokens)
    assert tokens <= room <= most_tokens
    assert room < max(1.5 * tokens, 65)
    assert room <= room_tokens(tokens + 1, most_tokens + 1)


def test_what_nearly_fills_the_cache_gets_all_of_it() -> None:
    assert room_tokens(97, 100) == 100
    assert room_tokens(3, 7) == 7


# ---- one request


def test_the_prompt_is_fed_at_once_and_then_token_by_token() -> None:
    group = PlayedGroup()
    group.submit(ask(1, prompt=3, max_tokens=3))
    group.run()
    assert [step.feed for step in group.taken] == [text(1, 0, 3), text(1, 3, 4), text(1, 4, 5)]
    assert group.texts == {"r1": text(1, 3, 6)}
    assert group.finishes == {"r1": "length"}


def test_a_stop_token_ends_a_request_and_is_given_out() -> None:
    group = PlayedGroup()
    group.submit(ask(1, prompt=3, max_tokens=9, stop_at=1))
    group.run()
    assert group.texts == {"r1": text(1, 3, 5)}
    assert group.finishes == {"r1": "stop"}


def test_a_stop_token_at_the_very_end_is_a_stop() -> None:
    group = PlayedGroup()
    group.submit(ask(1, max_tokens=2, stop_at=1))
    group.run()
    assert group.finishes == {"r1": "stop"}


def test_a_stop_token_in_the_prompt_ends_nothing() -> None:
    group = PlayedGroup()
    group.submit(replace(ask(1, prompt=3, max_tokens=2), stop_tokens=text(1, 0, 3)))
    group.run()
    assert group.finishes == {"r1": "length"}


def test_a_request_that_was_moved_goes_on_after_what_it_had() -> None:
    group = PlayedGroup()
    group.submit(ask(1, prompt=2, generated=3, max_tokens=2))
    group.run()
    assert [step.feed for step in group.taken] == [text(1, 0, 5), text(1, 5, 6)]
    assert group.texts == {"r1": text(1, 5, 7)}


def test_parameters_come_with_the_first_step_alone() -> None:
    group = PlayedGroup(stages=2)
    submit = ask(1, prompt=300, max_tokens=3)
    group.submit(submit)
    group.run()
    assert [[started for _, started in step.started] for step in group.taken] == [[submit], [], [], []]


def test_log_probabilities_are_given_out_with_their_token() -> None:
    batching = Batching(100, 1)
    batching.submit(Submit("a", (1, 2), 2, 4, (), Sampling(logprobs=1)))
    assert batching.next_step(lambda segment: (segment.slot,)) is not None
    logprobs = TokenLogprobs(-0.5, ((9, -0.5),))
    assert batching.land([Choice(9, logprobs)]) == [Tokens("a", (9,), None, (logprobs,))]


# ---- who runs and who waits


@pytest.mark.parametrize(("kv_tokens", "together"), [(127, 1), (128, 2), (191, 2), (192, 3), (1000, 5)])
def test_requests_run_together_as_far_as_the_cache_reaches(kv_tokens: int, together: int) -> None:
    group = PlayedGroup(kv_tokens)
    group.submit(*(ask(number) for number in range(5)))
    group.run()
    assert max(map(len, group.lengths())) == together
    assert len(group.finishes) == 5


def test_a_request_that_comes_later_does_not_wait_for_the_first_to_end() -> None:
    group = PlayedGroup()
    group.submit(ask(1, max_tokens=5))
    group.step()
    group.land()
    group.submit(ask(2, max_tokens=1))
    step = group.step()
    assert step is not None
    assert group.who(step) == ["r1", "r2"]


def test_a_small_request_does_not_overtake_a_large_one_that_waits_for_room() -> None:
    group = PlayedGroup(kv_tokens=192)
    group.submit(ask(0, prompt=60), ask(1, prompt=180), ask(2, prompt=1, max_tokens=1))
    group.run()
    assert group.starts() == ["r0", "r1", "r2"]
    assert all(len(step.segments) == 1 for step in group.taken[:8])


def test_a_request_that_fills_the_cache_runs_alone() -> None:
    group = PlayedGroup(kv_tokens=7)
    group.submit(ask(1, 3, 4), ask(2, 3, 4))
    group.run()
    assert [group.who(step) for step in group.taken] == [["r1"]] * 4 + [["r2"]] * 4


def test_a_request_that_never_fits_is_rejected_and_the_others_go_on() -> None:
    group = PlayedGroup(kv_tokens=7)
    (rejected,) = group.submit(ask(1, 3, 5), ask(2, 3, 4))
    assert rejected.request == "r1"
    assert "8 tokens, this replica's KV cache holds 7" in rejected.message
    group.run()
    assert group.finishes == {"r2": "length"}


def test_a_request_of_no_tokens_is_rejected() -> None:
    """It was taken, ran for ever without a step, and the driver with it: a processor was busy doing nothing."""
    batching = Batching(100, 1)
    rejected = batching.submit(Submit("a", (), 0, 4, ()))
    assert rejected is not None
    assert "no tokens" in rejected.message
    assert batching.idle


@pytest.mark.parametrize("max_tokens", [0, -50])
def test_a_request_for_no_tokens_is_rejected(max_tokens: int) -> None:
    """It was given a token, and with less than none a room too small for its prompt: its end lay in another's room."""
    batching = Batching(1000, 1)
    rejected = batching.submit(Submit("a", tuple(range(1, 101)), 100, max_tokens, ()))
    assert rejected is not None
    assert f"max_tokens is {max_tokens}" in rejected.message
    assert batching.idle


# ---- cancelled


def test_cancelling_gives_the_room_to_the_next_whatever_the_request_is_at() -> None:
    """One that waits, one that is ready, one under way, one between the pieces of its prompt: each fills the cache."""
    group = PlayedGroup(kv_tokens=600, stages=2)
    submits = [ask(number, prompt=590, max_tokens=10) for number in range(5)]
    group.submit(*submits)
    group.cancel("r1")
    group.cancel("r0")
    assert group.starts() == []
    group.step()
    group.cancel("r2")
    assert group.batching.used_tokens == 600, "the stages still work on it"
    assert group.step() is None
    assert group.land() == []
    group.step()
    group.land()
    group.cancel("r3")
    group.run()
    assert group.starts() == ["r2", "r3", "r4"]
    assert group.texts == {"r4": expected(submits[4])}


def test_a_cancelled_request_whose_token_is_under_way_gets_it_not() -> None:
    group = PlayedGroup()
    group.submit(ask(1, max_tokens=1), ask(2, max_tokens=1))
    group.step()
    group.cancel("r1")
    assert [tokens.request for tokens in group.land()] == ["r2"]
    group.run()


def test_a_cancelled_prompt_is_not_fed_any_further() -> None:
    """While a piece of it was under way the next was launched: a prompt of 8,000 tokens that nobody wanted any more
    kept the stages busy to its end."""
    group = PlayedGroup(stages=2)
    group.submit(ask(1, prompt=8000))
    group.steps()
    group.cancel("r1")
    group.run()
    assert group.lengths() == [[PREFILL_TOKENS_ALONE]] * 2


def test_cancelling_what_is_unknown_or_over_does_nothing() -> None:
    group = PlayedGroup()
    group.submit(ask(1, max_tokens=1), ask(2, max_tokens=2))
    group.cancel("nobody")
    group.step()
    group.land()
    group.batching.cancel("r1")
    group.run()
    assert group.finishes == {"r1": "length", "r2": "length"}


def test_a_cancelled_name_can_come_again_while_the_first_still_runs() -> None:
    """The first one's end forgot the second, whose own end then broke the stage."""
    group = PlayedGroup()
    group.submit(ask(1, max_tokens=9))
    group.step()
    group.cancel("r1")
    group.submit(ask(1, max_tokens=2))
    group.run()
    assert group.texts == {"r1": text(1, 3, 5)}
    assert len(group.names) == 2


# ---- what makes up a step


def test_a_prompt_nobody_waits_behind_is_fed_in_large_pieces() -> None:
    group = PlayedGroup()
    group.submit(ask(1, prompt=PREFILL_TOKENS_ALONE + 100, max_tokens=1))
    group.run()
    assert group.lengths() == [[PREFILL_TOKENS_ALONE], [100]]


def test_a_prompt_beside_those_who_decode_is_fed_in_small_pieces() -> None:
    group = PlayedGroup()
    group.submit(ask(1, max_tokens=4))
    group.step()
    group.land()
    group.submit(ask(2, prompt=2 * PREFILL_TOKENS + 1, max_tokens=1))
    group.run()
    assert group.lengths() == [[3], [1, PREFILL_TOKENS], [1, PREFILL_TOKENS], [1, 1]]


@pytest.mark.parametrize("stages", [2, 3, 4])
def test_those_who_decode_in_another_step_are_not_held_up_either(stages: int) -> None:
    """Only tokens that were ready to be fed counted. While the next token of all who decode was under way, a prompt
    went in pieces of up to 2,048 tokens, and those tokens' successors waited behind it at every stage."""
    group = PlayedGroup(stages=stages)
    group.submit(ask(1, max_tokens=50))
    group.step()
    group.land()
    group.step()
    group.submit(ask(2, prompt=8000, max_tokens=1))
    assert {tokens for step in group.steps() for tokens in [len(step.feed)]} == {PREFILL_TOKENS}
    group.run()


@pytest.mark.parametrize(("prompt", "stages", "pieces"), [
    (1000, 1, [1000]),
    (1000, 2, [500, 500]),
    (1000, 3, [334, 334, 332]),
    (1000, 4, [256, 256, 256, 232]),
    (300, 4, [256, 44]),
    (257, 4, [256, 1]),
    (4000, 2, [2000, 2000]),
])  # fmt: skip
def test_pieces_of_a_prompt_follow_each_other_over_the_stages_without_waiting(
    prompt: int, stages: int, pieces: list[int]
) -> None:
    group = PlayedGroup(stages=stages)
    group.submit(ask(1, prompt=prompt, max_tokens=1))
    steps = group.steps()
    assert [len(step.feed) for step in steps] == pieces
    assert [len(step.wanted) for step in steps] == [0] * (len(pieces) - 1) + [1]
    group.run()


def test_prompts_share_a_step_as_far_as_it_reaches() -> None:
    group = PlayedGroup()
    group.submit(*(ask(number, prompt=900, max_tokens=1) for number in range(3)))
    group.run()
    assert group.lengths() == [[900, 900, 248], [652]]


def test_a_prompt_that_a_step_had_no_room_for_keeps_its_turn() -> None:
    group = PlayedGroup(stages=3)
    group.submit(*(ask(number, max_tokens=50) for number in range(4)))
    for _ in group.steps():
        group.land()
    group.submit(ask(4, prompt=600), ask(5, prompt=600))
    assert [group.who(step) for step in group.steps()] == [["r0", "r1"], ["r2", "r3"], ["r4"]]
    for _ in range(3):
        group.land()
    assert [group.who(step) for step in group.steps()] == [["r0", "r5"], ["r1", "r4"], ["r2", "r3"]]
    group.run()


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
@pytest.mark.parametrize("requests", [1, 2, 3, 5, 8, 9, 31])
def test_those_who_decode_are_spread_evenly_over_the_stages(requests: int, stages: int) -> None:
    group = PlayedGroup(stages=stages)
    group.submit(*(ask(number, max_tokens=20) for number in range(requests)))
    share = -(-requests // stages)
    for _ in range(4 * stages):
        group.steps()
        group.land()
    rows = [len(step.segments) for step in group.taken]
    assert set(rows) <= {share, requests % share or share}
    assert min(stages, requests) >= group.batching.steps_under_way
    group.run()
    assert len(group.finishes) == requests


def test_at_most_as_many_steps_are_under_way_as_there_are_stages() -> None:
    for stages in (1, 2, 3):
        group = PlayedGroup(stages=stages)
        group.submit(*(ask(number) for number in range(5)))
        assert len(group.steps()) == min(stages, 3)
        group.run()


def test_one_request_has_one_token_under_way() -> None:
    group = PlayedGroup(stages=4)
    group.submit(ask(1))
    assert len(group.steps()) == 1
    group.land()
    assert len(group.steps()) == 1


def test_a_step_has_no_more_rows_than_their_logits_have_room() -> None:
    group = PlayedGroup()
    group.submit(*(ask(number, prompt=1, max_tokens=2) for number in range(MAX_ROWS + 10)))
    group.run()
    assert [len(lengths) for lengths in group.lengths()] == [MAX_ROWS, MAX_ROWS, 20]


def test_a_request_that_crosses_the_border_is_fed_anew_once_with_all_that_it_has() -> None:
    """What the cache held of it was encoded for a shorter sequence. Its parameters are not told a second time."""
    group = PlayedGroup(renewal=10)
    group.submit(ask(1, prompt=9, max_tokens=5))
    group.run()
    assert group.lengths() == [[9], [1], [11], [1], [1]]
    assert group.wholes() == [[9], [9], [11], [11], [11]]
    assert group.starts() == ["r1"]


def test_who_begins_beyond_the_border_or_ends_on_it_is_fed_once() -> None:
    group = PlayedGroup(renewal=10)
    group.submit(ask(1, prompt=11, max_tokens=3), ask(2, prompt=8, max_tokens=3))
    group.run()
    assert group.lengths() == [[11, 8], [1, 1], [1, 1]]
    assert {whole for wholes in group.wholes() for whole in wholes} == {11, 8}


def test_a_replay_counts_as_whole_what_the_first_run_had() -> None:
    """Of three that have tokens already: one below the border, which still crosses it, one beyond, one that was whole."""
    group = PlayedGroup(renewal=10)
    group.submit(*(ask(n, prompt, max_tokens=2, generated=2) for n, prompt in ((1, 8), (2, 9), (3, 30))))
    group.run()
    assert group.lengths() == [[10, 11, 32], [1, 1, 11]]
    assert group.wholes() == [[8, 11, 30], [11, 30, 11]]


def test_a_renewal_leaves_room_for_those_who_answer() -> None:
    """It is a prompt as any other: beside somebody who answers it comes in pieces, and a cancelled one comes no further."""
    group = PlayedGroup(renewal=600)
    group.submit(ask(1, prompt=600, max_tokens=3), ask(2, prompt=3, max_tokens=12), ask(3, prompt=600, max_tokens=3))
    group.run()
    assert [len(given) for given in group.texts.values()] == [3, 12, 3]


def test_who_gets_no_token_is_over_and_leaves_its_room_to_the_others() -> None:
    batching = Batching(128, stages=1)
    for number in (1, 2, 3):
        batching.submit(ask(number, prompt=3, max_tokens=4))
    step = batching.next_step(lambda segment: (segment.slot,))
    assert step is not None
    failed, given = batching.land([Choice(None), Choice(9)])
    assert failed == Failed("r1", "the model's logits at position 3 are not finite numbers")
    assert given == Tokens("r2", (9,))
    assert batching.take_ended() == [step.segments[0].slot]
    following = batching.next_step(lambda segment: (segment.slot,))
    assert following is not None
    assert [submit.request for _, submit in following.started] == ["r3"]


# ---- whatever comes

_PROMPTS = st.one_of(st.integers(1, 12), st.integers(1, 900), st.integers(2000, 5000))
_ASKS = st.builds(
    lambda prompt, max_tokens, generated, stop_at: (prompt, max_tokens, generated, stop_at),
    _PROMPTS, st.integers(1, 8), st.integers(0, 3), st.none() | st.integers(0, 8),
)  # fmt: skip
_EVENTS = st.lists(st.one_of(_ASKS, st.integers(0, 20), st.sampled_from(["step", "step", "land"])), max_size=60)


@settings(max_examples=300)
@given(
    _EVENTS, st.one_of(st.integers(16, 400), st.integers(400, 9000)), st.integers(1, 5), st.none() | st.integers(1, 20)
)
def test_whatever_comes_everyone_gets_all_tokens_within_the_cache(
    events: list[tuple[int, int, int, int | None] | int | str], kv_tokens: int, stages: int, renewal: int | None
) -> None:
    """What PlayedGroup holds at any time: tokens in their place, room within the cache, nobody overtaken for ever."""
    group = PlayedGroup(kv_tokens, stages, renewal)
    submits: dict[str, Submit] = {}
    cancelled: set[str] = set()
    for event in events:
        if event == "step":
            group.step()
        elif event == "land":
            if group.batching.steps_under_way:
                group.land()
        elif isinstance(event, tuple):
            prompt, max_tokens, generated, stop_at = event
            submit = ask(len(submits), prompt, max_tokens, generated, stop_at)
            fits = len(submit.tokens) + max_tokens <= kv_tokens
            assert bool(group.submit(submit)) == (not fits)
            if fits:
                submits[submit.request] = submit
        else:
            if (name := f"r{event}") in submits and name not in group.finishes:
                cancelled.add(name)
            group.cancel(f"r{event}")
    group.run()
    wanted = {name: expected(submit) for name, submit in submits.items() if name not in cancelled}
    assert {name: given for name, given in group.texts.items() if name not in cancelled} == wanted
    assert set(group.finishes) == set(wanted)
    assert group.starts() == sorted(group.starts(), key=lambda name: int(name[1:]))


# ---- what a grammar makes of a choice

_LATER = Choice(None, later=True)


def _by_slot(segment: Segment) -> tuple[int, ...]:
    return (segment.slot,)


@pytest.mark.parametrize("prompt", [1, 3])
def test_what_cannot_be_chosen_yet_is_asked_again_with_its_last_token(prompt: int) -> None:
    """Beside others, who go on."""
    batching = Batching(1000, 1)
    for number in (1, 2):
        assert batching.submit(ask(number, prompt)) is None
    assert batching.next_step(_by_slot) is not None
    assert batching.land([_LATER, Choice(text(2, prompt, prompt + 1)[0])]) == [
        Tokens("r2", text(2, prompt, prompt + 1))
    ]
    again = batching.next_step(_by_slot)
    assert again is not None
    assert sorted(again.feed) == sorted((*text(1, prompt - 1, prompt), *text(2, prompt, prompt + 1)))
    assert [s.position for s in again.segments if s.slot == 1] == [prompt - 1]
    assert again.started == ()


def test_what_cannot_be_chosen_yet_is_given_up_at_once() -> None:
    batching = Batching(1000, 1)
    batching.submit(ask(1))
    batching.next_step(_by_slot)
    batching.yield_up("r1")
    assert batching.land([_LATER]) == [Yielded("r1")]
    assert (batching.take_ended(), batching.idle) == ([1], True)


def test_a_request_is_over_with_the_token_after_which_nothing_may_follow() -> None:
    batching = Batching(1000, 1)
    batching.submit(ask(1))
    batching.next_step(_by_slot)
    assert batching.land([Choice(7, over=True)]) == [Tokens("r1", (7,), "stop")]
    assert batching.take_ended() == [1]


@pytest.mark.parametrize(("generated", "kind"), [(0, Rejected), (2, Failed)])
def test_a_grammar_that_cannot_be_kept_to_ends_its_request_with_why(generated: int, kind: type) -> None:
    """Of what has tokens already the same would not be said elsewhere either: that failed."""
    batching = Batching(1000, 1)
    batching.submit(ask(1, generated=generated))
    batching.next_step(_by_slot)
    assert batching.land([Choice(None, fault="why")]) == [kind("r1", "why")]
    assert batching.take_ended() == [1]
