"""A forecast for the models that were asked for, by what the front end remembers alone."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from flows.errors import NothingKnown
from flows.foreseeing.minutes import Came, Heard
from flows.front_end import FrontEnd
from schedules.foresight.calls import Reals
from schedules.foresight.forecast import Forecast, Forecaster
from schedules.foresight.forecasters.chosen import Chosen
from schedules.foresight.past import Past


@dataclass(frozen=True)
class Looked:
    """The past, what is expected by it, and what came, by model. `costs` has what each method would have cost for each model
    in the hours before, where one was chosen among several: the less the better."""

    past: Past
    came: Mapping[str, Came]
    forecast: Forecast
    costs: Mapping[str, Reals]


async def look(front_end: FrontEnd, forecaster: Forecaster, history_s: float, horizon_s: float, now_s: float) -> Looked:
    """As of `now_s` (unix seconds). FrontEndAway; NothingKnown if nothing came in all that time."""
    heard = await front_end.heard(now_s - history_s, now_s)
    if not heard.past.models:
        raise NothingKnown(
            f"no request came in the last {history_s / 86_400:g} d: there is nothing to make a forecast of yet"
        )
    return await asyncio.to_thread(_looked, heard, forecaster, horizon_s)


def _looked(heard: Heard, forecaster: Forecaster, horizon_s: float) -> Looked:
    forecast = forecaster.forecast(heard.past, horizon_s)
    costs = forecaster.costs(heard.past, horizon_s) if isinstance(forecaster, Chosen) else {}
    return Looked(heard.past, heard.came, forecast, costs)
