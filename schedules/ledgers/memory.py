"""Device memory that is promised and not yet reported: two starts at once never take the same room.

A node says what is reserved there, and for which groups. What was promised to a group that it does not name yet comes on top
of that; a group that it names is counted by the node alone from then on.
"""

from collections.abc import Mapping

from schedules.facts import Node


class Memory:
    """Promises by node and group, in bytes. Knows no clock; a promise ends when its node names the group, or with
    `release`."""

    def __init__(self) -> None:
        self._promised: dict[str, dict[str, int]] = {}
        self._nodes: dict[str, tuple[str, ...]] = {}

    def promise(self, group: str, bytes_by_node: Mapping[str, int]) -> None:
        """The group will reserve so much. ValueError if something is promised to it already."""
        if group in self._nodes:
            raise ValueError(f"group {group} has its memory promised already")
        self._nodes[group] = tuple(bytes_by_node)
        for node, size_bytes in bytes_by_node.items():
            self._promised.setdefault(node, {})[group] = size_bytes

    def report(self, node: Node) -> None:
        """The node names the groups that its reserved bytes are for."""
        there = self._promised.get(node.name)
        for group in node.groups if there else ():
            self._settle(node.name, group)

    def release(self, group: str) -> None:
        """The group will reserve nothing more; what no promise is known of is released already."""
        for node in self._nodes.pop(group, ()):
            self._settle(node, group)

    def promised_bytes(self, node: str) -> int:
        """What comes on top of what the node reports."""
        there = self._promised.get(node)
        return sum(there.values()) if there else 0

    def free_bytes(self, node: Node) -> int:
        """What a start can still be promised there; negative if a node reports more than was thought."""
        return node.device_free_bytes - self.promised_bytes(node.name)

    def by_node(self) -> dict[str, int]:
        """Bytes promised, by the names of the nodes that anything is promised on."""
        return {node: sum(there.values()) for node, there in self._promised.items()}

    def _settle(self, node: str, group: str) -> None:
        there = self._promised.get(node)
        if there is not None and there.pop(group, None) is not None and not there:
            del self._promised[node]
