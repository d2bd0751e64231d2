"""A forecaster who is told what no other can know: each model's rate, and the CV of its gamma gaps."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from benchmarks.forecasts_pasts import MODELS, RATE_PER_S
from schedules.foresight.calls import Reals
from schedules.foresight.forecast import Forecast
from schedules.foresight.forecasters.saying import minutes_ahead, said
from schedules.foresight.past import MINUTE_S, Past
from schedules.traces.lineup import popularity

_DRAWN = 4_000_000


@dataclass(frozen=True, eq=False)
class Told:
    """The waits that are possible, in means, are so many `drawn` ones in order."""

    mean_s: Reals
    drawn: Reals

    @classmethod
    def of(cls, cv: float) -> Self:
        """Of the bursts of `forecasts_pasts`."""
        drawn = np.sort(np.random.default_rng(1).gamma(cv**-2, cv**2, _DRAWN))
        return cls(1.0 / (RATE_PER_S * popularity(MODELS, 1.0)), drawn)

    @property
    def name(self) -> str:
        return "told"

    def forecast(self, past: Past, horizon_s: float) -> Forecast:
        minutes = minutes_ahead(horizon_s)
        last_s = np.where(np.isfinite(past.last_s), past.last_s, past.begin_s)
        wait_s = (past.until_s - last_s)[:, None] + np.arange(minutes + 1) * MINUTE_S
        longer = (_DRAWN - np.searchsorted(self.drawn, wait_s / self.mean_s[:, None])).astype(np.float64)
        by_then = 1.0 - longer[:, 1:] / np.maximum(longer[:, :1], 1.0)
        rate = np.repeat(MINUTE_S / self.mean_s[:, None], minutes, axis=1)
        return said(past, rate, by_then, self.name)
