"""When to look again: every look is had once, in its order, and no wake is lost."""

from hypothesis import given
from hypothesis import strategies as st

from schedules import events
from schedules.actions import WakeAt
from schedules.brain import Brain
from schedules.limits import SILENT_S, Limits
from schedules.placing.policies import POLICIES
from schedules.wakes import Wakes
from tests.schedules.driven_brain import node_named


def _had(wakes: Wakes, now_s: float) -> None:
    for look in wakes.due(now_s):
        look(now_s)


def test_looks_are_had_in_the_order_of_their_times_and_then_of_asking() -> None:
    wakes, seen = Wakes(), list[str]()
    for at_s, name in ((2.0, "b"), (1.0, "a"), (2.0, "c"), (9.0, "later")):
        wakes.at(at_s, lambda _now_s, name=name: seen.append(name))
    _had(wakes, 2.0)
    assert seen == ["a", "b", "c"]


def test_the_next_time_is_told_once_until_it_changes() -> None:
    wakes = Wakes()
    assert wakes.news() is None
    wakes.at(5.0, lambda _now_s: None)
    assert (wakes.news(), wakes.news()) == (5.0, None)
    wakes.at(7.0, lambda _now_s: None)
    assert wakes.news() is None
    wakes.at(3.0, lambda _now_s: None)
    assert wakes.news() == 3.0
    _had(wakes, 3.0)
    assert wakes.news() == 5.0


def test_a_look_that_is_asked_for_while_one_is_had_is_had_too_if_it_is_due() -> None:
    wakes, seen = Wakes(), list[float]()
    wakes.at(1.0, lambda now_s: wakes.at(now_s, seen.append))
    _had(wakes, 1.5)
    assert seen == [1.5]


def test_a_timer_that_is_somewhat_early_is_set_again() -> None:
    """An event loop may call a timer a nanosecond before its time. Nothing was due then, the next time was told already, and
    nobody woke the brain any more."""
    brain = Brain(POLICIES["fixed"], Limits(30.0, 10, 10, consolidate=True), "g", 0.0)
    (told,) = brain.handle(events.NodeReported(node_named("a"), {}), 0.0)
    assert told == WakeAt(SILENT_S)
    assert brain.handle(events.Ticked(), SILENT_S - 1e-9) == (WakeAt(SILENT_S),)
    (again,) = brain.handle(events.Ticked(), SILENT_S)
    assert isinstance(again, WakeAt)
    assert again.at_s > SILENT_S


@given(st.lists(st.tuples(st.booleans(), st.floats(0.0, 10.0)), max_size=40))
def test_whoever_sleeps_until_the_time_that_was_told_last_is_late_for_nothing(steps: list[tuple[bool, float]]) -> None:
    wakes, asked, had, now_s = Wakes(), list[float](), list[float](), 0.0
    timer_s = float("inf")

    def tick_until(until_s: float) -> None:
        nonlocal timer_s, now_s
        while timer_s <= until_s:
            now_s, timer_s = max(now_s, timer_s), float("inf")
            for look in wakes.due(now_s):
                look(now_s)
            timer_s = news if (news := wakes.news()) is not None else timer_s
        now_s = until_s

    for asks, seconds in steps:
        if asks:
            at_s = now_s + seconds
            asked.append(at_s)
            wakes.at(at_s, lambda then_s, at_s=at_s: had.append(at_s) if then_s == at_s else None)
            timer_s = news if (news := wakes.news()) is not None else timer_s
        else:
            tick_until(now_s + seconds)
    tick_until(now_s + 20.0)
    assert sorted(asked) == had
