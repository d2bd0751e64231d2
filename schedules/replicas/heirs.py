"""Those that follow others, and those that make way, as moves order it."""

from collections.abc import Callable, Sequence

from schedules.actions import Action, Start
from schedules.ledgers.books import Books
from schedules.lifecycle import State, Turn
from schedules.replicas.counting import Counting
from schedules.replicas.ends import Ends
from schedules.replicas.rooms import Rooms
from schedules.replicas.roster import Roster
from schedules.replicas.waiters import Waiters
from schedules.replicas.wanted import Wanted
from schedules.service import Replica


class Heirs:
    """The replicas, as moves ask of them. `out` takes actions in their order."""

    def __init__(
        self,
        roster: Roster,
        books: Books,
        waiters: Waiters,
        wanted: Wanted,
        rooms: Rooms,
        ends: Ends,
        counting: Counting,
        out: Callable[[Action], None],
    ) -> None:
        self._roster, self._books, self._waiters, self._wanted = roster, books, waiters, wanted
        self._rooms, self._ends, self._counting, self._out = rooms, ends, counting, out
        self.replicas = roster.replicas

    def add(self, replica: Replica) -> None:
        """It is one of its model's from now on."""
        self._roster.add(replica)

    def begin(self, replica: Replica, timeout_s: float, now_s: float) -> None:
        """It has its room, and starts behind everything that anybody waits for."""
        assert replica.placement is not None
        self._roster.let(replica, Turn.PLACED, now_s)
        in_place_of = replica.heir_of.group if replica.in_place and replica.heir_of is not None else ""
        key, placement = replica.service.key, replica.placement
        self._out(Start(replica.group, key, placement, timeout_s, behind=True, in_place_of=in_place_of))

    def abandon(self, replica: Replica, now_s: float) -> None:
        """One that followed another is not wanted any more, whatever it is at; who runs there already ends there."""
        if replica.state is State.WANTED:
            self._ends.end_wanted(replica, Turn.GIVEN_UP, now_s)
        elif replica.state is State.STARTING:
            self._roster.let(replica, Turn.GIVEN_UP, now_s)
            self._books.lost(replica.group, now_s)
            self._ends.end_group(replica)
        elif replica.state is State.SERVING and replica.requests:
            self._roster.let(replica, Turn.DRAIN, now_s)
        elif replica.state is State.SERVING:
            self._ends.stop(replica, now_s)
        self._wanted.stir()

    def make_way(self, replicas: Sequence[Replica], now_s: float) -> None:
        """They get nothing new from now on."""
        self._ends.drain(replicas, now_s)

    def keep(self, replica: Replica, now_s: float) -> None:
        """It makes way no more, as far as nothing else wants it to go."""
        leaves = replica.service.retired or replica.turn_of is not None or self._books.nodes.drained(replica.nodes)
        if replica.state is State.DRAINING and not leaves:
            self._roster.let(replica, Turn.KEEP, now_s)
            self._waiters.serve(replica.service, now_s)
        self._ends.rest(replica, now_s)

    def settle(self, replica: Replica, idle_since_s: float | None, now_s: float) -> None:
        """It follows nobody any more: it is kept as long as the one before would have been."""
        self._roster.idle.note(replica)
        if self._books.nodes.drained(replica.nodes):
            self._ends.end_soon([replica], now_s)
        elif replica.state is State.SERVING and replica.idle:
            self._ends.resting.begin(replica, now_s, idle_since_s)
        self._counting.unwanted(replica.service, now_s)
        self._wanted.stir()

    def rest(self, replica: Replica, now_s: float) -> None:
        """It may have nothing to do."""
        self._ends.rest(replica, now_s)

    def stays(self, replica: Replica, now_s: float) -> None:
        """It does not make room for whoever waits for that: where that starts is decided again."""
        self._rooms.stays(replica, now_s)
