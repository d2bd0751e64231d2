"""How many cold starts a forecast means, how soon they come, and how many requests wait with each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from schedules.foresight.forecast import Expected, Forecast
from schedules.foresight.past import MINUTE_S

GOES_EARLY = 0.25
"""So often an idle replica is taken to have gone before its time, to make room for others."""


@dataclass(frozen=True)
class Demand:
    """What is expected of a model in the horizon if nothing is done for it: so many cold `starts`; `soon` are the same, each
    weighed by how soon it comes, and `gone` and `gone_soon` what both are if no replica of it is up now. Beside the first
    request of a start `beside_per_s` others come while it lasts. With `probability` it is called at all; if it is, the first
    call has come by the end of the minute that begins `due_s` from now as likely as not."""

    starts: float
    soon: float
    gone: float
    gone_soon: float
    beside_per_s: float
    probability: float
    due_s: float

    def waited_s(self, seconds: float, starts: float | None = None) -> float:
        """What all who wait for its starts wait longer if each takes so much longer."""
        return (self.starts if starts is None else starts) * seconds * (1.0 + self.beside_per_s * seconds)


NONE = Demand(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def demands_of(
    forecast: Forecast, keep_alive_s: Mapping[str, float], running: Sequence[bool], now_s: float, soon_s: float
) -> dict[str, Demand]:
    """By name of the forecast's models that `keep_alive_s` has; `running` says of each model of the forecast whether it has
    replicas. A start that comes `soon_s` from now weighs half of one that comes at once: what is kept for it is kept so long.

    A model whose replica is gone starts with its first call, and again with one that comes when none has come for its
    keep-alive. Sums of probabilities stand there for that of any: which is exact where they are few, or certain.
    """
    known = np.array([name in keep_alive_s for name in forecast.models], bool)
    if not known.any():
        return {}
    expected, some, by_then = forecast.expected[known], forecast.busy[known], np.minimum(forecast.by_then[known], 1.0)
    names = [name for name, has in zip(forecast.models, known.tolist(), strict=True) if has]
    up = np.array(running, bool)[known]
    minutes = np.arange(expected.shape[1])
    begin_s = np.maximum(0.0, forecast.at_s - now_s + minutes * MINUTE_S)
    weight = soon_s / (soon_s + begin_s)
    keeps = np.array([keep_alive_s[name] for name in names])
    gone = _starts(some, by_then, np.ceil(keeps / MINUTE_S))
    kept = up[:, None] & (minutes[None, :] * MINUTE_S < keeps[:, None])
    starts = np.where(kept, GOES_EARLY * gone, gone)
    crowd = np.maximum(0.0, expected - some) / np.maximum(some, 1e-9) / MINUTE_S
    total = starts.sum(axis=1)
    beside = np.where(total > 0.0, (starts * crowd).sum(axis=1) / np.maximum(total, 1e-12), 0.0)
    probability = by_then[:, -1]
    due = np.argmax(by_then >= 0.5 * probability[:, None], axis=1)
    columns = [
        total,
        (starts * weight).sum(axis=1),
        gone.sum(axis=1),
        (gone * weight).sum(axis=1),
        beside,
        probability,
        begin_s[due],
    ]
    rows = zip(*[column.tolist() for column in columns], strict=True)
    return {name: Demand(*row) for name, row in zip(names, rows, strict=True)}


def _starts(busy: Expected, by_then: Expected, keeps_minutes: Expected) -> Expected:
    """Cold starts by model and minute of models that have no replica at first."""
    models, minutes = busy.shape
    first = np.diff(by_then, axis=1, prepend=0.0).clip(min=0.0)
    so_far = np.concatenate([np.zeros((models, 1)), np.cumsum(busy, axis=1)], axis=1)
    now = np.arange(minutes)
    since = np.maximum(0.0, now[None, :] - keeps_minutes[:, None]).astype(np.int64)
    lately = so_far[:, :minutes] - np.take_along_axis(so_far, since, axis=1)
    again = (busy - first).clip(min=0.0) * (1.0 - lately).clip(min=0.0)
    found: Expected = np.minimum(first + again, 1.0)
    return found
