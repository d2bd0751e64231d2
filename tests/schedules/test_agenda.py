"""The agenda: one order for all who look on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules.world.agenda import Agenda

TIMES = st.lists(st.tuples(st.floats(0.0, 1e-4) | st.floats(0.0, 1e5), st.booleans()), max_size=50)


@given(TIMES)
def test_what_is_told_has_a_moment_of_its_own_and_none_is_early(times: list[tuple[float, bool]]) -> None:
    agenda: Agenda[int] = Agenda(0.0)
    for index, (at_s, told) in enumerate(times):
        (agenda.tell if told else agenda.put)(at_s, index)
    moments, told_at = list[float](), list[float]()
    for _ in times:
        next_s = agenda.next_s
        now_s, index = agenda.pop()
        assert now_s == next_s
        assert times[index][0] < now_s < times[index][0] + 60e-6
        moments.append(now_s)
        if times[index][1]:
            told_at.append(now_s)
    assert moments == sorted(moments)
    assert len(set(told_at)) == len(told_at)
    assert not set(told_at) & {now_s for now_s in moments if now_s not in told_at}
    assert agenda.next_s == float("inf")


def test_of_what_nobody_hears_the_first_that_was_put_there_comes_first() -> None:
    agenda: Agenda[str] = Agenda(0.0)
    for what in "abc":
        agenda.put(1.0, what)
    agenda.tell(1.0, "d")
    assert [agenda.pop()[1] for _ in range(4)] == ["a", "b", "c", "d"]


def test_what_is_put_there_now_comes_after_now() -> None:
    agenda: Agenda[str] = Agenda(0.0)
    agenda.tell(1.0, "a")
    now_s, _ = agenda.pop()
    agenda.tell(0.5, "b")
    agenda.put(0.5, "c")
    later = [agenda.pop() for _ in range(2)]
    assert [what for _, what in later] == ["c", "b"]
    assert now_s < later[0][0] < later[1][0]


@pytest.mark.parametrize("apart_s", [0.02, 0.05, 0.5, 1.0, 3.0, 5.0, 10.0, 15.0, 60.0, 300.0, 3600.0])
def test_an_alarm_of_somebody_who_was_told_meets_nothing_else_that_is_told(apart_s: float) -> None:
    """A loop takes what is due at one time in any order: reports of every second met an alarm three seconds after one."""
    agenda: Agenda[None] = Agenda(0.0)
    for step in range(2000):
        agenda.tell(7.0 + step * 1e-6, None)
        agenda.tell(7.0 + apart_s + step * 1e-6, None)
    told = [agenda.pop()[0] for _ in range(4000)]
    assert not {round(at_s + apart_s, 9) for at_s in told} & {round(at_s, 9) for at_s in told}
