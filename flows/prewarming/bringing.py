"""Units up the tiers of nodes: what a plan has staged, and models that are to be there whatever is forecast."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from cluster.client import ClusterClient
from cluster.contract import Progress
from cluster.errors import ClusterError, Refused
from cluster.wire.reports import UnitsBrought
from flows.artifacts import Row, Show, leave_table
from flows.capacity.words import size
from flows.context import FlowContext
from flows.errors import Unclear
from flows.foreseeing.carry import Carried, stage
from flows.passing import unseen
from schedules.facts import View
from schedules.foresight.plan import Plan
from schedules.foresight.retention import Retention
from storage_tiers.checkpoint import Checkpoint
from storage_tiers.errors import StoreUnavailable
from storage_tiers.model_store import ModelStore
from storage_tiers.presence import check_present

BRING_TIMEOUT_S = 1800.0
NODES_TIMEOUT_S = 30.0
_MARGIN_S = 60.0
BROUGHT = "brought"


def may_be_mended(task: Task[Any, Any], run: TaskRun, state: State[Any]) -> bool:
    """Whether trying again can help: a node or the store did not do it; that a model is none stays so, and what has no room
    beside what is worth more."""
    passing = isinstance(state.data, ClusterError | StoreUnavailable | OSError)
    return passing and not isinstance(state.data, TimeoutError | Refused)


@task(retries=2, retry_delay_seconds=[1, 5], timeout_seconds=60, cache_policy=NO_CACHE)
async def find_nodes(client: ClusterClient, named: Sequence[str]) -> list[str]:
    """The nodes of these names, or all, waiting for the first. ClusterError if none comes, Unclear if one is not there."""
    view = await client.nodes(minimum=1, timeout_s=NODES_TIMEOUT_S)
    there = sorted(node.name for node in view.nodes)
    absent = [name for name in named if name not in there]
    if absent:
        raise Unclear(f"nodes: there is no node {absent[0][:60]!r}: there are {', '.join(there)}")
    return list(dict.fromkeys(named)) or there


@task(
    task_run_name="bring {model} to {tier} of {node}",
    retries=2,
    retry_delay_seconds=[1, 5],
    retry_condition_fn=may_be_mended,
    timeout_seconds=BRING_TIMEOUT_S + _MARGIN_S,
    cache_policy=NO_CACHE,
)
async def bring_model(
    context: FlowContext, client: ClusterClient, model: str, node: str, tier: str, units: Sequence[str] | None
) -> UnitsBrought:
    """Bring the model's `units` (all if None) to a tier of one node. What the node holds already is not fetched again.

    Corrupt if the model is not what its root claims.
    """
    checkpoint = await asyncio.to_thread(_checked, context.store(), client.view(), model)
    names = [unit.name for unit in checkpoint.units] if units is None else list(units)
    return await client.bring(node, checkpoint, names, tier, BRING_TIMEOUT_S)


@task(
    task_run_name="stage {model} in {tier} of {node}",
    retries=2,
    retry_delay_seconds=[1, 5],
    retry_condition_fn=may_be_mended,
    cache_policy=NO_CACHE,
)
async def stage_units(
    client: ClusterClient,
    checkpoint: Checkpoint,
    model: str,
    node: str,
    tier: str,
    units: Sequence[str],
    within_s: float,
    on_progress: Progress | None,
) -> UnitsBrought:
    """Bring units of a model to a tier of one node, behind its cold starts."""
    return await client.bring(node, checkpoint, units, tier, within_s, on_progress)


@task(name="retain", retries=2, retry_delay_seconds=[1, 5], timeout_seconds=120, cache_policy=NO_CACHE)
async def keep_units(client: ClusterClient, kept: tuple[Retention, Retention], node: str, for_s: float) -> None:
    """Have a node keep what is worth most in its dram and on its ssd, for so long."""
    await client.retain(node, *kept, for_s)


@dataclass(frozen=True)
class ByTasks:
    """What the cluster brings and keeps as tasks of the run, each with its retries."""

    client: ClusterClient

    async def bring(
        self,
        node: str,
        checkpoint: Checkpoint,
        units: Sequence[str],
        tier: str,
        timeout_s: float,
        on_progress: Progress | None = None,
    ) -> UnitsBrought:
        """See Cluster."""
        name, named = checkpoint.name, list(units)
        return await stage_units(self.client, unseen(checkpoint), name, node, tier, named, timeout_s, on_progress)

    async def retain(self, node: str, dram: Retention, ssd: Retention, for_s: float) -> None:
        """See Cluster."""
        await keep_units(self.client, unseen((dram, ssd)), node, for_s)


async def stage_all(
    context: FlowContext,
    client: ClusterClient,
    plan: Plan,
    nodes: Sequence[str],
    show: Show,
    over: Callable[[Carried], object],
) -> None:
    """What the plan has staged on these nodes, until it is over. `over` is told what became of each; how far all of it is, is
    shown."""
    wanted = [staging for staging in plan.stagings if staging.node in nodes]
    all_bytes = sum(staging.size_bytes for staging in wanted)

    def report(done_bytes: int, last: str) -> None:
        share = done_bytes / all_bytes if all_bytes else 1.0
        show(share, f"{size(done_bytes)} of {size(all_bytes)}; {last}")

    await stage(ByTasks(client), context.store(), wanted, plan.until_s - time.time(), report, over)


def _checked(store: ModelStore, view: View, model: str) -> Checkpoint:
    """The model, with all its units in the store or on nodes."""
    checkpoint = store.open(model)
    held = {unit.digest for unit in checkpoint.units if view.holding(unit.digest)}
    check_present(store, checkpoint, held)
    return checkpoint


async def bring_all(
    context: FlowContext,
    client: ClusterClient,
    models: Sequence[str],
    tier: str,
    nodes: Sequence[str],
    units: Sequence[str] | None,
) -> list[str]:
    """Bring models to nodes whatever is forecast, and leave a table for each; what failed, in sentences."""
    failed = []
    for model in models:
        brought = await asyncio.gather(
            *(bring_model(context, client, model, node, tier, units) for node in nodes), return_exceptions=True
        )
        rows = [_row(model, node, tier, outcome) for node, outcome in zip(nodes, brought, strict=True)]
        await leave_table("bring", model, rows, f"`{model}` brought to `{tier}` on {len(nodes)} node(s)")
        failed += [f"{model} on {row['node']}: {row['outcome']}" for row in rows if row["outcome"] != BROUGHT]
    return failed


def _row(model: str, node: str, tier: str, outcome: UnitsBrought | BaseException) -> Row:
    if isinstance(outcome, BaseException):
        if not isinstance(outcome, Exception):
            raise outcome
        return {"model": model, "node": node, "tier": tier, "outcome": f"{type(outcome).__name__}: {outcome}"}
    return {
        "model": model,
        "node": outcome.node,
        "tier": outcome.tier,
        "outcome": BROUGHT,
        "units": outcome.units,
        "fetched_bytes": outcome.fetched_bytes,
        "present_bytes": outcome.present_bytes,
        "seconds": round(outcome.seconds, 3),
    }
