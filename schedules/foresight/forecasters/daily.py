"""By the time of day: calls come at random, as often as at this hour of other days, and as lately."""

from dataclasses import dataclass

import numpy as np

from schedules.foresight.calls import Places, Reals
from schedules.foresight.forecast import Forecast
from schedules.foresight.forecasters.poisson import recent_rate
from schedules.foresight.forecasters.saying import by_hazard, minutes_ahead
from schedules.foresight.past import DAY_S, MINUTE_S, Past

_DAY_MIN = round(DAY_S / MINUTE_S)


@dataclass(frozen=True)
class Daily:
    """Minutes with calls per slot of the day, smoothed over neighbouring slots and drawn to what all models do and to the
    model's mean, `slot_strength` expected minutes strong; then as much more or less as the last `lately_min` minutes had."""

    slot_min: int = 30
    slot_strength: float = 3.0
    lately_min: float = 60.0
    lately_strength: float = 3.0

    @property
    def name(self) -> str:
        return "daily"

    def forecast(self, past: Past, horizon_s: float) -> Forecast:
        minutes, calls = minutes_ahead(horizon_s), past.calls
        shape = self._shape(past)
        active = calls.per_model()
        overall = (active + 0.5) / (past.minutes + _DAY_MIN / 24)
        ahead = self._slots(past, past.next_minute + np.arange(minutes))
        rate = overall[:, None] * shape[:, ahead]
        rate *= self._lately(past, overall, shape)[:, None]
        mean = (calls.per_model(calls.count) + 1.0) / (active + 1.0)
        return by_hazard(past, 1.0 - np.exp(-rate), mean, self.name)

    def _slots(self, past: Past, minute: Places) -> Places:
        begin = round(past.begin_s % DAY_S / MINUTE_S)
        return (begin + minute) % _DAY_MIN // self.slot_min

    def _shape(self, past: Past) -> Reals:
        """How much more or less than its mean a model is called, by slot of the day."""
        slots, calls, models = _DAY_MIN // self.slot_min, past.calls, len(past.models)
        seen = np.bincount(self._slots(past, np.arange(past.minutes)), minlength=slots)
        slot = self._slots(past, calls.minute)
        each = np.bincount(calls.row * slots + slot, minlength=models * slots).reshape(models, slots)
        came, long = _beside(each), _beside(seen[None, :])[0]
        flat = came.sum(axis=1) / max(long.sum(), 1.0)
        expected = flat[:, None] * long
        everyone = (came.sum(axis=0) + 10.0) / (expected.sum(axis=0) + 10.0)
        own: Reals = (came + self.slot_strength * everyone) / (expected + self.slot_strength)
        return own

    def _lately(self, past: Past, overall: Reals, shape: Reals) -> Reals:
        """How much more or less there was lately than the time of day would have it."""
        came = recent_rate(past, np.ones(len(past.calls.row), np.int64), self.lately_min)
        window = int(min(past.minutes, 4 * self.lately_min))
        if not window:
            return np.ones(len(past.models))
        fade = 0.5 ** (np.arange(window)[::-1] / self.lately_min)
        slots = self._slots(past, np.arange(past.minutes - window, past.minutes))
        weight = np.bincount(slots, fade, shape.shape[1]) / fade.sum()
        usual = overall * (shape @ weight)
        span = self.lately_min / np.log(2.0)
        lately: Reals = (came * span + self.lately_strength) / (usual * span + self.lately_strength)
        return lately


def _beside(by_slot: Places) -> Reals:
    """Smoothed over the slots before and behind, around the clock."""
    smooth: Reals = 0.5 * by_slot + 0.25 * (np.roll(by_slot, 1, axis=1) + np.roll(by_slot, -1, axis=1))
    return smooth
