"""Each formula against values worked out by hand, and what must hold of them whatever the numbers."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules.estimates import (
    Speeds,
    StageTimeline,
    arrivals_s,
    computing_s,
    copy_s,
    cost_byte_s,
    first_token_s,
    migration_s,
    speeds_of,
    step_s,
    token_s,
    whole_s,
)  # fmt: skip
from schedules.facts import Rate
from schedules.rates import BUS, DECODE, NIC, PREFILL, REACH, SSD, formed

SPEEDS = Speeds(10.0, 20.0, float("inf"), 100.0, 1000.0, 0.1, {1: 0.5, 2: 0.7})
_RATES = {
    NIC: Rate(10, 5, 9), SSD: Rate(20, 10, 9), BUS: Rate(50, 40, 9), DECODE: Rate(100, 90, 9), PREFILL: Rate(1000, 900, 9),
    REACH: Rate(0.1, 0.3, 9), formed(1): Rate(0.5, 0.9, 9), formed(2): Rate(0.7, 1.5, 9),
}  # fmt: skip
_UNITS = st.lists(st.tuples(st.floats(0.0, 50.0), st.integers(0, 1000)), min_size=1, max_size=5)
_SPEEDS = st.builds(
    Speeds,
    *[st.floats(1.0, 1e3)] * 5,
    st.floats(0.0, 1.0),
    st.dictionaries(st.integers(1, 4), st.floats(0.1, 5.0), min_size=1),
)
_STAGES = st.lists(st.builds(StageTimeline, _SPEEDS, st.floats(0.0, 5.0), _UNITS), min_size=1, max_size=3)


def test_speeds_are_all_of_the_mean_or_all_of_the_bad_end() -> None:
    assert speeds_of(_RATES, bad=False) == Speeds(10, 20, 50, 100, 1000, 0.1, {1: 0.5, 2: 0.7})
    assert speeds_of(_RATES, bad=True) == Speeds(5, 10, 40, 90, 900, 0.3, {1: 0.9, 2: 1.5})


@pytest.mark.parametrize("missing", [NIC, SSD, DECODE, PREFILL])
def test_what_was_never_measured_is_not_guessed(missing: str) -> None:
    assert speeds_of({name: rate for name, rate in _RATES.items() if name != missing}, bad=False) is None
    assert speeds_of({name: _RATES[name] for name in (NIC, SSD, DECODE, PREFILL)}, bad=False) is None


def test_without_a_bus_units_are_computed_where_they_lie() -> None:
    speeds = speeds_of({name: rate for name, rate in _RATES.items() if name not in (BUS, REACH)}, bad=True)
    assert speeds is not None
    assert (speeds.bus_bytes_per_s, speeds.reach_s) == (float("inf"), 0.0)


def test_a_degree_that_was_never_formed_is_taken_for_the_next_smaller_else_for_the_smallest() -> None:
    speeds = replace(SPEEDS, formed_s={2: 0.7, 4: 1.1})
    assert [speeds.formed(degree) for degree in (1, 2, 3, 4, 9)] == [0.7, 0.7, 0.7, 1.1, 1.1]


def test_a_step_of_few_tokens_is_bound_by_memory_and_one_of_many_by_arithmetic() -> None:
    assert step_s(200, 1, SPEEDS) == 2.0
    assert step_s(200, 10, SPEEDS) == 2.0
    assert step_s(200, 50, SPEEDS) == 10.0


def test_each_layer_waits_for_the_one_before_it_and_for_its_own_bytes() -> None:
    """Formed at 1; then 1 to 2, idle until 5, 5 to 6, and the last, there at 3 and copied until 3.5, from 6 to 7.5."""
    second = replace(SPEEDS, bus_bytes_per_s=300.0)
    stages = [StageTimeline(SPEEDS, 1.0, [(0.0, 100), (5.0, 100)]), StageTimeline(second, 0.5, [(3.0, 150)])]
    assert first_token_s(stages, 1) == 7.5
    assert computing_s(stages, 1) == 0.5 + 1.0 + 1.0 + 1.5


def test_a_group_is_formed_when_its_last_stage_is() -> None:
    stages = [StageTimeline(SPEEDS, 1.0, [(0.0, 0)]), StageTimeline(SPEEDS, 9.0, [(0.0, 0)])]
    assert first_token_s(stages, 1) == 9.0


@given(_STAGES, st.integers(1, 100), st.data())
def test_a_unit_that_comes_later_never_makes_the_token_earlier_nor_later_than_it_is_itself(
    stages: list[StageTimeline], tokens: int, data: st.DataObject
) -> None:
    index, delay_s = data.draw(st.integers(0, len(stages) - 1)), data.draw(st.floats(0.0, 20.0))
    units = list(stages[index].units)
    unit = data.draw(st.integers(0, len(units) - 1))
    units[unit] = (units[unit][0] + delay_s, units[unit][1])
    later = [*stages[:index], replace(stages[index], units=units), *stages[index + 1 :]]
    before_s, after_s = first_token_s(stages, tokens), first_token_s(later, tokens)
    assert before_s <= after_s <= before_s + delay_s + 1e-9


@given(_STAGES, st.integers(1, 100))
def test_the_token_is_after_the_last_byte_and_the_group_and_computing_bounds_what_follows(
    stages: list[StageTimeline], tokens: int
) -> None:
    token = first_token_s(stages, tokens)
    formed_s, last_s = max(s.formed_s for s in stages), max(at for s in stages for at, _ in s.units)
    assert max(formed_s, last_s) <= token <= max(formed_s, last_s) + computing_s(stages, tokens) + 1e-9


@given(_STAGES, st.integers(1, 100), st.floats(1.0, 10.0))
def test_faster_nodes_are_never_slower(stages: list[StageTimeline], tokens: int, times: float) -> None:
    def faster(s: Speeds) -> Speeds:
        return replace(
            s, bus_bytes_per_s=s.bus_bytes_per_s * times, decode_bytes_per_s=s.decode_bytes_per_s * times,
            prefill_bytes_per_s=s.prefill_bytes_per_s * times,
        )  # fmt: skip

    improved = [replace(stage, speeds=faster(stage.speeds)) for stage in stages]
    assert first_token_s(improved, tokens) <= first_token_s(stages, tokens) + 1e-9


def test_a_token_passes_each_stage_in_turn_and_goes_round() -> None:
    assert token_s([(100, SPEEDS)], 0.25) == 1.0
    assert token_s([(100, SPEEDS), (50, SPEEDS)], 0.25) == 1.0 + 0.5 + 2 * 0.25


@given(st.floats(0.0, 10.0), st.floats(0.0, 10.0), st.lists(st.integers(1, 100), min_size=1, max_size=6))
def test_units_in_a_row_arrive_in_order_and_the_last_at_the_end(
    begin_s: float, lasts_s: float, sizes: list[int]
) -> None:
    found = arrivals_s(begin_s, begin_s + lasts_s, sizes)
    assert all(begin_s <= a <= b for a, b in pairwise(found))
    assert found[-1] == pytest.approx(begin_s + lasts_s)


def test_units_arrive_as_their_bytes_do() -> None:
    assert arrivals_s(2.0, 6.0, [1, 2, 1]) == [3.0, 5.0, 6.0]
    assert arrivals_s(2.0, 6.0, [0, 0]) == [6.0, 6.0]


def test_a_stage_that_came_behind_is_whole_with_the_last_of_what_it_waits_for() -> None:
    speeds = Speeds(10.0, 20.0, 50.0, 1e3, 1e3, 0.0, {1: 0.5, 2: 4.0})
    assert whole_s(speeds, 1, 0.0, 0, 0) == 0.5
    assert whole_s(speeds, 2, 3.0, 0, 0) == 4.0
    assert whole_s(speeds, 1, 3.0, 20, 100) == 3.0
    assert whole_s(speeds, 1, 1.0, 100, 100) == 5.0
    assert whole_s(speeds, 1, 1.0, 20, 400) == 8.0
    assert copy_s(50, speeds) == 5.0


def test_a_migration_recomputes_in_rounds_until_the_gap_is_closed() -> None:
    """1000 tokens at 100 a second: 10 s, in which 100 are decoded, 1 s, 10 more, 0.1 s: 11.11 s and so on."""
    assert migration_s(5.0, 1000, 100.0, 10.0) == pytest.approx(5.0 + 100 / 9)
    rounds, left = 0.0, 1000.0
    for _ in range(60):
        rounds, left = rounds + left / 100.0, left / 100.0 * 10.0
    assert migration_s(0.0, 1000, 100.0, 10.0) == pytest.approx(rounds)
    assert migration_s(5.0, 1000, 10.0, 10.0) == float("inf")


def test_a_group_costs_its_memory_for_its_time() -> None:
    assert cost_byte_s([3, 4], 10.0) == 70.0
