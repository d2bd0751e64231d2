"""The table of a move's steps: every pair is walked, and what is not in it cannot happen."""

from itertools import product

import pytest

from schedules.moving.plan import Step
from schedules.moving.steps import TABLE, IllegalStep, draw, step


@pytest.mark.parametrize(("at", "to"), list(product(Step, Step)))
def test_a_move_comes_where_the_table_says_and_nowhere_else(at: Step, to: Step) -> None:
    if to in TABLE[at]:
        assert step(at, to) is to
    else:
        with pytest.raises(IllegalStep, match=f"a move that is {at} cannot be {to}"):
            step(at, to)


def test_every_move_can_be_given_up_until_it_is_over() -> None:
    assert {at for at, to in TABLE.items() if Step.GIVEN_UP in to} == {at for at, to in TABLE.items() if to}
    assert {at for at, to in TABLE.items() if not to} == {Step.DONE, Step.GIVEN_UP}


def test_the_drawing_has_a_line_for_each_way() -> None:
    lines = draw().splitlines()
    assert lines[0] == "stateDiagram-v2"
    assert len(lines) == 1 + 1 + sum(map(len, TABLE.values())) + 2
