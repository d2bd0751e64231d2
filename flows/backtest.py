"""The backtest flow: what was forecast beside what came, and what prewarming saved."""

import asyncio
import time
from typing import Annotated

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from pydantic import Field

from flows.artifacts import bar, leave_page, leave_table
from flows.backtesting.judging import Priced, methods_of, priced, window_of
from flows.backtesting.page import Told, page_of, rows_of, sentence
from flows.backtesting.playing import Played, Report, offered, play_all, prewarms_of
from flows.context import FlowContext, read_context
from flows.errors import NothingKnown
from flows.foreseeing.gather import Gathered
from flows.foreseeing.make import Wish
from flows.passing import unseen
from flows.planning.typed import seconds
from flows.prewarming.steps import COLD_STARTS, choose, gather_facts, wish_of
from schedules.facts import Node
from schedules.foresight.backtest import Backtest
from schedules.foresight.backtest import backtest as judge_methods
from schedules.foresight.forecast import Forecaster
from schedules.traces.happened import Asked, trace_of

_Time = Annotated[str, Field(max_length=20)]


@task(retries=2, retry_delay_seconds=[1, 5], timeout_seconds=600, cache_policy=NO_CACHE)
async def ask_cold_starts(context: FlowContext, gathered: Gathered) -> Priced:
    """What cold starts took."""
    models = [wanted.model for wanted in gathered.models]
    return priced(gathered.heard.past, models, await context.front_end().cold_starts(COLD_STARTS))


@task(timeout_seconds=4 * 3600, cache_policy=NO_CACHE)
async def judge(gathered: Gathered, prices: Priced, methods: list[Forecaster], wish: Wish, window_s: float) -> Backtest:
    """All methods on what came in the window. Unclear if nothing ever did."""
    past = gathered.heard.past
    since_s, until_s = window_of(past, window_s)
    every_s = min(wish.every_s, wish.horizon_s)
    return await asyncio.to_thread(
        judge_methods, past, methods, prices.prices, since_s, until_s, every_s, wish.horizon_s
    )


@task(retries=2, retry_delay_seconds=[1, 5], timeout_seconds=600, cache_policy=NO_CACHE)
async def ask_requests(context: FlowContext, since_s: float, until_s: float) -> tuple[list[Asked], tuple[Node, ...]]:
    """What was asked, and the nodes that there are."""
    front_end = context.front_end()
    return await front_end.requests(since_s, until_s), await front_end.nodes()


@task(timeout_seconds=4 * 3600, cache_policy=NO_CACHE)
async def play_again(
    gathered: Gathered, asked: list[Asked], nodes: tuple[Node, ...], wish: Wish, since_s: float, report: Report
) -> list[Played]:
    """What was asked, played to nodes that hold nothing: reactive, prewarmed, and prewarmed by who knows what comes."""

    def played() -> list[Played]:
        models = {wanted.model.name: wanted for wanted in gathered.models}
        known = [each for each in asked if each.model in models]
        trace = trace_of(known, since_s, max(each.at_s for each in known) + 1.0, "history")
        prewarms = prewarms_of(wish, gathered.heard.past, since_s)
        return play_all(nodes, offered([models[name] for name in trace.models]), trace, prewarms, report)

    return await asyncio.to_thread(played)


@flow(name="backtest")
async def backtest(
    window: _Time = "1d",
    horizon: _Time = "",
    methods: Annotated[str, Field(max_length=1000)] = "",
    most_requests: Annotated[int, Field(ge=0, le=1_000_000)] = 50_000,
) -> None:
    """Judge the methods of forecasting on what came, and play what was asked again with prewarming and without.

    Args:
        window: How much of the past is judged, as 1d.
        horizon: How far forecasts look, as 15min. Empty: as the variable firsttoken_prewarm_horizon_s or the settings say.
        methods: Methods with commas, as warmserve,tsb. Empty: all.
        most_requests: So many requests are played again at most, the latest. 0: none.
    """
    context = read_context()
    chosen = await choose(context.foresight, horizon)
    judged, window_s = methods_of(methods), seconds(window, "the window")
    wish = wish_of(context.foresight, chosen, context.foresight.every_s or chosen.horizon_s)
    async with context.cluster() as client:
        gathered = await gather_facts(context, client, wish, time.time())
    past = gathered.heard.past
    if not past.models or not past.counts.any():
        raise NothingKnown(
            "no request came for any model that is published: there is nothing to compare a forecast with"
        )
    prices = await ask_cold_starts(context, unseen(gathered))
    found = await judge(unseen(gathered), unseen(prices), judged, wish, window_s)
    played, note = await _play(context, gathered, wish, window_s, most_requests)
    told = Told(past, found, wish.forecaster.name, played, (*chosen.said, prices.said, *note))
    await leave_table("backtest", "methods", rows_of(found), sentence(told))
    await leave_page("backtest", "summary", page_of(told), sentence(told))


async def _play(
    context: FlowContext, gathered: Gathered, wish: Wish, window_s: float, most_requests: int
) -> tuple[list[Played], tuple[str, ...]]:
    """How it went, and what there is to know of it, in sentences."""
    if not most_requests:
        return [], ()
    since_s, until_s = window_of(gathered.heard.past, window_s)
    asked, nodes = await ask_requests(context, since_s, until_s)
    names = {wanted.model.name for wanted in gathered.models}
    known = sorted((each for each in asked if each.model in names), key=lambda each: each.at_s)[-most_requests:]
    if not known or not nodes:
        return [], ("Nothing was played again: the history has no requests of this time, or there are no nodes.",)
    begin_s = known[0].at_s // 60 * 60
    async with bar("backtest", "progress") as show:
        played = await play_again(unseen(gathered), unseen(known), unseen(nodes), wish, begin_s, show)
    if len(known) < len(asked):
        return played, (
            f"Of {len(asked):,} requests the last {len(known):,} of models that are published were played.",
        )
    return played, ()
