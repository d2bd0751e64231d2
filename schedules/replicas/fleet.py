"""All replicas, from their starts to their ends: what becomes of them when anything happens."""

from collections.abc import Callable, Sequence

from schedules.actions import Action, Adopt
from schedules.events import GroupFailed, GroupFound
from schedules.ledgers.books import Books
from schedules.lifecycle import State, Turn
from schedules.limits import KEEP_UP_AFTER_S, PAUSE_NODES, PAUSE_S, START_ATTEMPTS, Limits
from schedules.moving.consolidating import Consolidating
from schedules.moving.moves import Moves
from schedules.moving.seats import Seats
from schedules.replicas.attempts import Attempts
from schedules.replicas.counting import Counting
from schedules.replicas.ends import Ends
from schedules.replicas.foreseeing import Foreseeing
from schedules.replicas.heirs import Heirs
from schedules.replicas.rooms import Rooms
from schedules.replicas.roster import Roster
from schedules.replicas.starts import Starts
from schedules.replicas.waiters import Waiters
from schedules.replicas.wanted import Wanted
from schedules.service import Cold, Replica, Service
from schedules.wakes import Wakes


class Fleet:
    """See the module. How many there are is `counting`'s, where they start `starts`', and how they end `ends`'. `out` takes
    actions in their order."""

    def __init__(
        self,
        books: Books,
        wakes: Wakes,
        limits: Limits,
        prefix: str,
        waiters: Waiters,
        out: Callable[[Action], None],
    ) -> None:
        self._books, self._waiters, self._out = books, waiters, out
        self._roster = roster = Roster(prefix)
        self._wanted = wanted = Wanted(wakes, self._place, self._pause_s)
        self._rooms = rooms = Rooms(roster, books, wanted, waiters)
        self.replicas = roster.replicas
        self.ends = ends = Ends(roster, books, wakes, wanted, rooms, self._interrupt, self._fewer, out)
        self.counting = counting = Counting(
            roster, books, wakes, waiters, wanted, rooms, ends, self._place, self._hurry
        )
        self._attempts = attempts = Attempts(roster, wakes, waiters, wanted, ends, counting, out)
        heirs = Heirs(roster, books, waiters, wanted, rooms, ends, counting, out)
        self.seats = seats = Seats(books, roster.name)
        self.moves = moves = Moves(books, wakes, heirs, waiters, f"{prefix}m", limits.start_timeout_s, out)
        self.starts = Starts(
            roster, books, wakes, limits, waiters, wanted, rooms, ends, attempts, moves, seats, out
        )  # fmt: skip
        self.foreseeing = Foreseeing(wakes, counting, ends.resting, roster.idle)
        self.consolidating = Consolidating(books, wakes, moves, seats, waiters, limits)

    def _place(self, replica: Replica, now_s: float) -> bool:
        return self.starts.place(replica, now_s)

    def _hurry(self, replica: Replica, now_s: float) -> None:
        self.starts.hurry(replica, now_s)

    def _interrupt(self, replica: Replica, reason: str, now_s: float) -> None:
        self.moves.ways.interrupt(replica, reason, now_s)

    def _fewer(self, service: Service, now_s: float) -> None:
        self.counting.scale(service, now_s)
        self.counting.keep_up(service, now_s)

    def _pause_s(self) -> float:
        """Decisions take the longer the more nodes there are."""
        return PAUSE_S * max(1.0, len(self._books.nodes.view().nodes) / PAUSE_NODES)

    # ---- when room may be free

    def look(self, now_s: float) -> None:
        """Decide again for those that are to be decided again."""
        self._wanted.look(now_s)

    def stir(self) -> None:
        """Room, links or nodes may be free that were not."""
        self._wanted.stir()

    def links_free(self) -> None:
        """What a start had under way is there, or over."""
        self._wanted.hurry()

    # ---- starts

    def formed(self, group: str, now_s: float) -> None:
        replica = self.replicas.get(group)
        if replica is None or replica.state is not State.STARTING:
            return
        self._roster.let(replica, Turn.FORMED, now_s)
        if replica.behind:
            self._books.whole(group, now_s)
            self.links_free()
        self._waiters.serve(replica.service, now_s)
        self.moves.formed(replica, now_s)
        if replica.cold.over:
            self.consolidating.watch(replica, now_s)
        if replica.heir_of is None and self._books.nodes.drained(replica.nodes):
            self.ends.end_soon([replica], now_s)
        self.ends.rest(replica, now_s)
        self.stir()

    def failed(self, event: GroupFailed, now_s: float) -> None:
        """The group was not formed: it is decided again, a few times."""
        replica = self.replicas.get(event.group)
        if replica is None or replica.state is not State.STARTING:
            return
        self._books.over(event.group, now_s)
        self.links_free()
        if replica.heir_of is not None:
            self._roster.let(replica, Turn.FAILED, now_s)
            self._roster.forget(replica)
            self.moves.ways.lost(replica, event.reason, now_s)
        elif event.refused:
            self._attempts.refused(replica, event.reason, now_s)
        elif replica.attempts + 1 < START_ATTEMPTS:
            self._roster.let(replica, Turn.FAILED, now_s)
            self._roster.forget(replica)
            self.counting.again(replica, now_s)
        else:
            self._attempts.fail(replica, event.reason, now_s)
        self.moves.ways.ended(replica, now_s)
        self.stir()

    def found(self, event: GroupFound, service: Service, now_s: float) -> None:
        """A group of a front end that is gone is ours from now on."""
        if event.group in self.replicas or service.retired:
            return
        replica = Replica(event.group, service, now_s, Cold(None, now_s, over=True), placement=event.placement)
        self._roster.add(replica)
        self._roster.let(replica, Turn.PLACED, now_s)
        self._out(Adopt(event.group))

    # ---- ends

    def lost(self, group: str, cause: str, now_s: float) -> None:
        """The group can serve no more: its requests go on elsewhere, its start is tried again."""
        replica = self.replicas.get(group)
        if replica is None or replica.state not in (State.STARTING, State.SERVING, State.DRAINING):
            return
        starting, heir = replica.state is State.STARTING, replica.heir_of is not None
        short_lived = not replica.requests and now_s - replica.since_s < KEEP_UP_AFTER_S
        self._roster.let(replica, Turn.LOST, now_s)
        self._books.lost(group, now_s)
        self.links_free()
        self.ends.end_group(replica)
        self.moves.ways.lost(replica, cause, now_s)
        self._waiters.replay(replica, cause, now_s)
        self.moves.shifting.released(replica)
        service = replica.service
        if heir:
            starting = False
        if starting and replica.attempts + 1 >= START_ATTEMPTS:
            self._attempts.tell_failed(replica, cause, now_s)
            return
        if starting:
            self.counting.again(replica, now_s)
        elif short_lived and not heir:
            self.counting.keep_up_later(service, now_s)
        self.counting.scale(service, now_s)
        self.counting.keep_up(service, now_s)
        self._waiters.serve(service, now_s)

    def stopped(self, group: str, now_s: float) -> None:
        """Nothing is left of the group: who waits for its room starts."""
        replica = self.replicas.get(group)
        if replica is None or replica.state is not State.STOPPING:
            return
        self._books.over(group, now_s)
        self._roster.let(replica, Turn.STOPPED, now_s)
        self._roster.forget(replica)
        waiting = self._rooms.freed(group)
        if waiting is not None:
            self.starts.start(waiting, now_s)
        self.moves.ways.ended(replica, now_s)
        self.counting.keep_up(replica.service, now_s)
        self.stir()

    # ---- nodes

    def unplace_from(self, node: str, now_s: float) -> None:
        """Those that were to start there once there is room cannot any more."""
        for replica in [r for r in self.replicas.values() if node in r.nodes and r.state is State.WANTED]:
            self._unplace(replica, now_s)
        self.stir()

    def lose_node(self, node: str, cause: str, now_s: float) -> None:
        """All that has a stage there is lost."""
        for replica in [r for r in self.replicas.values() if node in r.nodes]:
            if replica.state is State.WANTED:
                self._unplace(replica, now_s)
                continue
            self.lost(replica.group, cause, now_s)
        self.stir()

    def _unplace(self, replica: Replica, now_s: float) -> None:
        """Where it was to start it cannot any more: it is decided again, but for one that only follows another."""
        if replica.heir_of is not None:
            self.ends.end_wanted(replica, Turn.GIVEN_UP, now_s)
            self.moves.ways.lost(replica, "the node where it was to start takes nothing any more", now_s)
            return
        self._rooms.unplace(replica, now_s)

    def make_way(self, replicas: Sequence[Replica], now_s: float) -> None:
        """They get nothing new from now on."""
        self.ends.drain(replicas, now_s)
