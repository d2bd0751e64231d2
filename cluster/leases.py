"""The leases of a client's groups: renewed at their nodes about every second, scheduler or not."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from cluster.errors import ClusterError
from cluster.hearing import Hearing
from cluster.wire.orders import Renew
from cluster.wire.reports import Renewed

LEASE_S = 30.0
RENEW_EVERY_S = 1.0


class Leases:
    """`lose` is called with a group that a node does not count as `owner`'s any more, and why. Use from one event loop."""

    def __init__(self, owner: str, hearing: Hearing, lose: Callable[[str, str], None]) -> None:
        self.owner = owner
        self._hearing, self._lose = hearing, lose
        self._held: dict[str, tuple[str, ...]] = {}
        self._coming: dict[str, tuple[str, ...]] = {}
        self._renewing: set[str] = set()

    def hold(self, group: str, nodes: Sequence[str]) -> None:
        """Renew the group's leases from now on."""
        self._held[group] = tuple(nodes)

    def release(self, group: str) -> None:
        """Do so no longer."""
        self._held.pop(group, None)

    @contextmanager
    def coming(self, group: str, nodes: Sequence[str]) -> Iterator[None]:
        """Within the block the group comes to be: some of its stages may be formed already, and want to be renewed."""
        self._coming[group] = tuple(nodes)
        try:
            yield
        finally:
            del self._coming[group]

    async def renew_always(self) -> None:
        """As long as this runs. A node that does not answer keeps no other waiting."""
        self._renewing.clear()
        async with asyncio.TaskGroup() as tasks:
            while True:
                by_node: dict[str, list[str]] = {}
                for group, nodes in [*self._held.items(), *self._coming.items()]:
                    for node in nodes:
                        by_node.setdefault(node, []).append(group)
                for node, groups in by_node.items():
                    if node in self._hearing.roster.known and node not in self._renewing:
                        self._renewing.add(node)
                        tasks.create_task(self._renew(node, tuple(groups)))
                await asyncio.sleep(RENEW_EVERY_S)

    async def _renew(self, node: str, groups: tuple[str, ...]) -> None:
        held = set(self._held)
        try:
            order = Renew(self.owner, groups, LEASE_S)
            answer = await self._hearing.order(node, order, Renewed, 2 * RENEW_EVERY_S)
        except ClusterError:
            return
        finally:
            self._renewing.discard(node)
        for group in answer.missing:
            if group in held and group in self._held:
                self._lose(group, f"node {node} has no stage of it that is ours")
