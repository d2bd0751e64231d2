"""Moves from their orders until they switch. What pays, and where to, is decided elsewhere."""

from collections.abc import Callable, Mapping, Sequence

from schedules.actions import Action
from schedules.ledgers.books import Books
from schedules.lifecycle import State
from schedules.moving.closing import Closing
from schedules.moving.move import Move, Way, handover_of, predicted_s
from schedules.moving.plan import Kind, Plan, Step
from schedules.moving.seats import Seat
from schedules.moving.shifting import Shifting
from schedules.moving.sides import Replicas, Shifts
from schedules.moving.underway import Underway
from schedules.moving.ways import Ways
from schedules.requests import Stand
from schedules.service import Cold, Replica
from schedules.wakes import Wakes


class Moves:
    """See the module. Which there are `underway` knows; their requests are `shifting`'s; what becomes of their replicas when
    something happens to one is `ways`'. `prefix` begins the names of moves, `out` takes actions in their order."""

    def __init__(
        self, books: Books, wakes: Wakes, fleet: Replicas, shifts: Shifts, prefix: str,
        start_timeout_s: float, out: Callable[[Action], None],
    ) -> None:  # fmt: skip
        self._books, self._fleet, self._shifts, self._start_timeout_s = books, fleet, shifts, start_timeout_s
        self.underway = Underway(prefix, out)
        self._closing = Closing(books, fleet, shifts, self.underway)
        self.shifting = Shifting(books, wakes, shifts, self.underway, self._closing)
        self.ways = Ways(books, wakes, fleet, self.underway, self._closing)

    # ---- orders

    def order(
        self,
        kind: Kind,
        ways: Sequence[tuple[Replica, Sequence[Seat]]],
        reason: str,
        now_s: float,
        *,
        node: str = "",
        wish: str = "",
        switch_s: float | None = None,
    ) -> Move:
        """The replicas make way for those that get these seats, which are taken."""
        seats = [seat for _, of_one in ways for seat in of_one]
        made = [Way(old, [self._seat(old, seat, now_s) for seat in of_one]) for old, of_one in ways]
        predicted = predicted_s(seats, switch_s)
        return self._begin(kind, made, reason, now_s, predicted, node=node, wish=wish)

    def order_request(self, request: str, old: Replica, to: Replica, reason: str, now_s: float, wish: str) -> Move:
        """The request alone goes on at a replica that serves already."""
        return self._begin(
            Kind.MIGRATE, [Way(old, [to])], reason, now_s, {}, node="", request=request, wish=wish
        )  # fmt: skip

    def _begin(
        self, kind: Kind, ways: list[Way], reason: str, now_s: float, predicted: Mapping[str, float],
        *, node: str, request: str = "", wish: str = "",
    ) -> Move:  # fmt: skip
        plan = Plan(
            self.underway.name(),
            kind,
            tuple([handover_of(way) for way in ways]),
            reason,
            node,
            request,
            wish,
            dict(predicted),
        )
        move = Move(plan, ways, now_s)
        self.underway.open(move)
        self.ways.be_patient(move, now_s)
        return move

    def _seat(self, old: Replica, seat: Seat, now_s: float) -> Replica:
        assert seat.decision.chosen is not None
        cold = Cold(None, now_s, now_s, seat.decision, self._books.learned.corrections.hop_s, over=True)
        placement = seat.decision.chosen.placement
        heir = Replica(
            seat.group, old.service, now_s, cold, placement=placement, heir_of=old, behind=True, in_place=seat.in_place
        )
        old.heirs.append(heir)
        self._fleet.add(heir)
        return heir

    # ---- steps

    def go_on(self, name: str, now_s: float) -> None:
        """Whoever carries the move out is ready for what comes next."""
        move = self.underway.moves.get(name)
        if move is not None and move.step is Step.ORDERED:
            self._prepare(move, now_s)
        elif move is not None and move.step is Step.READY:
            self._switch(move, now_s)

    def _prepare(self, move: Move, now_s: float) -> None:
        self.underway.to(move, Step.PREPARING)
        if move.plan.request and self._lost_sight(move):
            self.ways.give_up(move, self._lost_sight(move), now_s)
            return
        timeout_s = self._start_timeout_s + 2 * move.plan.predicted_s.get("ready", 0.0)
        for heir in move.heirs:
            if heir.state is State.WANTED:
                self._fleet.begin(heir, timeout_s, now_s)
        self.ways.ready_if_whole(move, now_s)

    def formed(self, replica: Replica, now_s: float) -> None:
        """All of its units are in its stages."""
        move = self.underway.of(replica)
        if move is not None and replica.heir_of is not None:
            self.ways.ready_if_whole(move, now_s)

    def _switch(self, move: Move, now_s: float) -> None:
        if move.plan.request and self._lost_sight(move):
            self.ways.give_up(move, self._lost_sight(move), now_s)
            return
        self.underway.to(move, Step.SWITCHING)
        if not move.plan.request:
            for way in move.ways:
                way.old.giving_way, way.idle_since_s = True, way.old.idle_since_s
            self._fleet.make_way([way.old for way in move.ways], now_s)
        for way in list(move.ways):
            self.shifting.shift(move, way)
            self._shifts.serve(way.old.service, now_s)
            self._fleet.rest(way.old, now_s)
        self._closing.end_if_over(move)

    def _lost_sight(self, move: Move) -> str:
        """Why the request cannot move any more; empty if it can."""
        (way,) = move.ways
        request = self._shifts.request(move.plan.request)
        if request is None:
            return "the request is over"
        if request.stand is not Stand.RUNNING or request.group != way.old.group:
            return "the request does not run where it did"
        if way.heirs[0].state is not State.SERVING:
            return "the replica that it was to go to does not serve any more"
        return ""
