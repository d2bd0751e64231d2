"""By the clock: what is called each so many minutes, or at a minute of the hour or the day."""

from dataclasses import dataclass

import numpy as np

from schedules.foresight.calls import Places, Reals
from schedules.foresight.forecast import Forecast
from schedules.foresight.forecasters.poisson import recent_rate
from schedules.foresight.forecasters.saying import by_hazard, minutes_ahead
from schedules.foresight.past import MINUTE_S, Past

PERIODS_MIN = (5, 10, 15, 20, 30, 60, 120, 180, 240, 360, 720, 1440)


@dataclass(frozen=True)
class Timer:
    """A model is called by whichever period tells each minute of the past best from the other rounds of its phase (leave one
    out), if that is better than its mean rate by `least_gain` nats; a phase's chance is drawn to the rate, `strength`
    rounds strong. Models without a period have a rate that forgets."""

    periods_min: tuple[int, ...] = PERIODS_MIN
    strength: float = 1.0
    least_rounds: int = 3
    least_gain: float = 3.0
    half_life_min: float = 240.0

    @property
    def name(self) -> str:
        return "timer"

    def forecast(self, past: Past, horizon_s: float) -> Forecast:
        minutes, calls = minutes_ahead(horizon_s), past.calls
        lately = recent_rate(past, np.ones(len(calls.row), np.int64), self.half_life_min)
        hazard = np.repeat(lately[:, None], minutes, axis=1)
        ahead = round(past.begin_s / MINUTE_S) + past.next_minute + np.arange(minutes)
        most = np.full(len(past.models), self.least_gain)
        for period in self.periods_min:
            rounds = past.minutes // period
            if rounds < self.least_rounds:
                break
            came = _by_phase(past, period, rounds)
            rate = (came.sum(axis=1) + 0.5) / (rounds * period + 1.0)
            gain = _gain(came, rounds, rate, self.strength)
            better = gain > most
            chance = (came[better] + self.strength * rate[better, None]) / (rounds + self.strength)
            hazard[better] = chance[:, ahead % period]
            most = np.maximum(most, gain)
        mean = (calls.per_model(calls.count) + 1.0) / (calls.per_model() + 1.0)
        return by_hazard(past, hazard, mean, self.name)


def _by_phase(past: Past, period: int, rounds: int) -> Places:
    """In how many of the last rounds each model was called in each of its minutes, from midnight on."""
    calls, models = past.calls, len(past.models)
    whole = calls.minute >= past.minutes - rounds * period
    phase = (round(past.begin_s / MINUTE_S) + calls.minute[whole]) % period
    return np.bincount(calls.row[whole] * period + phase, minlength=models * period).reshape(models, period)


def _gain(came: Places, rounds: int, rate: Reals, strength: float) -> Reals:
    """Of log likelihood over the rate alone, each minute told by the other rounds of its phase."""
    pull, others = strength * rate[:, None], rounds - 1 + strength
    yes = np.log(np.maximum(came - 1 + pull, 1e-12) / (others * rate[:, None]))
    no = np.log(np.maximum(rounds - 1 - came + strength - pull, 1e-12) / (others * (1.0 - rate[:, None])))
    gain: Reals = (came * yes + (rounds - came) * no).sum(axis=1)
    return gain
