"""Units up the tiers of nodes: what a plan has staged, and models that are to be there whatever is forecast."""

import asyncio
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prefect import Task, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from cluster.client import ClusterClient
from cluster.errors import ClusterError
from cluster.wire.reports import UnitsBrought
from flows.artifacts import Row, Show, leave_table
from flows.context import FlowContext
from flows.errors import Unclear
from schedules.facts import View
from schedules.foresight.plan import Plan, Staging
from storage_tiers.checkpoint import Checkpoint
from storage_tiers.errors import StorageError, StoreUnavailable
from storage_tiers.model_store import ModelStore
from storage_tiers.presence import check_present

BRING_TIMEOUT_S = 1800.0
NODES_TIMEOUT_S = 30.0
_MARGIN_S = 60.0
BROUGHT = "brought"


def may_be_mended(task: Task[Any, Any], run: TaskRun, state: State[Any]) -> bool:
    """Whether trying again can help: a node or the store did not do it; that a model is none stays so."""
    return isinstance(state.data, ClusterError | StoreUnavailable | OSError) and not isinstance(
        state.data, TimeoutError
    )


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
async def stage(
    client: ClusterClient,
    checkpoint: Checkpoint,
    model: str,
    node: str,
    tier: str,
    units: Sequence[str],
    until_s: float,
) -> UnitsBrought:
    """Bring units of a model to a tier of one node, behind its cold starts; given up at `until_s` (unix seconds), when
    another plan says what is to be where."""
    within_s = min(BRING_TIMEOUT_S, until_s - time.time())
    if within_s <= 0:
        raise TimeoutError("the plan was over before its turn came")
    async with asyncio.timeout(within_s):
        return await client.bring(node, checkpoint, units, tier, within_s)


@dataclass(frozen=True)
class Outcome:
    """What became of a staging: what was brought, or why it was not."""

    staging: Staging
    brought: UnitsBrought | None
    why: str

    @property
    def in_words(self) -> str:
        return self.why or BROUGHT


async def stage_all(
    context: FlowContext, client: ClusterClient, plan: Plan, nodes: Sequence[str], show: Show
) -> list[Outcome]:
    """What the plan has staged on these nodes: on each one after the other in the plan's order, the nodes side by side."""
    wanted = [staging for staging in plan.stagings if staging.node in nodes]
    progress = _Progress(len(wanted), sum(staging.size_bytes for staging in wanted), show)
    checkpoints = await asyncio.to_thread(_opened, context.store(), wanted)
    by_node = {node: deque(each for each in wanted if each.node == node) for node in nodes}
    async with asyncio.TaskGroup() as group:
        lines = [
            group.create_task(_in_order(client, checkpoints, line, plan.until_s, progress)) for line in by_node.values()
        ]
    found = {id(outcome.staging): outcome for line in lines for outcome in line.result()}
    return [found[id(staging)] for staging in wanted]


async def _in_order(
    client: ClusterClient,
    checkpoints: Mapping[str, Checkpoint | str],
    line: deque[Staging],
    until_s: float,
    progress: "_Progress",
) -> list[Outcome]:
    done = []
    while line:
        outcome = await _staged(client, checkpoints, line.popleft(), until_s)
        progress.count(outcome)
        done.append(outcome)
    return done


async def _staged(
    client: ClusterClient, checkpoints: Mapping[str, Checkpoint | str], staging: Staging, until_s: float
) -> Outcome:
    checkpoint = checkpoints[staging.key.name]
    if isinstance(checkpoint, str):
        return Outcome(staging, None, checkpoint)
    if checkpoint.digest != staging.key.digest:
        return Outcome(staging, None, f"another version of {staging.key.name} was published since")
    name, node, units = staging.key.name, staging.node, list(staging.units)
    try:
        return Outcome(staging, await stage(client, checkpoint, name, node, staging.tier, units, until_s), "")
    except (ClusterError, StorageError, OSError, TimeoutError) as error:
        get_run_logger().warning("%s is not staged on %s: %s", name, node, error)
        return Outcome(staging, None, f"{type(error).__name__}: {error}")


@dataclass
class _Progress:
    count_all: int
    bytes_all: int
    show: Show
    stagings: int = 0
    size_bytes: int = 0

    def count(self, outcome: Outcome) -> None:
        self.stagings += 1
        self.size_bytes += outcome.staging.size_bytes
        share = self.size_bytes / self.bytes_all if self.bytes_all else self.stagings / self.count_all
        where = f"{outcome.staging.key.name} on {outcome.staging.node}: {outcome.in_words}"
        self.show(share, f"{self.stagings} of {self.count_all} stagings; {where}")


def _opened(store: ModelStore, stagings: Sequence[Staging]) -> dict[str, Checkpoint | str]:
    """By name each model that is staged, or why it cannot be."""
    found: dict[str, Checkpoint | str] = {}
    for name in dict.fromkeys(staging.key.name for staging in stagings):
        try:
            found[name] = store.open(name)
        except (StorageError, OSError) as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found


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
