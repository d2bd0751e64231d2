"""WarmServe's rule (arXiv 2512.09472): the same window of the days before, and how far off that was lately."""

from dataclasses import dataclass

import numpy as np

from schedules.foresight.calls import Places, Reals
from schedules.foresight.forecast import Forecast
from schedules.foresight.forecasters.saying import minutes_ahead, said
from schedules.foresight.past import DAY_S, MINUTE_S, Past


@dataclass(frozen=True)
class WarmServe:
    """Requests of a window are the mean of that window of all days before, plus the mean of what the last `residuals` windows
    had more than that, each weighted half as much as the one after it. Windows lie on the clock; the one that is not over
    is not looked at. Its replicas' scores are for whoever plans; of the probability it says nothing, so requests are taken
    to come at random (Poisson)."""

    window_min: int = 5
    residuals: int = 10

    @property
    def name(self) -> str:
        return "warmserve"

    def forecast(self, past: Past, horizon_s: float) -> Forecast:
        minutes = minutes_ahead(horizon_s)
        window_s = self.window_min * MINUTE_S
        offset = int(-past.begin_s % window_s // MINUTE_S)
        windows = max(0, (int((past.until_s - past.begin_s) // MINUTE_S) - offset) // self.window_min)
        each = past.counts[:, offset : offset + windows * self.window_min]
        known = each.reshape(len(past.models), windows, self.window_min).sum(axis=2, dtype=np.float64)
        ahead = (past.next_minute + np.arange(minutes) - offset) // self.window_min
        per_day = round(DAY_S / window_s)
        expected = self._windows(known, per_day, ahead) / self.window_min
        return said(past, expected, 1.0 - np.exp(-np.cumsum(expected, axis=1)), self.name)

    def _windows(self, known: Reals, per_day: int, ahead: Places) -> Reals:
        last = np.arange(known.shape[1] - 1, max(-1, known.shape[1] - 1 - self.residuals), -1)
        correction = np.zeros(known.shape[0])
        if len(last):
            weights = 0.5 ** np.arange(1, len(last) + 1)
            off = np.stack([known[:, window] - _of_days_before(known, per_day, window) for window in last], axis=1)
            correction = off @ weights / weights.sum()
        coming = {window: _of_days_before(known, per_day, window) for window in np.unique(ahead).tolist()}
        return np.stack([np.maximum(coming[window] + correction, 0.0) for window in ahead.tolist()], axis=1)


def _of_days_before(known: Reals, per_day: int, window: int) -> Reals:
    """Their mean in that window of the day; 0 if no day before is known."""
    days = [before for before in range(window - per_day, -1, -per_day) if before < known.shape[1]]
    mean: Reals = known[:, days].mean(axis=1) if days else np.zeros(known.shape[0])
    return mean
