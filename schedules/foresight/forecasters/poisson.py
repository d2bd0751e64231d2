"""A rate that forgets: calls come at random, as often as lately."""

from dataclasses import dataclass

import numpy as np

from schedules.foresight.calls import Places, Reals
from schedules.foresight.forecast import Forecast
from schedules.foresight.forecasters.saying import minutes_ahead, said
from schedules.foresight.past import Past


@dataclass(frozen=True)
class Poisson:
    """What came counts half as much after `half_life_min` minutes."""

    half_life_min: float = 120.0

    @property
    def name(self) -> str:
        return "poisson"

    def forecast(self, past: Past, horizon_s: float) -> Forecast:
        minutes = minutes_ahead(horizon_s)
        rate = recent_rate(past, past.calls.count, self.half_life_min)
        until = np.arange(1, minutes + 1)
        by_then = 1.0 - np.exp(-rate[:, None] * until)
        return said(past, np.repeat(rate[:, None], minutes, axis=1), by_then, self.name)


def recent_rate(past: Past, weights: Places, half_life_min: float) -> Reals:
    """Of what was in each minute with calls, per minute: a weighted mean over all minutes of the past."""
    calls = past.calls
    fade = 0.5 ** (1.0 / half_life_min)
    all_weight = (1.0 - fade**past.minutes) / (1.0 - fade)
    weighted = calls.per_model(weights * fade ** (past.minutes - 1 - calls.minute))
    rate: Reals = weighted / max(all_weight, 1.0)
    return rate
