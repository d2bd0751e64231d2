"""A forecast for the models that were asked for, by what the front end remembers alone."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from flows.errors import NothingKnown
from flows.foreseeing.minutes import Came
from flows.front_end import FrontEnd
from schedules.foresight.forecast import Forecast, Forecaster
from schedules.foresight.past import Past


@dataclass(frozen=True)
class Looked:
    """The past, what is expected by it, and what came, by model."""

    past: Past
    came: Mapping[str, Came]
    forecast: Forecast


async def look(front_end: FrontEnd, forecaster: Forecaster, history_s: float, horizon_s: float, now_s: float) -> Looked:
    """As of `now_s` (unix seconds). FrontEndAway; NothingKnown if nothing came in all that time."""
    heard = await front_end.heard(now_s - history_s, now_s)
    if not heard.past.models:
        raise NothingKnown(
            f"no request came in the last {history_s / 86_400:g} d: there is nothing to make a forecast of yet"
        )
    forecast = await asyncio.to_thread(forecaster.forecast, heard.past, horizon_s)
    return Looked(heard.past, heard.came, forecast)
