"""The hybrid histogram of "Serverless in the Wild" (Shahrad et al., ATC 2020): when to load, and for how long to keep."""

from dataclasses import dataclass

import numpy as np

from schedules.foresight.calls import Places, Reals
from schedules.foresight.forecast import Forecast
from schedules.foresight.forecasters.saying import minutes_ahead, said
from schedules.foresight.past import MINUTE_S, Past


@dataclass(frozen=True)
class HybridHistogram:
    """Idle times of a model in bins of a minute, up to `range_min`. It is there from the `head` percentile after its last
    call, less the `margin`, to the `tail` percentile, and the margin more. A histogram whose bins' coefficient of variation
    is less than `least_cv` says nothing yet: then from the call on for the whole range. If more idle times than
    `most_out` are longer than the range, the paper asks an ARIMA model for the next; here it is the median of the idle
    times, `rare_margin` less and more, as the paper does around ARIMA's.

    Requests of one minute have idle times in the first bin; of two minutes with calls, so many minutes as lie between.
    """

    range_min: int = 240
    head: float = 0.05
    tail: float = 0.99
    margin: float = 0.1
    least_cv: float = 2.0
    most_out: float = 0.5
    rare_margin: float = 0.15

    @property
    def name(self) -> str:
        return "hybrid-histogram"

    def forecast(self, past: Past, horizon_s: float) -> Forecast:
        minutes = minutes_ahead(horizon_s)
        opens, closes = self._windows(past)
        calls = past.calls
        called = calls.latest >= 0
        age = np.where(called, (past.until_s - np.where(called, past.last_s, past.until_s)) / MINUTE_S, 0.0)
        begin = age[:, None] + np.arange(minutes)
        inside = (begin < closes[:, None]) & (begin + 1.0 > opens[:, None]) & called[:, None]
        mean = calls.per_model(calls.count) / np.maximum(calls.per_model(), 1.0)
        alone = inside / np.maximum(closes - opens, 1.0)[:, None]
        return said(past, alone * mean[:, None], inside.astype(np.float64), self.name, alone)

    def _windows(self, past: Past) -> tuple[Reals, Reals]:
        """Minutes after the last call between which a model is to be there."""
        calls, models, bins = past.calls, len(past.models), self.range_min
        row, gap = calls.gaps
        within = gap < bins
        histogram = np.bincount(row[within] * bins + gap[within], minlength=models * bins).reshape(models, bins)
        histogram[:, 0] += (calls.per_model(calls.count) - calls.per_model()).astype(np.int64)
        out = np.bincount(row[~within], minlength=models)
        inside = histogram.sum(axis=1)
        opens = np.floor(_percentile(histogram, self.head) * (1.0 - self.margin))
        closes = np.ceil((_percentile(histogram, self.tail) + 1.0) * (1.0 + self.margin))
        cv = histogram.std(axis=1) / np.maximum(histogram.mean(axis=1), 1e-12)
        unsaid = (inside == 0) | (cv < self.least_cv)
        opens, closes = np.where(unsaid, 0.0, opens), np.where(unsaid, float(bins), closes)
        rare = out > self.most_out * (inside + out)
        middle = _medians(row, gap, models)
        return (
            np.where(rare, middle * (1.0 - self.rare_margin), opens),
            np.where(rare, middle * (1.0 + self.rare_margin) + 1.0, closes),
        )


def _percentile(histogram: Places, share: float) -> Reals:
    """The bin in which so much of all has been reached."""
    reached = np.cumsum(histogram, axis=1)
    bins: Reals = (reached < share * reached[:, -1:]).sum(axis=1).astype(np.float64)
    return bins


def _medians(row: Places, gap: Places, models: int) -> Reals:
    order = np.lexsort((gap, row))
    begins = np.searchsorted(row[order], np.arange(models + 1))
    middle = (begins[:-1] + begins[1:]) // 2
    some = begins[1:] > begins[:-1]
    found = np.zeros(models)
    found[some] = gap[order][middle[some]]
    return found
