"""Device memory that is promised and not yet reported: two starts at once never take the same room.

A node says what is reserved there, and for which groups. What is promised to a group that it did not name last comes on top
of that; a group that it names is counted by the node alone.
"""

from collections.abc import Mapping

from schedules.facts import Node


class Memory:
    """Promises by node and group, in bytes. Knows no clock; a promise ends with `release`."""

    def __init__(self) -> None:
        self._promised: dict[str, dict[str, int]] = {}
        self._nodes: dict[str, tuple[str, ...]] = {}
        self._named: dict[str, frozenset[str]] = {}
        self._on_top: dict[str, int] = {}

    def promise(self, group: str, bytes_by_node: Mapping[str, int]) -> None:
        """The group will reserve so much. ValueError if something is promised to it already."""
        if group in self._nodes:
            raise ValueError(f"group {group} has its memory promised already")
        self._nodes[group] = tuple(bytes_by_node)
        for node, size_bytes in bytes_by_node.items():
            self._promised.setdefault(node, {})[group] = size_bytes
            self._count(node)

    def report(self, node: Node) -> None:
        """The node names the groups that its reserved bytes are for. A group that it named before and does not name now,
        since it said so earlier and is heard later, is promised as before."""
        self._named[node.name] = frozenset(node.groups)
        if node.name in self._promised:
            self._count(node.name)

    def forget(self, node: str) -> None:
        """The node is gone: what it said last counts for nothing."""
        self._named.pop(node, None)
        self._count(node)

    def release(self, group: str) -> None:
        """The group will reserve nothing more; what no promise is known of is released already."""
        for node in self._nodes.pop(group, ()):
            del self._promised[node][group]
            self._count(node)

    def promised_bytes(self, node: str) -> int:
        """What comes on top of what the node reports."""
        return self._on_top.get(node, 0)

    def free_bytes(self, node: Node) -> int:
        """What a start can still be promised there; negative if a node reports more than was thought."""
        return node.device_bytes - node.device_reserved_bytes - self._on_top.get(node.name, 0)

    def by_node(self) -> Mapping[str, int]:
        """Bytes promised, by the names of the nodes that anything is promised on. To be read, and not kept."""
        return self._on_top

    def _count(self, node: str) -> None:
        named, there = self._named.get(node, frozenset()), self._promised.get(node, {})
        on_top = {group: size_bytes for group, size_bytes in there.items() if group not in named}
        if on_top:
            self._on_top[node] = sum(on_top.values())
        else:
            self._on_top.pop(node, None)
        if not there:
            self._promised.pop(node, None)
