"""Fixed keep-alive: what was called a moment ago is called again."""

from dataclasses import dataclass

import numpy as np

from schedules.foresight.forecast import Forecast
from schedules.foresight.forecasters.saying import minutes_ahead, said
from schedules.foresight.past import MINUTE_S, Past


@dataclass(frozen=True)
class KeepAlive:
    """Called for certain if it was within the last `within_s`, else not at all. Ten minutes are usual for functions."""

    within_s: float = 600.0

    @property
    def name(self) -> str:
        return "keep-alive"

    def forecast(self, past: Past, horizon_s: float) -> Forecast:
        minutes = minutes_ahead(horizon_s)
        kept = past.until_s - past.last_s <= self.within_s
        seen = past.counts[:, max(0, past.minutes - max(1, round(self.within_s / MINUTE_S))) :].sum(axis=1)
        rate = np.where(kept, np.maximum(seen * MINUTE_S / self.within_s, 1.0 / minutes), 0.0)
        by_then = np.repeat(kept[:, None].astype(np.float64), minutes, axis=1)
        return said(past, np.repeat(rate[:, None], minutes, axis=1), by_then, self.name)
