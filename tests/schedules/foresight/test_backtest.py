"""Methods judged by the cost that matters, against what one counts by hand."""

from dataclasses import dataclass

import numpy as np
import pytest

from schedules.foresight.backtest import Backtest, backtest
from schedules.foresight.forecast import Forecast
from schedules.foresight.forecasters import FORECASTERS
from schedules.foresight.forecasters.keep_alive import KeepAlive
from schedules.foresight.forecasters.saying import minutes_ahead, said
from schedules.foresight.past import MINUTE_S, Past
from schedules.foresight.prices import GIB, HOUR_S, Prices, same_prices
from tests.schedules.foresight.pasts import bursty, past, past_of_trace


@dataclass(frozen=True)
class _Says:
    """The same of all models at all times."""

    probability: float
    name: str = "says"

    def forecast(self, known: Past, horizon_s: float) -> Forecast:
        all_alike = np.full((len(known.models), minutes_ahead(horizon_s)), self.probability)
        return said(known, all_alike, all_alike, self.name)


_KNOWN = past({"a": [32.5, 33.5, 47.5, 47.6], "b": []}, 60)
_PRICES = same_prices(2, cold_start_s=10.0, size_bytes=2 * GIB, held_s_per_gib_hour=1.0, moved_s_per_gib=0.1)


def _judged(method: _Says | KeepAlive) -> Backtest:
    return backtest(_KNOWN, [method], _PRICES, 30 * MINUTE_S, 60 * MINUTE_S, 300.0, 300.0)


def test_who_holds_nothing_has_a_cold_start_a_step_with_calls_and_is_there_until_it_is_over() -> None:
    one = _judged(_Says(0.0)).by("says")
    assert one.cold_starts.tolist() == [2.0, 0.0]
    assert one.cold_start_s.tolist() == [20.0, 0.0]
    assert one.held_byte_s.tolist() == [(3 + 3) * MINUTE_S * 2 * GIB, 0.0]
    assert one.moved_bytes.tolist() == [2 * 2 * GIB, 0.0]
    assert one.cost_s[0] == pytest.approx(20.0 + 6 * MINUTE_S * 2 / HOUR_S + 0.4)
    assert (one.p95_s, one.p99_s) == (10.0, 10.0)


def test_who_holds_all_moves_each_once_and_has_no_cold_starts() -> None:
    one = _judged(_Says(1.0)).by("says")
    assert one.cold_starts.tolist() == [0.0, 0.0]
    assert one.held_byte_s.tolist() == [1800.0 * 2 * GIB] * 2
    assert one.moved_bytes.tolist() == [2 * GIB] * 2
    assert one.p99_s == 0.0


def test_nothing_is_held_whose_cold_start_is_worth_less_than_its_room_and_its_way() -> None:
    """A minute of 2 GiB is worth 2/60 s, its way 0.2 s: 0.233 s over 10 s is the price of a probability."""
    assert _judged(_Says(0.0232)).by("says").moved_bytes[1] == 0.0
    assert _judged(_Says(0.0234)).by("says").moved_bytes[1] == 2 * GIB


def test_the_oracle_is_there_before_the_call_and_pays_only_then() -> None:
    tested = _judged(_Says(0.0))
    assert tested.oracle.cold_starts.sum() == 0.0
    assert tested.oracle.held_byte_s.tolist() == [600.0 * 2 * GIB, 0.0]
    assert tested.gap_closed("oracle") == 1.0
    assert tested.gap_closed("keep-alive") == 0.0
    with pytest.raises(KeyError):
        tested.by("nobody")


def test_what_was_said_stands_beside_what_came() -> None:
    tested = _judged(_Says(0.0))
    assert tested.at_s.tolist() == [(30 + 5 * k) * MINUTE_S for k in range(6)]
    assert tested.came[:, 0].tolist() == [2.0, 0.0, 0.0, 2.0, 0.0, 0.0]
    assert tested.covered("says").tolist() == [4 / 6, 1.0]
    row = tested.table()[0]
    assert (row.method, row.brier, row.coverage) == ("says", pytest.approx(2 / 12), pytest.approx(5 / 6))
    assert tested.relative("says")[1] == 1.0
    assert tested.relative("says")[0] == pytest.approx(tested.by("says").cost_s[0] / tested.by("keep-alive").cost_s[0])


