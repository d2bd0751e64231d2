"""The steps of the flows that look ahead, each a task: what to go by, what came, what will, what to do, and who is told."""

import asyncio
import time
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from prefect import get_client, get_run_logger, runtime, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.sorting import FlowRunSort
from prefect.variables import Variable

from cluster.client import ClusterClient
from flows.context import FlowContext
from flows.errors import FlowError, NothingKnown, Unclear
from flows.foreseeing.gather import Gathered, Sources, gather
from flows.foreseeing.make import Made, Wish, made_of
from flows.foreseeing.methods import METHODS
from flows.passing import unseen
from flows.prewarming.chosen import BUDGETS, HORIZON, Chosen, chosen
from flows.prewarming.foresight import Foresight
from flows.prewarming.hits import Hits, hits_of
from schedules.foresight.forecast import Forecast, Forecaster
from schedules.foresight.past import MINUTE_S, Past
from schedules.foresight.plan import Plan

_ASKS: dict[str, Any] = {"retries": 2, "retry_delay_seconds": [1, 5], "timeout_seconds": 120, "cache_policy": NO_CACHE}
COLD_STARTS = 256
"""As many as the front end keeps at hand."""


@task(retries=2, retry_delay_seconds=[1, 5], timeout_seconds=60, cache_policy=NO_CACHE)
async def read_variables() -> dict[str, object]:
    """Prefect's variables that a run goes by, those that there are."""
    found = {name: await Variable.aget(name) for name in (BUDGETS, HORIZON)}
    return {name: value for name, value in found.items() if value is not None}


async def choose(foresight: Foresight, horizon: str) -> Chosen:
    """Which budgets and horizon this run goes by, which is said in its log. Unclear if one of them cannot be meant."""
    found = chosen(foresight, horizon, await read_variables())
    for line in found.said:
        get_run_logger().info(line)
    return found


def method_of(name: str) -> Forecaster:
    """Unclear if there is none of that name."""
    if name not in METHODS:
        raise Unclear(f"forecaster: there is no method {name[:60]!r}: there are {', '.join(sorted(METHODS))}")
    return METHODS[name]


@task(**_ASKS)
async def gather_facts(context: FlowContext, client: ClusterClient, wish: Wish, now_s: float) -> Gathered:
    """What came until now, what nodes hold, which models there are. FrontEndAway, ClusterError or StorageError if somebody
    does not say."""
    foresight = context.foresight
    sources = Sources(context.front_end(), client, context.store(), foresight.objectives_of)
    return await gather(sources, now_s - wish.history_s, now_s, wish.models)


@task(timeout_seconds=1800, cache_policy=NO_CACHE)
async def forecast_and_plan(gathered: Gathered, wish: Wish, now_s: float) -> Made:
    """Who will be called in the horizon, and what is to be where before that."""
    return await asyncio.to_thread(made_of, gathered, wish, now_s)


def wish_of(foresight: Foresight, chosen: Chosen, every_s: float) -> Wish:
    """Unclear if there is no such method."""
    method = method_of(foresight.forecaster)
    return Wish(method, chosen.budgets, foresight.history_s, chosen.horizon_s, every_s)


async def foresee(context: FlowContext, client: ClusterClient, wish: Wish) -> Made:
    """A plan of now. What the two steps raise; NothingKnown if nobody was ever called."""
    now_s = time.time()
    gathered = await gather_facts(context, client, wish, now_s)
    if not gathered.heard.past.models:
        raise NothingKnown("no request came for any model that is published")
    return await forecast_and_plan(unseen(gathered), wish, now_s)


@task(**_ASKS)
async def find_hits(context: FlowContext, since_s: float) -> list[Hits]:
    """Where cold starts since then found their units."""
    return hits_of(await context.front_end().cold_starts(COLD_STARTS), since_s)


@task(retries=2, retry_delay_seconds=[1, 5], timeout_seconds=60, cache_policy=NO_CACHE)
async def tell_front_end(context: FlowContext, plan: Plan) -> None:
    """Have the plan's replicas be there. FrontEndAway or Refused with the sentence if they will not be."""
    await context.front_end().planned(plan)


async def told(context: FlowContext, plan: Plan) -> list[str]:
    """Tell the front end; that it is not told keeps nothing from being staged, and is a sentence."""
    try:
        await tell_front_end(context, unseen(plan))
    except FlowError as error:
        get_run_logger().warning("the front end does not know of the plan: %s", error)
        return [f"The front end does not know of the plan, and keeps no replicas up for it: {error}"]
    return []


@dataclass(frozen=True)
class Turns:
    """When the run before this one began, and how long until the next is due; in unix seconds, and seconds."""

    since_s: float
    every_s: float


@task(retries=2, retry_delay_seconds=[1, 5], timeout_seconds=60, cache_policy=NO_CACHE)
async def find_turns(foresight: Foresight, horizon_s: float) -> Turns:
    """By what Prefect knows of this deployment's runs: its schedule is whatever a person made of it."""
    now_s, deployment = time.time(), runtime.deployment.id
    usual_s = foresight.every_s or horizon_s
    if deployment is None:
        return Turns(now_s - usual_s, usual_s)
    async with get_client() as client:
        before = await client.read_flow_runs(
            flow_run_filter=_runs(deployment, "COMPLETED"), sort=FlowRunSort.START_TIME_DESC, limit=1
        )
        after = await client.read_flow_runs(
            flow_run_filter=_runs(deployment, "SCHEDULED"), sort=FlowRunSort.EXPECTED_START_TIME_ASC, limit=20
        )
    since_s = next((_unix_s(run.start_time) for run in before if run.start_time), now_s - usual_s)
    due_s = (_unix_s(run.expected_start_time) for run in after if run.expected_start_time)
    until_s = next((each for each in due_s if each > now_s + 1.0), now_s + usual_s)
    return Turns(since_s, min(max(until_s - now_s, 1.0), horizon_s))


def _runs(deployment: str, state: str) -> FlowRunFilter:
    wanted = {"deployment_id": {"any_": [UUID(str(deployment))]}, "state": {"type": {"any_": [state]}}}
    return FlowRunFilter.model_validate(wanted)


def _unix_s(time: Any) -> float:
    return float(time.timestamp())


def forecast_before(method: Forecaster, past: Past, horizon_s: float) -> Forecast | None:
    """What the method would have said one horizon ago; None if nothing is known of before."""
    then_s = (past.until_s - horizon_s) // MINUTE_S * MINUTE_S
    return method.forecast(past.before(then_s), horizon_s) if then_s > past.begin_s else None
