"""A plan of prewarming carried out at the nodes: told what is worth keeping, and brought what is to be there."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from cluster.contract import Progress
from cluster.errors import ClusterError, Refused
from cluster.wire.reports import UnitsBrought
from schedules.foresight.plan import Plan, Staging
from schedules.foresight.retention import Retention
from storage_tiers.checkpoint import Checkpoint
from storage_tiers.errors import StorageError
from storage_tiers.model_store import ModelStore

_MARGIN_S = 10.0
"""A node says itself that the time is over; who does not is not waited for longer."""
Report = Callable[[int, str], object]
"""Told how many bytes of all stagings are where they are to be, and what came last."""


class Brings(Protocol):
    """A cluster, or whoever has it do so."""

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
        ...


class Retains(Protocol):
    """The same, of what nodes are to keep."""

    async def retain(self, node: str, dram: Retention, ssd: Retention, for_s: float) -> None:
        """See Cluster."""
        ...


@dataclass(frozen=True)
class Carried:
    """What became of a staging; `why` says why it was not done, "" if it was. It has `failed` then, unless there was no time
    left for it, no room beside what is worth more, or another version of the model."""

    staging: Staging
    fetched_bytes: int
    why: str
    seconds: float = 0.0
    failed: bool = False


async def retain(cluster: Retains, plan: Plan, nodes: Sequence[str]) -> list[str]:
    """Have each node keep what the plan holds dear, until it is over; whoever could not be told, in sentences."""
    for_s = max(1.0, plan.until_s - time.time())
    orders = (cluster.retain(node, *plan.retention(node), for_s) for node in nodes)
    answers = await asyncio.gather(*orders, return_exceptions=True)
    failed = []
    for node, answer in zip(nodes, answers, strict=True):
        if isinstance(answer, ClusterError | TimeoutError):
            failed.append(f"{node} goes on dropping what it used longest ago: {answer}")
        elif answer is not None:
            raise answer
    return failed


def _nobody_waits(_carried: Carried) -> None:
    """All at the end will do."""


async def stage(
    cluster: Brings,
    store: ModelStore,
    stagings: Sequence[Staging],
    within_s: float,
    report: Report,
    over: Callable[[Carried], object] = _nobody_waits,
) -> list[Carried]:
    """Bring what is staged, on each node one after the other in their order, the nodes side by side. `over` is told what
    became of each at once. Who cancels it ends it at the nodes; units that are whole stay."""
    models = await asyncio.to_thread(_opened, store, sorted({staging.key.name for staging in stagings}))
    progress = _Progress(report)
    by_node = {name: [each for each in stagings if each.node == name] for name in {each.node for each in stagings}}
    found: dict[int, Carried] = {}

    async def in_order(wanted: Sequence[Staging]) -> None:
        for staging in wanted:
            carried = await _staged(cluster, models[staging.key.name], staging, until_s, progress)
            found[id(staging)] = carried
            over(carried)

    until_s = asyncio.get_running_loop().time() + within_s
    async with asyncio.TaskGroup() as nodes:
        for wanted in by_node.values():
            nodes.create_task(in_order(wanted))
    return [found[id(staging)] for staging in stagings]


class _Progress:
    """Of all stagings together; one that came to nothing counts as done."""

    def __init__(self, report: Report) -> None:
        self._report, self._done_bytes = report, dict[int, int]()

    def at(self, staging: Staging, done_bytes: int, words: str) -> None:
        self._done_bytes[id(staging)] = min(done_bytes, staging.size_bytes)
        self._report(sum(self._done_bytes.values()), words)


def _opened(store: ModelStore, names: Sequence[str]) -> dict[str, Checkpoint | str]:
    """By name each model, or why it cannot be opened."""
    found: dict[str, Checkpoint | str] = {}
    for name in names:
        try:
            found[name] = store.open(name)
        except (StorageError, OSError) as error:
            found[name] = str(error)
    return found


async def _staged(
    cluster: Brings, model: Checkpoint | str, staging: Staging, until_s: float, progress: _Progress
) -> Carried:
    name, fetched_bytes, seconds, why, failed = staging.key.name, 0, 0.0, "", False
    left_s = until_s - asyncio.get_running_loop().time()
    if isinstance(model, str):
        why, failed = model, True
    elif model.digest != staging.key.digest:
        why = f"another version of {name} was published meanwhile"
    elif left_s <= 0.0:
        why = "the plan was over before its turn came"
    else:
        where = f"{name} to {staging.tier} of {staging.node}"
        try:
            async with asyncio.timeout(left_s + _MARGIN_S):
                brought = await cluster.bring(
                    staging.node, model, staging.units, staging.tier, left_s,
                    lambda done_bytes: progress.at(staging, done_bytes, where),
                )  # fmt: skip
            fetched_bytes, seconds = brought.fetched_bytes, brought.seconds
        except TimeoutError:
            why = "it was not there when the plan was over"
        except (ClusterError, StorageError, OSError) as error:
            why, failed = str(error), not isinstance(error, Refused)
    progress.at(staging, staging.size_bytes, f"{name} on {staging.node}: {why or 'there'}")
    return Carried(staging, fetched_bytes, why, seconds, failed)
