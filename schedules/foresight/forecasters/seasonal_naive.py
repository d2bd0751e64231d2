"""Seasonal naive: what came at this time yesterday comes again."""

from dataclasses import dataclass

import numpy as np

from schedules.foresight.forecast import Forecast
from schedules.foresight.forecasters.saying import minutes_ahead, said
from schedules.foresight.past import Past

SEASONS_MIN = (1440, 60)
"""A day; an hour while there is no whole day yet."""


@dataclass(frozen=True)
class SeasonalNaive:
    """The minutes of a day ago, or of an hour ago while less than a day is known; with less than that nothing comes."""

    @property
    def name(self) -> str:
        return "seasonal-naive"

    def forecast(self, past: Past, horizon_s: float) -> Forecast:
        minutes, now = minutes_ahead(horizon_s), past.next_minute
        season = next((season for season in SEASONS_MIN if season <= min(now, past.minutes)), None)
        if season is None:
            nothing = np.zeros((len(past.models), minutes))
            return said(past, nothing, nothing, self.name)
        ago = min(now, past.minutes) - season + np.arange(minutes) % season
        expected = past.counts[:, ago].astype(np.float64)
        return said(past, expected, (expected > 0).astype(np.float64), self.name)
