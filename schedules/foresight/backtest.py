"""Methods judged on the past by the cost that matters: seconds of cold starts against bytes held and moved."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from schedules.foresight.calls import Reals
from schedules.foresight.forecast import Forecast, Forecaster
from schedules.foresight.forecasters.keep_alive import KeepAlive
from schedules.foresight.forecasters.saying import minutes_ahead
from schedules.foresight.holding import Holding, held
from schedules.foresight.past import MINUTE_S, Past
from schedules.foresight.prices import GIB, HOUR_S, Prices

ORACLE = "oracle"


@dataclass(frozen=True, eq=False)
class Judged:
    """A method by model: what came of holding what it said, and by step and model what it said of the horizon from then on.
    `cost_s` is all of it in seconds of cold starts; `p95_s` and `p99_s` are of all requests' waits for cold starts."""

    method: str
    cold_starts: Reals
    cold_start_s: Reals
    held_byte_s: Reals
    moved_bytes: Reals
    cost_s: Reals
    p95_s: float
    p99_s: float
    expected: Reals
    low: Reals
    high: Reals
    probability: Reals


@dataclass(frozen=True)
class Row:
    """A line of the table: `relative` is the cost over that of fixed keep-alive; `brier` the mean square of the probability's
    error; `coverage` the share of horizons with as many requests as the bounds said (four in five are meant)."""

    method: str
    cost_s: float
    relative: float
    cold_start_s: float
    cold_starts: int
    held_gib_hours: float
    p95_s: float
    p99_s: float
    brier: float
    coverage: float


@dataclass(frozen=True, eq=False)
class Backtest:
    """`judged` has the methods in their order; `keep_alive` and `oracle` are what they are held against. `came[k, i]`
    requests for `models[i]` came in the horizon from `at_s[k]` on."""

    models: tuple[str, ...]
    at_s: Reals
    came: Reals
    judged: tuple[Judged, ...]
    keep_alive: Judged
    oracle: Judged

    def best(self) -> str:
        """The method that is the cheapest for all models together; of equals the first."""
        return min(self.judged, key=lambda one: float(one.cost_s.sum())).method

    def best_by_model(self) -> dict[str, str]:
        """The cheapest for each; of equals the one that is cheaper for all together."""
        order = sorted(self.judged, key=lambda one: float(one.cost_s.sum()))
        cheapest = np.argmin(np.stack([one.cost_s for one in order]), axis=0)
        return {model: order[place].method for model, place in zip(self.models, cheapest.tolist(), strict=True)}

    def by(self, method: str) -> Judged:
        """KeyError if it was not judged."""
        for one in (*self.judged, self.keep_alive, self.oracle):
            if one.method == method:
                return one
        raise KeyError(method)

    def relative(self, method: str) -> Reals:
        """By model the cost over that of fixed keep-alive; 1 where both are nothing."""
        cost_s, usual_s = self.by(method).cost_s, self.keep_alive.cost_s
        none = (cost_s == 0.0) & (usual_s == 0.0)
        ratio: Reals = np.where(none, 1.0, cost_s / np.maximum(usual_s, 1e-12))
        return ratio

    def covered(self, method: str) -> Reals:
        """By model the share of horizons that had as many requests as its bounds said."""
        said = self.by(method)
        share: Reals = ((self.came >= said.low) & (self.came <= said.high)).mean(axis=0)
        return share

    def gap_closed(self, method: str) -> float:
        """Of what an oracle would spare over fixed keep-alive, the share that the method spares; may be less than 0."""
        usual_s, least_s, cost_s = (float(one.cost_s.sum()) for one in (self.keep_alive, self.oracle, self.by(method)))
        return (usual_s - cost_s) / (usual_s - least_s) if usual_s > least_s else 1.0

    def table(self) -> tuple[Row, ...]:
        """All methods, the cheapest first, the oracle last."""
        each = sorted(self.judged, key=lambda one: float(one.cost_s.sum()))
        return tuple(self._row(one) for one in (*each, self.oracle))

    def _row(self, one: Judged) -> Row:
        cost_s, usual_s = float(one.cost_s.sum()), float(self.keep_alive.cost_s.sum())
        return Row(
            one.method,
            cost_s,
            cost_s / usual_s if usual_s else 1.0,
            float(one.cold_start_s.sum()),
            round(float(one.cold_starts.sum())),
            float(one.held_byte_s.sum()) / GIB / HOUR_S,
            one.p95_s,
            one.p99_s,
            float(np.mean((one.probability - (self.came > 0)) ** 2)) if one.probability.size else 0.0,
            float(self.covered(one.method).mean()) if self.models else 1.0,
        )


