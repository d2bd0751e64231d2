"""Groups that outlived their owner: found in nodes' reports, and taken over.

Any number of clients may find the same group. The node of its first stage gives it to the first that asks.
"""

import asyncio
import time
from collections.abc import Callable, Sequence

from cluster.errors import ClusterError, Refused, StageFailed
from cluster.hearing import Hearing
from cluster.leases import LEASE_S
from cluster.orphans import Orphans
from cluster.tasks import Tasks
from cluster.wire.orders import Adopt, AskStage
from cluster.wire.reports import StageFacts, StageFormed, StageLease
from schedules.events import Event, GroupFound
from schedules.facts import ModelKey, Placement, StagePlan

ANSWER_WITHIN_S = 2.0


class Adoption:
    """`tell` hears GroupFound, once for each owner that a group loses. Use from one event loop."""

    def __init__(self, owner: str, hearing: Hearing, tasks: Tasks, tell: Callable[[Event], None]) -> None:
        self._owner, self._hearing, self._tasks, self._tell = owner, hearing, tasks, tell
        self._orphans = Orphans(owner)

    def hear(self, node: str, stages: Sequence[StageLease]) -> None:
        """The node reports these stages."""
        for group in self._orphans.hear(node, stages, time.monotonic()):
            self._tasks.spawn(self._find(group), "find a group")

    def forget(self, node: str) -> None:
        """Nothing runs on the node."""
        self._orphans.forget(node)

    async def placement(self, group: str) -> tuple[ModelKey, Placement]:
        """What runs, and where, by the word of its nodes. Refused if it is not whole, NodeLost if one does not answer."""
        nodes = self._orphans.nodes_of(group)
        facts = await asyncio.gather(
            *(self._hearing.order(node, AskStage(group), StageFacts, ANSWER_WITHIN_S) for node in nodes)
        )
        if not facts or [stage.rank for stage in facts] != list(range(len(facts[0].bounds) - 1)):
            raise Refused(f"group {group} is not whole")
        stages = tuple(_plan(node, stage) for node, stage in zip(nodes, facts, strict=True))
        first = facts[0]
        placement = Placement(first.model, stages, first.kv_tokens, ("It runs already, and its owner is gone.",))
        return ModelKey(first.model, first.digest), placement

    async def take(self, group: str, placement: Placement) -> list[StageFormed]:
        """Have it count as ours; where its stages take callers. Refused if it has an owner; NodeLost or
        StageFailed if it is not whole: then some of it may be ours."""
        order = Adopt(self._owner, group, LEASE_S)
        first, *others = (stage.node for stage in placement.stages)
        door = await self._hearing.order(first, order, StageFormed, ANSWER_WITHIN_S)
        try:
            rest = (self._hearing.order(node, order, StageFormed, ANSWER_WITHIN_S) for node in others)
            return [door, *await asyncio.gather(*rest)]
        except Refused as error:
            raise StageFailed(f"group {group} has fallen apart: {error}") from error

    async def _find(self, group: str) -> None:
        try:
            key, placement = await self.placement(group)
        except ClusterError:
            self._orphans.retry(group)
            return
        self._tell(GroupFound(group, key, placement))


def _plan(node: str, stage: StageFacts) -> StagePlan:
    return StagePlan(
        node=node,
        first_layer=stage.bounds[stage.rank],
        end_layer=stage.bounds[stage.rank + 1],
        units=stage.units,
        weight_bytes=stage.weight_bytes,
        kv_bytes=stage.reserve_bytes - stage.weight_bytes,
        later=stage.later,
    )