def test_room_is_for_what_spares_the_most_a_byte_then_for_what_was_called_last() -> None:
    known = past({"old": [1.0, 20.5], "large": [5.0, 20.5], "new": [19.0]}, 40)
    prices = Prices(np.array([10.0, 10.0, 10.0]), np.array([1.0, 4.0, 1.0]) * GIB, room_bytes=2 * GIB)
    tested = backtest(
        known, [_Says(0.5, "half"), _Says(0.0, "none")], prices, 20 * MINUTE_S, 40 * MINUTE_S, 300.0, 300.0
    )
    assert tested.by("half").cold_starts.tolist() == [0.0, 1.0, 0.0]
    assert tested.by("half").held_byte_s.tolist() == [1200.0 * GIB, 4 * 300.0 * GIB, 1200.0 * GIB]
    assert tested.by("none").held_byte_s[2] == 0.0
    assert tested.by("none").cold_starts.tolist() == [1.0, 1.0, 0.0]
    assert tested.by("none").held_byte_s[0] == 1200.0 * GIB


def test_the_best_of_all_and_of_each_model() -> None:
    """Half of them are called each half hour, which keep-alive misses each time; the others as long as they are called."""
    timers = {f"timer-{i}": [30.0 * k + i for k in range(100)] for i in range(4)}
    runs = {f"run-{i}": [60.0 * 30 + i + 3.0 * k for k in range(350)] for i in range(4)}
    known = past({**timers, **runs}, 2900)
    methods = [FORECASTERS["keep-alive"], FORECASTERS["timer"]]
    tested = backtest(known, methods, same_prices(8, 30.0, 8 * GIB), 2000 * MINUTE_S, 2900 * MINUTE_S, 300.0, 900.0)
    assert tested.best() == "timer"
    best = tested.best_by_model()
    assert [best[f"timer-{i}"] for i in range(4)] == ["timer"] * 4
    assert [row.method for row in tested.table()] == ["timer", "keep-alive", "oracle"]
    assert tested.table()[0].relative < 1.0


def test_ours_is_cheaper_than_every_baseline_where_calls_come_in_all_ways() -> None:
    bursts = past_of_trace(bursty(4.0, 30, 0.05, 36.0, 3), 36.0 * 3600.0)
    timers = past({f"timer-{i}": [20.0 * (1 + i % 4) * k + i for k in range(110)] for i in range(15)}, 36.0 * 60.0)
    known = Past(
        (*bursts.models, *timers.models), np.concatenate([bursts.counts, timers.counts]), 0.0, bursts.until_s,
        np.concatenate([bursts.last_s, timers.last_s]),
    )  # fmt: skip
    names = ("chosen", "keep-alive", "hybrid-histogram", "warmserve", "seasonal-naive", "tsb", "poisson")
    prices = same_prices(45, 10.0, 16 * GIB)
    tested = backtest(known, [FORECASTERS[name] for name in names], prices, 30 * 3600.0, 36 * 3600.0, 600.0, 900.0)
    assert tested.best() == "chosen"
    assert tested.gap_closed("chosen") > 0.2


def test_what_cannot_be_judged_is_refused() -> None:
    with pytest.raises(ValueError, match="no horizon of 15 minutes"):
        backtest(_KNOWN, [KeepAlive()], _PRICES, 50 * MINUTE_S, 60 * MINUTE_S, 300.0, 900.0)
    with pytest.raises(ValueError, match="prices of 1 models are not those of 2"):
        backtest(_KNOWN, [KeepAlive()], same_prices(1, 1.0, 1.0), 0.0, 60 * MINUTE_S, 300.0, 900.0)
    with pytest.raises(ValueError, match="not negative"):
        same_prices(2, 10.0, GIB, held_s_per_gib_hour=-1.0)
    with pytest.raises(ValueError, match="not of the same models"):
        Prices(np.ones(2), np.ones(3))