@dataclass(frozen=True, eq=False)
class _Hindsight:
    """What a past that is longer says of one that ends earlier."""

    whole: Past

    @property
    def name(self) -> str:
        return ORACLE

    def forecast(self, past: Past, horizon_s: float) -> Forecast:
        minutes, now = minutes_ahead(horizon_s), past.next_minute
        come = self.whole.counts[:, now : now + minutes].astype(np.float64)
        total = come.sum(axis=1)
        by_then = np.minimum(np.cumsum(come, axis=1), 1.0)
        return Forecast(past.models, past.until_s, come, by_then, total, total, (self.name,) * len(past.models))


def backtest(
    past: Past,
    forecasters: Sequence[Forecaster],
    prices: Prices,
    since_s: float,
    until_s: float,
    every_s: float,
    horizon_s: float,
) -> Backtest:
    """Each method forecasts every `every_s` from `since_s` on, by what was known then, and what it says to hold is held until
    the next time, the last of which is a horizon before `until_s`. ValueError if the past has no such time, or the prices
    are of other models."""
    if len(prices.size_bytes) != len(past.models):
        raise ValueError(f"prices of {len(prices.size_bytes)} models are not those of {len(past.models)}")
    step, horizon = minutes_ahead(every_s), minutes_ahead(horizon_s)
    begin = max(0, -int((past.begin_s - since_s) // MINUTE_S))
    end = min(past.minutes, int((until_s - past.begin_s) // MINUTE_S))
    nows = range(begin, end - max(horizon, step) + 1, step)
    if not len(nows):
        raise ValueError(f"no horizon of {horizon} minutes lies between {since_s} and {until_s} s of what is known")
    pasts = [past.before(past.begin_s + now * MINUTE_S) for now in nows]
    came = np.stack([past.counts[:, now : now + horizon].sum(axis=1) for now in nows]).astype(np.float64)

    def judge(method: Forecaster) -> Judged:
        return _judged(past, method, prices, zip(nows, pasts, strict=True), (step, horizon))

    judged = tuple(judge(method) for method in forecasters)
    usual = next((one for one in judged if one.method == KeepAlive().name), None) or judge(KeepAlive())
    at_s = np.array([then.until_s for then in pasts])
    return Backtest(past.models, at_s, came, judged, usual, judge(_Hindsight(past)))


def _judged(
    past: Past, method: Forecaster, prices: Prices, times: Iterable[tuple[int, Past]], minutes: tuple[int, int]
) -> Judged:
    step, horizon = minutes
    holding = Holding.of(len(past.models))
    requests = 0
    said: list[tuple[Reals, ...]] = []
    for now, then in times:
        forecast = method.forecast(then, horizon * MINUTE_S)
        counts = past.counts[:, now : now + step]
        holding.step(held(forecast, holding.there, then.last_s, prices), counts, prices)
        requests += int(counts.sum())
        said.append((forecast.total, forecast.low, forecast.high, forecast.probability))
    cold_start_s = holding.cold_starts * prices.cold_start_s
    return Judged(
        method.name,
        holding.cold_starts,
        cold_start_s,
        holding.held_byte_s,
        holding.moved_bytes,
        prices.cost_s(cold_start_s, holding.held_byte_s, holding.moved_bytes),
        _percentile(prices.cold_start_s, holding.waited, requests, 0.95),
        _percentile(prices.cold_start_s, holding.waited, requests, 0.99),
        *(np.stack(column) for column in zip(*said, strict=True)),
    )


def _percentile(wait_s: Reals, waited: Reals, requests: int, share: float) -> float:
    """Of all requests' waits: so many waited so long, the others not at all."""
    order = np.argsort(wait_s)
    reached = requests - waited.sum() + np.cumsum(waited[order])
    place = np.searchsorted(reached, share * requests)
    warm = requests - waited.sum() >= share * requests
    return 0.0 if warm or place >= len(order) else float(wait_s[order[place]])
