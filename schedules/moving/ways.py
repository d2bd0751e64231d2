"""Those that make way and those that follow, where a move does not come to its end as it was meant to, or has come to it.

Until it is switching nothing has changed for who makes way: whatever goes wrong ends its heirs, and it serves on. Once it
is, what has gone over stays there, and who cannot ends where it is.
"""

from schedules.ledgers.books import Books
from schedules.lifecycle import State
from schedules.limits import MOVE_AGAIN_S, MOVE_PATIENCE_S
from schedules.moving.closing import Closing
from schedules.moving.move import Move, Way
from schedules.moving.plan import Kind, Step
from schedules.moving.sides import Replicas
from schedules.moving.underway import Underway
from schedules.service import Replica
from schedules.wakes import Wakes


class Ways:
    """See the module."""

    def __init__(self, books: Books, wakes: Wakes, fleet: Replicas, underway: Underway, closing: Closing) -> None:
        self._books, self._wakes, self._fleet = books, wakes, fleet
        self._underway, self._closing = underway, closing

    # ---- as it is meant to be

    def be_patient(self, move: Move, now_s: float) -> None:
        """It waits for whoever carries it out, but not for ever."""
        at = move.step

        def look(then_s: float) -> None:
            if move.step is at:
                self.give_up(move, f"nobody carried it out for {MOVE_PATIENCE_S:g} s", then_s)

        self._wakes.at(now_s + MOVE_PATIENCE_S, look)

    def ready_if_whole(self, move: Move, now_s: float) -> None:
        """READY, if all that are to follow are there."""
        if move.step is Step.PREPARING and all(heir.state is State.SERVING for heir in move.heirs):
            self._underway.to(move, Step.READY)
            self.be_patient(move, now_s)

    def ended(self, replica: Replica, now_s: float) -> None:
        """Nothing is left of the replica."""
        move = self._underway.of(replica)
        if move is not None:
            for way in [way for way in move.ways if way.old is replica]:
                self._part(move, way, now_s)
        for other in list(self._underway.moves.values()):
            self._closing.end_if_over(other)

    def _part(self, move: Move, way: Way, now_s: float) -> None:
        """Its replica makes way no more, and nobody follows it."""
        move.ways.remove(way)
        self._underway.part(way.old)
        way.old.heirs.clear()
        for heir in way.heirs:
            self._underway.part(heir)
            heir.heir_of = None
            heir.stay_until_s = now_s + MOVE_AGAIN_S
            self._fleet.settle(heir, way.idle_since_s, now_s)

    # ---- replicas that are lost, or to be something else

    def lost(self, replica: Replica, reason: str, now_s: float) -> None:
        """It serves, or starts, no more. Those that follow it are wanted for its own sake then."""
        move = self._underway.of(replica)
        for other in [m for m in self._underway.switching_with(replica) if m.plan.request]:
            self._closing.end_if_over(other)
        if move is None:
            return
        if replica.heir_of is not None:
            self._without(move, replica, reason, now_s)
        elif not move.switching:
            (way,) = [way for way in move.ways if way.old is replica]
            for heir in [heir for heir in way.heirs if heir.state is State.WANTED]:
                self._abandon(way, heir, now_s)
            self._part(move, way, now_s)
            if not move.ways:
                self._underway.close(move, Step.GIVEN_UP, f"the replica that was to make way was lost: {reason}")
            else:
                self.ready_if_whole(move, now_s)

    def _without(self, move: Move, heir: Replica, reason: str, now_s: float) -> None:
        """The move goes on without one that was to follow, if it can."""
        (way,) = [way for way in move.ways if heir in way.heirs]
        way.heirs.remove(heir)
        way.old.heirs.remove(heir)
        heir.heir_of = None
        self._underway.part(heir)
        if way.heirs:
            self.ready_if_whole(move, now_s)
        elif move.plan.kind is Kind.DRAIN:
            self._drain_in_place(move, way, now_s)
        elif not move.switching:
            self.give_up(move, f"the replica that was to follow did not come: {reason}", now_s)
        elif way.old.state is State.DRAINING:
            move.ways.remove(way)
            self._keep(way, now_s)
            if not move.ways:
                self._underway.close(move, Step.GIVEN_UP, f"the replica that followed was lost: {reason}")

    def _drain_in_place(self, move: Move, way: Way, now_s: float) -> None:
        """What it has begun ends where it is."""
        self._fleet.make_way([way.old], now_s)
        self._fleet.rest(way.old, now_s)
        self.ready_if_whole(move, now_s)

    def interrupt(self, replica: Replica, reason: str, now_s: float) -> None:
        """Something else is to become of the replica than what the move has in mind."""
        move = self._underway.of(replica)
        if move is None or move.switching:
            return
        way = next(way for way in move.ways if replica is way.old or replica in way.heirs)
        if move.plan.kind is Kind.DRAIN and not way.heirs:
            return
        if move.plan.kind is Kind.DRAIN and replica is not way.old:
            for heir in list(way.heirs):
                self._abandon(way, heir, now_s)
            self._drain_in_place(move, way, now_s)
        elif move.plan.kind is Kind.DRAIN and len(move.ways) > 1:
            self._give_up_way(move, way, now_s)
            self.ready_if_whole(move, now_s)
        else:
            self.give_up(move, reason, now_s)

    # ---- moves that are not wanted any more

    def give_up(self, move: Move, reason: str, now_s: float) -> None:
        """Those that were to follow end, and what was to make way serves on; on a node that is to be left none the less, it
        ends what it has begun. Too late once the move is switching."""
        if move.switching or move.plan.move not in self._underway.moves:
            return
        ways = [] if move.plan.request else list(move.ways)
        for way in ways:
            self._give_up_way(move, way, now_s)
        self._underway.close(move, Step.GIVEN_UP, reason)
        if move.plan.kind is Kind.DRAIN and self._books.nodes.drained([move.plan.node]):
            self._fleet.make_way([way.old for way in ways], now_s)

    def given_up(self, name: str, reason: str, now_s: float) -> None:
        """As `give_up`, of a move that may be over."""
        move = self._underway.moves.get(name)
        if move is not None:
            self.give_up(move, reason, now_s)

    def undrained(self, node: str, now_s: float) -> None:
        """The node is not to be left any more: what has not begun to go stays."""
        move = self._underway.draining(node)
        if move is None:
            return
        self.give_up(move, "the node is not to be left any more", now_s)
        if move.switching:
            for way in [way for way in move.ways if not way.heirs]:
                move.ways.remove(way)
                self._keep(way, now_s)
            self._closing.end_if_over(move)

    def _give_up_way(self, move: Move, way: Way, now_s: float) -> None:
        move.ways.remove(way)
        self._underway.part(way.old)
        for heir in list(way.heirs):
            self._abandon(way, heir, now_s)
        self._keep(way, now_s)

    def _abandon(self, way: Way, heir: Replica, now_s: float) -> None:
        way.heirs.remove(heir)
        way.old.heirs.remove(heir)
        heir.heir_of = None
        self._underway.part(heir)
        self._fleet.abandon(heir, now_s)

    def _keep(self, way: Way, now_s: float) -> None:
        way.old.stay_until_s, way.old.giving_way = now_s + MOVE_AGAIN_S, False
        self._underway.part(way.old)
        if way.old.state is State.DRAINING:
            self._fleet.keep(way.old, now_s)
        self._fleet.stays(way.old, now_s)
