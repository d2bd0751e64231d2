"""Units up the tiers of nodes: what a plan has staged, and models that are to be there whatever is forecast."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from prefect import Task, get_run_logger, task
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
from flows.passing import unseen
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
async def stage(
    client: ClusterClient,
    checkpoint: Checkpoint,
    model: str,
    node: str,
    tier: str,
    units: Sequence[str],
    until_s: float,
    on_progress: Progress,
) -> UnitsBrought:
    """Bring units of a model to a tier of one node, behind its cold starts; given up at `until_s` (unix seconds), when
    another plan says what is to be where."""
    within_s = min(BRING_TIMEOUT_S, until_s - time.time())
    if within_s <= 0:
        raise TimeoutError("the plan was over before its turn came")
    async with asyncio.timeout(within_s):
        return await client.bring(node, checkpoint, units, tier, within_s, on_progress)


@dataclass(frozen=True)
class Outcome:
    """What became of a staging: what was brought, or `why` it was not. It has `failed` unless there was no time left for it,
    or no room beside what is worth more."""

    staging: Staging
    brought: UnitsBrought | None = None
    why: str = ""
    failed: bool = False

    @property
    def in_words(self) -> str:
        """For a table."""
        return self.why or BROUGHT


async def stage_all(
    context: FlowContext,
    client: ClusterClient,
    plan: Plan,
    nodes: Sequence[str],
    show: Show,
    over: Callable[[Outcome], object],
) -> None:
    """What the plan has staged on these nodes: on each one after the other in the plan's order, the nodes side by side.
    `over` is told what became of each; how far it is, is shown."""
    wanted = [staging for staging in plan.stagings if staging.node in nodes]
    far = Far(len(wanted), sum(staging.size_bytes for staging in wanted), show)
    checkpoints = await asyncio.to_thread(_opened, context.store(), wanted)

    async def in_order(node: str) -> None:
        for staging in (each for each in wanted if each.node == node):
            outcome = await _staged(client, checkpoints[staging.key.name], staging, plan.until_s, far)
            far.count(outcome)
            over(outcome)

    async with asyncio.TaskGroup() as group:
        for node in nodes:
            group.create_task(in_order(node))


async def _staged(
    client: ClusterClient, checkpoint: Checkpoint | str, staging: Staging, until_s: float, far: "Far"
) -> Outcome:
    name, node, units = staging.key.name, staging.node, list(staging.units)
    if isinstance(checkpoint, str):
        return Outcome(staging, None, checkpoint, failed=True)
    if checkpoint.digest != staging.key.digest:
        return Outcome(staging, None, f"another version of {name} was published since")
    try:
        brought = await stage(
            client, unseen(checkpoint), name, node, staging.tier, units, until_s, lambda there: far.there(node, there)
        )
        return Outcome(staging, brought)
    except (ClusterError, StorageError, OSError, TimeoutError) as error:
        get_run_logger().warning("%s is not staged on %s: %s", name, node, error)
        failed = not isinstance(error, TimeoutError | Refused)
        return Outcome(staging, None, f"{type(error).__name__}: {error}", failed=failed)


@dataclass
class Far:
    """How far a plan is: of so many stagings and bytes those that are over, and of those that are not what is there."""

    count_all: int
    bytes_all: int
    show: Show
    stagings: int = 0
    size_bytes: int = 0
    coming: dict[str, int] = field(default_factory=dict)

    def there(self, node: str, size_bytes: int) -> None:
        """Of what is brought to the node now."""
        self.coming[node] = size_bytes
        self._tell("")

    def count(self, outcome: Outcome) -> None:
        """One is over."""
        self.stagings += 1
        self.size_bytes += outcome.staging.size_bytes
        self.coming.pop(outcome.staging.node, None)
        self._tell(f"; {outcome.staging.key.name} on {outcome.staging.node}: {outcome.in_words}")

    def _tell(self, last: str) -> None:
        there = self.size_bytes + sum(self.coming.values())
        share = there / self.bytes_all if self.bytes_all else self.stagings / self.count_all
        words = f"{self.stagings} of {self.count_all} stagings, {size(there)} of {size(self.bytes_all)}{last}"
        self.show(min(1.0, share), words)


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
