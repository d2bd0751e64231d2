"""The replicas that have nothing to do, kept as that changes: what each node would have if they went, and who is there."""

from collections.abc import Iterable, Mapping, Sequence

from schedules.lifecycle import State
from schedules.placing.decision import Running
from schedules.service import Replica


class Idle:
    """By the importance of their models, for that is what decides who may ask them to go. Whatever changes what a replica
    does is to be noted here."""

    def __init__(self) -> None:
        self._kept: dict[int, _Together] = {}
        self._counted: dict[Replica, tuple[int, str, Mapping[str, int]]] = {}
        self._unsure: set[Replica] = set()

    def note(self, replica: Replica) -> None:
        """It may be idle, or be it no more. That is looked at when somebody asks."""
        self._unsure.add(replica)

    def up_to(self, priority: int) -> "IdleOf":
        """Those of models that are no more important."""
        self._count()
        return IdleOf([kept for of, kept in self._kept.items() if of <= priority])

    def groups(self) -> set[str]:
        """Names of all that are idle."""
        self._count()
        return {group for _, group, _ in self._counted.values()}

    def _count(self) -> None:
        for replica in self._unsure:
            idle = replica.state is State.SERVING and replica.idle
            if not idle and replica in self._counted:
                priority, group, reserved = self._counted.pop(replica)
                self._kept[priority].take(group, reserved)
            elif idle and replica not in self._counted:
                priority, reserved = replica.service.objectives.priority, replica.reserved_bytes
                self._counted[replica] = priority, replica.group, reserved
                self._kept.setdefault(priority, _Together()).add(replica, reserved)
        self._unsure.clear()


class IdleOf:
    """Replicas that may go, as a decision looks at them; good until something happens to one."""

    def __init__(self, kept: "Sequence[_Together]") -> None:
        self._kept = kept
        self.freed_bytes: Mapping[str, int] = kept[0].freed_bytes if len(kept) == 1 else _sum(kept)

    def there(self, node: str) -> list[Running]:
        """Those that have something reserved on the node."""
        return [replica.running(True) for kept in self._kept for replica in kept.there.get(node, {}).values()]


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


def _sum(kept: "Iterable[_Together]") -> Mapping[str, int]:
    found: dict[str, int] = {}
    for each in kept:
        for node, size_bytes in each.freed_bytes.items():
            found[node] = found.get(node, 0) + size_bytes
    return found
