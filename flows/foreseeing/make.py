"""A plan of prewarming for the cluster that runs: the same past, forecast and plan for flows and at the terminal."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace

from flows.errors import NothingKnown
from flows.foreseeing.gather import Gathered, Sources, gather
from flows.foreseeing.minutes import Came
from schedules.foresight.forecast import Forecast, Forecaster
from schedules.foresight.past import Past
from schedules.foresight.plan import Budgets, Plan
from schedules.foresight.planner import Ground, make_plan


@dataclass(frozen=True)
class Wish:
    """How far is looked back and ahead and by whom, what may be used, and when the next plan comes. With `models` the plan is
    for them alone."""

    forecaster: Forecaster
    budgets: Budgets
    history_s: float
    horizon_s: float
    every_s: float
    models: tuple[str, ...] = ()


@dataclass(frozen=True)
class Made:
    """The plan, and what it was made of. `came` is what the past had, by model."""

    past: Past
    came: Mapping[str, Came]
    forecast: Forecast
    ground: Ground
    plan: Plan


async def make(sources: Sources, wish: Wish, now_s: float) -> Made:
    """The plan as of `now_s` (unix seconds). What `gather` raises; NothingKnown if nothing was ever asked for."""
    gathered = await gather(sources, now_s - wish.history_s, now_s, wish.models)
    return await asyncio.to_thread(made_of, gathered, wish, now_s)


def made_of(gathered: Gathered, wish: Wish, now_s: float) -> Made:
    """The same, once all is gathered."""
    past = gathered.heard.past
    if not past.models:
        raise NothingKnown("no request came for any model that is published: there is nothing to make a forecast of")
    forecast = wish.forecaster.forecast(past, wish.horizon_s)
    ground = Ground(gathered.view, gathered.models, forecast, gathered.running)
    plan = make_plan(ground, wish.budgets, now_s, wish.every_s)
    plan = replace(plan, left_out=(*plan.left_out, *gathered.left_out))
    return Made(past, gathered.heard.came, forecast, ground, plan)
