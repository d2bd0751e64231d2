"""All replicas by the names of their groups. Whatever happens to one is noted here."""

from itertools import count

from schedules.lifecycle import Turn
from schedules.replicas.idle import Idle
from schedules.service import Replica


class Roster:
    """`replicas` are to be read by others; `prefix` begins the names of their groups. Those that are `making_room` do so for
    another, as its turn."""

    def __init__(self, prefix: str) -> None:
        self._prefix, self._numbers = prefix, count(1)
        self.replicas: dict[str, Replica] = {}
        self.making_room: set[Replica] = set()
        self.idle = Idle()

    def name(self) -> str:
        """One that was never used."""
        return f"{self._prefix}{next(self._numbers)}"

    def add(self, replica: Replica) -> None:
        """It is one of its model's from now on."""
        replica.service.replicas.append(replica)
        self.replicas[replica.group] = replica

    def rename(self, replica: Replica) -> None:
        """What it runs as next."""
        del self.replicas[replica.group]
        replica.group = self.name()
        self.replicas[replica.group] = replica

    def forget(self, replica: Replica) -> None:
        """Nothing is left of it."""
        self.making_room.discard(replica)
        del self.replicas[replica.group]
        replica.service.replicas.remove(replica)

    def let(self, replica: Replica, turn: Turn, now_s: float) -> None:
        """It happens to the replica."""
        replica.let(turn, now_s)
        self.idle.note(replica)
