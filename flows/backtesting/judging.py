"""Methods of forecasting judged on what came, with what a cold start really took as their price."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

import numpy as np

from flows.errors import Unclear
from flows.planning.typed import parts
from flows.prewarming.steps import method_of
from schedules.facts import Model
from schedules.foresight.forecast import Forecaster
from schedules.foresight.forecasters import FORECASTERS
from schedules.foresight.past import MINUTE_S, Past
from schedules.foresight.prices import Prices

UNKNOWN_START_S = 5.0
"""What a cold start is taken to last while none was seen."""


@dataclass(frozen=True)
class Priced:
    """The prices, and a sentence on where they are from."""

    prices: Prices
    said: str


def methods_of(told: str) -> list[Forecaster]:
    """By their names with commas, or all. Unclear if there is none of a name."""
    return [method_of(name) for name in dict.fromkeys(parts(told, "methods"))] or list(FORECASTERS.values())


def window_of(past: Past, window_s: float) -> tuple[float, float]:
    """The whole minutes that end with the past, from when to when. Unclear if nothing came in them, or before."""
    until_s = past.until_s // MINUTE_S * MINUTE_S
    since_s = max(until_s - window_s, past.begin_s)
    if not past.counts.any():
        raise Unclear("nobody asked for anything in all the history that there is: there is nothing to compare")
    return since_s, until_s


def priced(past: Past, models: Sequence[Model], cold_starts: Iterable[Mapping[str, Any]]) -> Priced:
    """A model's cold start lasts as its own did in the mean; of one that had none, as all did for their sizes."""
    sizes = {model.name: model.size_bytes for model in models}
    seen: dict[str, list[float]] = {}
    for start in cold_starts:
        if start["model"] in sizes:
            seen.setdefault(start["model"], []).append(float(start["ttft_s"]))
    means = {name: mean(times) for name, times in seen.items()}
    size_bytes = np.array([float(sizes.get(name, 0)) for name in past.models])
    usual_s = mean(means.values()) if means else UNKNOWN_START_S
    start_s = np.array([means.get(name, usual_s) for name in past.models])
    starts = sum(len(times) for times in seen.values())
    said = f"A cold start is taken to last as the latest {starts} did: {usual_s:.3g} s in the mean of their models."
    if not means:
        said = f"No cold start is known: each is taken to last {usual_s:g} s."
    return Priced(Prices(start_s, size_bytes), said)
