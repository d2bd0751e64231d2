"""Who waits for whose room, and who was asked to make some."""

from collections.abc import Sequence

from schedules.ledgers.books import Books
from schedules.lifecycle import State, Turn
from schedules.limits import MOVE_AGAIN_S
from schedules.replicas.roster import Roster
from schedules.replicas.waiters import Waiters
from schedules.replicas.wanted import Wanted
from schedules.service import Replica


class Rooms:
    """See the module. Knows nothing of how rooms are found."""

    def __init__(self, roster: Roster, books: Books, wanted: Wanted, waiters: Waiters) -> None:
        self._roster, self._books, self._wanted, self._waiters = roster, books, wanted, waiters
        self._room_for: dict[str, Replica] = {}

    # ---- of those that go

    def wait(self, replica: Replica, group: str) -> None:
        """It starts once that group, and all others that it waits for, are gone."""
        replica.leaving.add(group)
        self._room_for[group] = replica

    def freed(self, group: str) -> Replica | None:
        """The group is gone: the replica that has all of its room now, if that is the last that it waited for."""
        waiting = self._room_for.pop(group, None)
        if waiting is None or group not in waiting.leaving:
            return None
        waiting.leaving.discard(group)
        return None if waiting.leaving else waiting

    def stays(self, replica: Replica, now_s: float) -> None:
        """It does not make room for whoever waits for that: where that starts is decided again."""
        waiting = self._room_for.pop(replica.group, None)
        if waiting is not None and replica.group in waiting.leaving:
            waiting.stay_until_s = now_s + MOVE_AGAIN_S
            self.unplace(waiting, now_s)
            self._wanted.stir()

    def unplace(self, replica: Replica, now_s: float) -> None:
        """Where it was to start it cannot any more: it is decided again."""
        self._books.over(replica.group, now_s)
        replica.placement = None
        replica.leaving.clear()
        self._wanted.add(replica)

    # ---- of those that have had their turn

    def has_turn(self, replica: Replica) -> bool:
        """Whether others are making room for it."""
        return any(other.turn_of is replica for other in self._roster.making_room)

    def give_turn(self, replica: Replica, leaving: Sequence[Replica]) -> None:
        """These make room for it."""
        self._roster.making_room.update(leaving)
        for other in leaving:
            other.turn_of = replica

    def release(self, replica: Replica, now_s: float) -> None:
        """It needs no room any more: those that still make some for it go on as they were."""
        if not self._roster.making_room:
            return
        for other in list(self._roster.replicas.values()):
            if other.turn_of is not replica:
                continue
            other.turn_of = None
            self._roster.making_room.discard(other)
            if (
                other.state is State.DRAINING
                and not other.service.retired
                and not self._books.nodes.drained(other.nodes)
                and not other.giving_way
            ):
                self._roster.let(other, Turn.KEEP, now_s)
                self._wanted.stir()
                self._waiters.serve(other.service, now_s)
