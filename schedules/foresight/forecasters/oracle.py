"""What really comes: how good a forecast could be at best."""

from dataclasses import dataclass

import numpy as np

from schedules.foresight.calls import Reals
from schedules.foresight.forecast import Forecast
from schedules.foresight.forecasters.saying import minutes_ahead
from schedules.foresight.past import MINUTE_S, Past
from schedules.traces.trace import Trace


@dataclass(frozen=True, eq=False)
class Oracle:
    """Knows a `trace` that begins at `begin_s`; what a past says is not looked at but for its models and its time."""

    trace: Trace
    begin_s: float = 0.0

    @property
    def name(self) -> str:
        return "oracle"

    def forecast(self, past: Past, horizon_s: float) -> Forecast:
        minutes = minutes_ahead(horizon_s)
        place = {name: row for row, name in enumerate(past.models)}
        rows = np.array([place.get(name, -1) for name in self.trace.models], np.int64)
        begin, end = np.searchsorted(self.trace.at_s, np.array([0.0, minutes * MINUTE_S]) + past.until_s - self.begin_s)
        row = rows[self.trace.model[begin:end]] if end > begin else np.empty(0, np.int64)
        minute = ((self.trace.at_s[begin:end] + self.begin_s - past.until_s) // MINUTE_S).astype(np.int64)
        known = row >= 0
        place_of = row[known] * minutes + np.clip(minute[known], 0, minutes - 1)
        come: Reals = np.bincount(place_of, minlength=len(past.models) * minutes).astype(np.float64)
        come = come.reshape(len(past.models), minutes)
        total = come.sum(axis=1)
        by_then = np.minimum(np.cumsum(come, axis=1), 1.0)
        return Forecast(past.models, past.until_s, come, by_then, total, total, (self.name,) * len(past.models))
