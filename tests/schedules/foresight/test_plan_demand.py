from collections.abc import Mapping, Sequence

import pytest

from schedules.foresight.planning.demand import GOES_EARLY, Demand, demands_of
from tests.schedules.foresight.plan_worlds import certain, forecast


def _of(said: Mapping[str, Sequence[float] | float], keep_alive_s: float = 120.0, *, up: bool = False) -> Demand:
    return demands_of(forecast(said), dict.fromkeys(said, keep_alive_s), [up] * len(said), 0.0, 120.0)["a"]


def _certain(minute: int | None, *, up: bool = False, now_s: float = 0.0) -> Demand:
    return demands_of(certain({"a": minute}), {"a": 120.0}, [up], now_s, 120.0)["a"]


def test_a_call_that_is_certain_is_a_start_and_counts_the_more_the_sooner_it_comes() -> None:
    assert [_certain(minute).starts for minute in (None, 0, 2, 14)] == [0.0, 1.0, 1.0, 1.0]
    assert [_certain(minute).soon for minute in (0, 2)] == [1.0, 0.5]
    assert _certain(3).due_s == 180.0
    assert _certain(3, now_s=60.0).due_s == 120.0


def test_a_call_that_finds_a_replica_is_no_start_unless_that_went_early() -> None:
    assert _certain(1, up=True).starts == GOES_EARLY
    assert _certain(2, up=True).starts == 1.0
    assert _certain(1, up=True).gone == 1.0


def test_calls_within_the_keep_alive_are_one_start_and_those_after_it_another() -> None:
    minutes = [0.0] * 15
    minutes[0] = minutes[1] = minutes[8] = 40.0  # as good as certain
    assert _of({"a": minutes}).starts == pytest.approx(2.0)
    assert _of({"a": minutes}, keep_alive_s=0.0).starts == pytest.approx(3.0)
    assert _of({"a": minutes}, keep_alive_s=1e9).starts == pytest.approx(1.0)


def test_those_who_come_while_it_starts_wait_as_well() -> None:
    alone, crowd = _of({"a": [1.0]}), _of({"a": [61.0]})
    assert alone.beside_per_s == 0.0
    assert crowd.beside_per_s == pytest.approx(1.0)
    assert crowd.waited_s(2.0) == pytest.approx(crowd.starts * 2.0 * 3.0)


def test_models_that_nobody_wants_to_plan_for_are_passed_over() -> None:
    assert demands_of(certain({"a": 1}), {}, [False], 0.0, 120.0) == {}
    assert list(demands_of(certain({"a": 1, "b": 2}), {"b": 120.0}, [False, False], 0.0, 120.0)) == ["b"]
