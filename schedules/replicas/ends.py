"""How replicas end: those that drain once they are done, those that nobody asks for after a while."""

from collections.abc import Callable, Sequence

from schedules.actions import Action, Stop
from schedules.ledgers.books import Books
from schedules.lifecycle import State, Turn
from schedules.replicas.resting import Resting
from schedules.replicas.rooms import Rooms
from schedules.replicas.roster import Roster
from schedules.replicas.wanted import Wanted
from schedules.service import Replica, Service
from schedules.wakes import Wakes


class Ends:
    """See the module. Moves are told by `interrupt` that something else is to become of a replica, and why; `fewer` is told
    that a model has fewer that take requests. `out` takes actions in their order."""

    def __init__(
        self,
        roster: Roster,
        books: Books,
        wakes: Wakes,
        wanted: Wanted,
        rooms: Rooms,
        interrupt: Callable[[Replica, str, float], None],
        fewer: Callable[[Service, float], None],
        out: Callable[[Action], None],
    ) -> None:
        self._roster, self._books, self._wanted, self._rooms = roster, books, wanted, rooms
        self._interrupt, self._fewer, self._out = interrupt, fewer, out
        self.resting = Resting(wakes, self.stop)

    def rest(self, replica: Replica, now_s: float) -> None:
        """If it has nothing to do it ends after its time to keep alive, or at once if it drains."""
        self._roster.idle.note(replica)
        if replica.giving_way and replica.requests:
            return
        if not replica.idle and not replica.giving_way:
            return
        if replica.state is State.DRAINING:
            self.stop(replica, now_s)
        elif replica.state is State.SERVING:
            self.resting.begin(replica, now_s)
            self._wanted.stir()

    def busy(self, replica: Replica) -> None:
        """It has something to do."""
        replica.idle_since_s = None
        self._roster.idle.note(replica)

    def expected(self, service: Service) -> None:
        """Somebody is about to come: none of its replicas is idle."""
        for replica in service.replicas:
            self._roster.idle.note(replica)

    def end_soon(self, replicas: Sequence[Replica], now_s: float) -> None:
        """They end when they are done, whatever else was to become of them."""
        ending = [replica for replica in replicas if replica.heir_of is None]
        for replica in ending:
            self._interrupt(replica, "the replica is to end", now_s)
        self.drain(ending, now_s)

    def drain(self, replicas: Sequence[Replica], now_s: float) -> None:
        """Those that serve get nothing new from now on, all of them before others are wanted in their place."""
        serving = [replica for replica in replicas if replica.state is State.SERVING]
        for replica in serving:
            self._roster.let(replica, Turn.DRAIN, now_s)
        for replica in serving:
            self._fewer(replica.service, now_s)
            self.rest(replica, now_s)

    def stop(self, replica: Replica, now_s: float) -> None:
        """It has nothing to do, or makes room at once."""
        self._interrupt(replica, "the replica has nothing to do, and ends", now_s)
        if replica.state in (State.SERVING, State.DRAINING):  # it may have ended with the move
            self._roster.let(replica, Turn.IDLE, now_s)
            self.end_group(replica)

    def end_group(self, replica: Replica) -> None:
        """Whatever it did, its group is to be gone."""
        replica.idle_since_s, replica.alone, replica.embedding = None, None, None
        self._out(Stop(replica.group))

    def end_wanted(self, replica: Replica, turn: Turn, now_s: float) -> None:
        """One of which nothing runs is not wanted any more."""
        self._wanted.remove(replica)
        self._books.over(replica.group, now_s)
        replica.leaving.clear()
        self._roster.let(replica, turn, now_s)
        self._roster.forget(replica)
        self._rooms.release(replica, now_s)
