"""The replicas that have nothing to do, kept as that changes: what each node would have if they went, and who is there."""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter

from schedules.lifecycle import State
from schedules.placing.decision import Running
from schedules.service import Replica, Service


class Idle:
    """By the importance of their models, for that is what decides who may ask them to go, and by what they are worth.
    Whatever changes what a replica does is to be noted here."""

    def __init__(self) -> None:
        self._kept: dict[_Kind, _Together] = {}
        self._counted: dict[Replica, tuple[_Kind, str, Mapping[str, int]]] = {}
        self._unsure: set[Replica] = set()

    def note(self, replica: Replica) -> None:
        """It may be idle, or be it no more. That is looked at when somebody asks."""
        self._unsure.add(replica)

    def up_to(self, priority: int) -> "IdleOf":
        """Those of models that are no more important."""
        self._count()
        return IdleOf(
            sorted([(of[1], kept) for of, kept in self._kept.items() if of[0] <= priority and kept.there], key=_LEVEL)
        )

    def groups(self) -> set[str]:
        """Names of all that are idle."""
        self._count()
        return {group for _, group, _ in self._counted.values()}

    def _count(self) -> None:
        for replica in self._unsure:
            idle = replica.state is State.SERVING and replica.idle
            if not idle and replica in self._counted:
                kind, group, reserved = self._counted.pop(replica)
                self._kept[kind].take(group, reserved)
            elif idle and replica not in self._counted:
                self._add(replica)
        self._unsure.clear()

    def _add(self, replica: Replica) -> None:
        kind, reserved = (replica.service.objectives.priority, _level(replica.service)), replica.reserved_bytes
        self._counted[replica] = kind, replica.group, reserved
        self._kept.setdefault(kind, _Together()).add(replica, reserved)

    def reckon(self, service: Service) -> None:
        """Its replicas are worth more or less than they were."""
        for replica in service.replicas:
            if replica in self._counted:
                kind, group, reserved = self._counted.pop(replica)
                self._kept[kind].take(group, reserved)
                self._unsure.add(replica)


class IdleOf:
    """Replicas that may go, as a decision looks at them; good until something happens to one."""

    def __init__(self, levels: "Sequence[tuple[int, _Together]]") -> None:
        self._levels, self._kept = levels, [kept for _, kept in levels]
        self.freed_bytes: Mapping[str, int] = self._kept[0].freed_bytes if len(levels) == 1 else _sum(self._kept)

    def there(self, node: str) -> list[Running]:
        """Those that have something reserved on the node."""
        return [replica.running(True) for kept in self._kept for replica in kept.there.get(node, {}).values()]

    def by_worth(self) -> "Sequence[IdleOf]":
        """Those that are worth least, those with who is worth somewhat more, and so on; all of them last."""
        ends = [index for index, (level, _) in enumerate(self._levels) if level != self._levels[index - 1][0] and index]
        return [*[IdleOf(self._levels[:end]) for end in ends], self]


class _Together:
    """Idle replicas by node and group, and the bytes that they reserve by node."""

    def __init__(self) -> None:
        self.freed_bytes: dict[str, int] = {}
        self.there: dict[str, dict[str, Replica]] = {}

    def add(self, replica: Replica, reserved_bytes: Mapping[str, int]) -> None:
        for node, size_bytes in reserved_bytes.items():
            self.freed_bytes[node] = self.freed_bytes.get(node, 0) + size_bytes
            self.there.setdefault(node, {})[replica.group] = replica

    def take(self, group: str, reserved_bytes: Mapping[str, int]) -> None:
        for node, size_bytes in reserved_bytes.items():
            self.freed_bytes[node] -= size_bytes
            there = self.there[node]
            del there[group]
            if not there:
                del self.there[node], self.freed_bytes[node]


_Kind = tuple[int, int]
"""The importance of a model, and about what a replica of it is worth."""
_LEVELS_S = (0.0, 0.03, 0.1, 0.3, 1.0, 3.0)
"""Those between two of them are about equally worth keeping."""
_LEVEL = itemgetter(0)


def _level(service: Service) -> int:
    """Those that are kept are above all others."""
    return len(_LEVELS_S) + 1 if service.is_kept else bisect_right(_LEVELS_S, service.worth)


def _sum(kept: "Iterable[_Together]") -> Mapping[str, int]:
    found: dict[str, int] = {}
    for each in kept:
        for node, size_bytes in each.freed_bytes.items():
            found[node] = found.get(node, 0) + size_bytes
    return found
