"""Groups whose owner is gone: told from the leases in nodes' reports. Knows no clock and no connection."""

from collections.abc import Mapping, Sequence

from cluster.wire.reports import StageLease

SEEN_FOR_S = 0.8
"""Two reports have to say so: the first after a node was cut off from everybody says it of groups whose owner lives."""


class Orphans:
    """`owner` is who looks: its own groups are none."""

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._nodes: dict[str, dict[int, str]] = {}
        self._here: dict[str, tuple[tuple[str, int], ...]] = {}
        self._since_s: dict[str, float] = {}
        self._told: dict[str, str] = {}

    def hear(self, node: str, stages: Sequence[StageLease], now_s: float) -> Mapping[str, tuple[str, ...]]:
        """The node reports these stages. Groups that have turned out to be without an owner, each once, with the nodes of
        their stages by rank."""
        self.forget(node)
        self._here[node] = tuple((stage.group, stage.rank) for stage in stages)
        found = {}
        for stage in stages:
            self._nodes.setdefault(stage.group, {})[stage.rank] = node
            if stage.rank == 0 and self._is_orphan(stage, now_s) and self._told.get(stage.group) != stage.owner:
                nodes = self._nodes[stage.group]
                if len(nodes) == stage.degree:
                    self._told[stage.group] = stage.owner
                    found[stage.group] = tuple(nodes[rank] for rank in range(stage.degree))
        for group in [group for group in self._since_s if 0 not in self._nodes.get(group, {})]:
            self._since_s.pop(group)
            self._told.pop(group, None)
        return found

    def forget(self, node: str) -> None:
        """Nothing runs on the node."""
        for group, rank in self._here.pop(node, ()):
            ranks = self._nodes.get(group, {})
            if ranks.get(rank) == node:
                del ranks[rank]
            if not ranks:
                self._nodes.pop(group, None)

    def nodes_of(self, group: str) -> tuple[str, ...]:
        """The nodes that report its stages, by rank."""
        nodes = self._nodes.get(group, {})
        return tuple(nodes[rank] for rank in sorted(nodes))

    def retry(self, group: str) -> None:
        """It could not be asked about: it is found again if it is still there."""
        self._told.pop(group, None)

    def _is_orphan(self, stage: StageLease, now_s: float) -> bool:
        if not stage.orphaned or stage.owner == self._owner:
            self._since_s.pop(stage.group, None)
            self._told.pop(stage.group, None)
            return False
        return now_s - self._since_s.setdefault(stage.group, now_s) >= SEEN_FOR_S
