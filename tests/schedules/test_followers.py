"""Groups of the world that take in what others generate, and requests that are given up."""

from dataclasses import replace
from itertools import pairwise

import pytest

from schedules.events import RequestBroke, RequestRefused
from schedules.world.groups import Ask
from schedules.world.habits import Misfortune
from schedules.world.happenings import CaughtUp, Yielded
from tests.schedules.seen import Seen
from tests.schedules.worlds import MB, world_model, world_node

MODEL = replace(world_model("m"), kv_bytes_per_token=100_000)
SLOW = world_node("b", prefill=2e11)
"""A prompt of 300 tokens takes a tenth of a second there."""
STEP_S, PREFILL_S, COPY_S = 60 * MB / 1e10, 60 * MB * 300 / 2e11, 300 * 100_000 / (100 * MB)
NOW_S = 2.0


def two_groups() -> Seen:
    """g and h, of which g runs r, which has 300 tokens of prompt, and h runs another."""
    seen = Seen(world_node("a"), SLOW, models=(MODEL,))
    seen.form(world_node("a"), model=MODEL, name="g")
    seen.form(SLOW, model=MODEL, name="h")
    seen.until(1.0)
    seen.ask("r", 1.0, prompt=301, tokens=400, name="g")
    seen.ask("other", 1.0, tokens=400, name="h")
    seen.until(NOW_S)
    return seen


def follow(seen: Seen, copy_of: str = "", prompt: int = 301, group: str = "h") -> None:
    seen.world.follow(group, Ask("f", prompt, 200, 200), copy_of, NOW_S)


def longest_wait_s(seen: Seen) -> float:
    """Of the request that runs where another is followed."""
    return max(after - before for before, after in pairwise(seen.tokens("other")))


def test_what_is_computed_takes_the_time_of_its_tokens_from_who_runs_there() -> None:
    seen = two_groups()
    follow(seen)
    seen.until(4.0)
    ((at_s, caught),) = seen.of(CaughtUp)
    assert caught == CaughtUp("f", "h", 301, 0, 0)
    assert at_s - NOW_S == pytest.approx(PREFILL_S, abs=2 * STEP_S)
    assert longest_wait_s(seen) == pytest.approx(PREFILL_S, abs=STEP_S)


def test_what_is_copied_takes_wires_and_no_steps() -> None:
    seen = two_groups()
    follow(seen, copy_of="r")
    seen.until(4.0)
    ((at_s, caught),) = seen.of(CaughtUp)
    assert caught == CaughtUp("f", "h", 301, 300, 300 * 100_000)
    assert at_s - NOW_S == pytest.approx(COPY_S, abs=0.001)
    assert longest_wait_s(seen) == pytest.approx(STEP_S, abs=0.001)


@pytest.mark.parametrize("what", [Misfortune.NODE_SILENT, Misfortune.NODE_LOST])
def test_a_copy_from_a_node_that_does_not_answer_is_computed_instead(what: Misfortune) -> None:
    seen = two_groups()
    follow(seen, copy_of="r")
    seen.until(NOW_S + COPY_S / 2)
    seen.world.befall(what, "a", NOW_S + COPY_S / 2)
    seen.until(4.0)
    ((at_s, caught),) = seen.of(CaughtUp)
    assert caught == CaughtUp("f", "h", 301, 0, 0)
    assert at_s - NOW_S == pytest.approx(COPY_S / 2 + PREFILL_S, abs=2 * STEP_S)


def test_of_a_request_that_waits_for_its_room_there_is_nothing_to_copy() -> None:
    seen = two_groups()
    seen.ask("waits", NOW_S, prompt=301, tokens=400, name="g")
    follow(seen, copy_of="waits")
    seen.until(4.0)
    ((_, caught),) = seen.of(CaughtUp)
    assert (caught.copied_tokens, caught.copied_bytes) == (0, 0)


def test_who_follows_is_caught_up_when_it_has_all_that_it_was_told_of() -> None:
    seen = two_groups()
    follow(seen, prompt=1)
    seen.world.more("f", 5, NOW_S)
    seen.until(3.0)
    seen.world.more("f", 7, 3.0)
    seen.until(4.0)
    assert [caught.tokens for _, caught in seen.of(CaughtUp)] == [6, 13]
    seen.world.go_on("f", 3, 4.0)
    seen.until(4.0 + 4.5 * STEP_S)
    assert len(seen.tokens("f")) in (3, 4)
    seen.world.more("f", 1, 4.1)
    seen.world.go_on("nobody", 1, 4.1)
    seen.until(8.0)
    assert len(seen.tokens("f")) == 200 - 5 - 7 - 3


def test_who_cannot_follow_is_told_so() -> None:
    seen = two_groups()
    follow(seen, prompt=900)
    follow(seen, group="nowhere")
    seen.until(3.0)
    ((_, refused),), ((_, broke),) = seen.of(RequestRefused), seen.of(RequestBroke)
    assert refused == RequestRefused("f", "h", "it has no room for 1100 tokens now")
    assert (broke.request, broke.group) == ("f", "nowhere")


def test_what_is_given_up_ends_with_its_step_and_makes_room() -> None:
    """Who waited for the room has its first token a step later, and what waits is given up at once."""
    seen = two_groups()
    for name in ("next", "waits"):
        seen.ask(name, NOW_S, prompt=301, tokens=700, name="g")
    seen.until(2.05)
    seen.world.yield_up("r", 2.05)
    seen.world.yield_up("waits", 2.05)
    seen.world.yield_up("nobody", 2.05)
    seen.until(2.2)
    assert [yielded.request for _, yielded in seen.of(Yielded)] == ["waits", "r"]
    assert 2.05 < seen.tokens("r")[-1] < seen.of(Yielded)[1][0] < 2.05 + STEP_S + 0.001
    assert seen.tokens("next")[0] == pytest.approx(2.05 + STEP_S, abs=0.03)
    assert not seen.tokens("waits")
