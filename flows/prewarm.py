"""The prewarm flow: what is forecast to be called is on its way up the tiers before anybody asks for it."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from prefect import flow
from pydantic import Field

from cluster.client import ClusterClient
from flows.artifacts import bar, leave_page, leave_table
from flows.bring import Names
from flows.context import FlowContext, read_context
from flows.errors import FlowError, NothingKnown, UnitsNotBrought
from flows.foreseeing.carry import Carried, retain
from flows.foreseeing.make import Made
from flows.prewarming.bringing import ByTasks, bring_all, find_nodes, stage_all
from flows.prewarming.chosen import Chosen
from flows.prewarming.page import Shown, page_of, rows_of, sentence
from flows.prewarming.steps import (
    Turns,
    choose,
    find_hits,
    find_turns,
    forecast_before,
    foresee,
    method_of,
    told,
    wish_of,
)
from schedules.foresight.plan import Plan

Time = Annotated[str, Field(max_length=20)]


@flow(name="prewarm")
async def prewarm(
    models: Names = (),
    tier: Literal["ssd", "dram"] = "ssd",
    nodes: Names = (),
    units: Names | None = None,
    horizon: Time = "",
    dry_run: bool = False,
) -> None:
    """Forecast who will be called, plan what is to be where before that, and bring it there, behind every cold start.

    Args:
        models: Models that are brought to the tier of the nodes whatever is forecast.
        tier: Where those are brought to: ssd or dram.
        nodes: Only these nodes get anything. Empty: all.
        units: Of those models only these units, as embed, layer.0 or head. Empty: all.
        horizon: How far to look ahead, as 15min. Empty: as the variable firsttoken_prewarm_horizon_s or the settings say.
        dry_run: Make the plan, say what it is, and do nothing.
    """
    context = read_context()
    chosen = await choose(context.foresight, horizon)
    turns = await find_turns(context.foresight, chosen.horizon_s)
    wish = wish_of(context.foresight, chosen, turns.every_s)
    async with context.cluster() as client:
        there = await find_nodes(client, nodes)
        failed = [] if dry_run else await bring_all(context, client, models, tier, there, units)
        try:
            made = await foresee(context, client, wish)
        except NothingKnown as error:
            await leave_page("prewarm", "forecast", f"Nothing is planned: {error}.", "Nothing is planned")
        else:
            failed += await _carry_out(context, client, made, chosen, turns, there, dry_run=dry_run)
    if failed:
        raise UnitsNotBrought("; ".join(failed))


async def _carry_out(
    context: FlowContext,
    client: ClusterClient,
    made: Made,
    chosen: Chosen,
    turns: Turns,
    nodes: Sequence[str],
    *,
    dry_run: bool,
) -> list[str]:
    """Tell nodes and the front end of the plan, and bring what it has staged. What failed, in sentences."""
    plan, carried, notes = made.plan, list[Carried](), list[str]()
    elsewhere = {staging.node for staging in plan.stagings} - set(nodes)
    if elsewhere:
        notes.append(
            f"Nothing of it is brought to {', '.join(sorted(elsewhere))}: only {', '.join(nodes)} is asked for."
        )
    if not dry_run:
        notes += [*await retain(ByTasks(client), plan, nodes), *await told(context, plan)]
    await _show(context, made, chosen, turns, notes, dry_run=dry_run)
    try:
        if not dry_run and any(staging.node in nodes for staging in plan.stagings):
            async with bar("prewarm", "progress") as show:
                await stage_all(context, client, plan, nodes, show, carried.append)
    finally:
        await leave_table("prewarm", "plan", rows_of(plan, _places(plan, carried)), sentence(plan))
    return [f"{each.staging.key.name} on {each.staging.node}: {each.why}" for each in carried if each.failed]


def _places(plan: Plan, carried: Sequence[Carried]) -> Mapping[int, Carried]:
    """By the place of the staging in the plan what became of it."""
    found = {id(each.staging): each for each in carried}
    return {place: found[id(each)] for place, each in enumerate(plan.stagings) if id(each) in found}


async def _show(
    context: FlowContext, made: Made, chosen: Chosen, turns: Turns, notes: Sequence[str], *, dry_run: bool
) -> None:
    """The page of the plan, before anything is brought."""
    try:
        hits = await find_hits(context, turns.since_s)
    except FlowError as error:
        hits, notes = [], [*notes, f"Nobody says where cold starts found their units: {error}"]
    method = method_of(context.foresight.forecaster)
    before = await asyncio.to_thread(forecast_before, method, made.past, chosen.horizon_s)
    shown = Shown(
        past=made.past,
        forecast=made.forecast,
        before=before,
        plan=made.plan,
        chosen=chosen,
        hits=hits,
        since_s=turns.since_s,
        notes=notes,
        dry_run=dry_run,
    )
    await leave_page("prewarm", "forecast", page_of(shown), sentence(made.plan))
