"""The moves under way, from their orders to their ends. What pays, and where to, is decided elsewhere.

Until a move is switching nothing has changed for who makes way: whatever goes wrong ends its heirs, and it serves on. Once it
is, it is brought to its end: what has gone over stays there, and who cannot ends where it is.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol

from schedules.actions import Action, MoveAt
from schedules.ledgers.books import Books
from schedules.lifecycle import State
from schedules.limits import MOVE_AGAIN_S, MOVE_PATIENCE_S, SHIFT_AGAIN_S, SHIFTS_AT_ONCE
from schedules.moving.migration import copies
from schedules.moving.plan import Handover, Heir, Kind, Plan, Step
from schedules.moving.seats import Seat
from schedules.moving.steps import step
from schedules.requests import Request, Stand
from schedules.service import Cold, Replica, Service
from schedules.wakes import Wakes


class Shifts(Protocol):
    """The requests, as moves ask of them."""

    def request(self, name: str) -> Request | None:
        """As it stands; None if it is over."""
        ...

    def shift(self, name: str, to: Replica, *, copy: bool) -> None:
        """It is to go on there, and has a room there from now on."""
        ...

    def serve(self, service: Service, now_s: float) -> None:
        """A replica may have room."""
        ...


class Replicas(Protocol):
    """The replicas, as moves order of them."""

    replicas: dict[str, Replica]

    def add(self, replica: Replica) -> None:
        """It is one of its model's from now on."""
        ...

    def begin(self, replica: Replica, timeout_s: float, now_s: float) -> None:
        """It has its room, and starts."""
        ...

    def abandon(self, replica: Replica, now_s: float) -> None:
        """One that followed another is not wanted any more, whatever it is at; who runs there already ends there."""
        ...

    def make_way(self, replicas: Sequence[Replica], now_s: float) -> None:
        """They get nothing new from now on."""
        ...

    def keep(self, replica: Replica, now_s: float) -> None:
        """It makes way no more, as far as nothing else wants it to go."""
        ...

    def settle(self, replica: Replica, idle_since_s: float | None, now_s: float) -> None:
        """It follows nobody any more."""
        ...

    def rest(self, replica: Replica, now_s: float) -> None:
        """It may have nothing to do."""
        ...

    def stays(self, replica: Replica, now_s: float) -> None:
        """It does not make room for whoever waits for that."""
        ...


@dataclass(eq=False)
class Way:
    """One replica makes way for `heirs`. Of its requests that could not go over it is counted how often; those of `later` are
    not tried again yet."""

    old: Replica
    heirs: list[Replica]
    idle_since_s: float | None = None
    stayed: Counter[str] = field(default_factory=Counter)
    later: set[str] = field(default_factory=set)


@dataclass(eq=False)
class Move:
    """`ways` are those that are not over."""

    plan: Plan
    ways: list[Way]
    since_s: float
    step: Step = Step.ORDERED

    @property
    def switching(self) -> bool:
        return self.step is Step.SWITCHING

    @property
    def heirs(self) -> Iterator[Replica]:
        return (heir for way in self.ways for heir in way.heirs)


class Moves:
    """See the module. `prefix` begins the names of moves."""

    def __init__(
        self, books: Books, wakes: Wakes, fleet: Replicas, shifts: Shifts, prefix: str,
        start_timeout_s: float, out: Callable[[Action], None],
    ) -> None:  # fmt: skip
        self._books, self._wakes, self._fleet, self._shifts = books, wakes, fleet, shifts
        self._names, self._start_timeout_s, self._out = (f"{prefix}{n}" for n in count(1)), start_timeout_s, out
        self._moves: dict[str, Move] = {}
        self._of: dict[Replica, Move] = {}

    # ---- what is under way

    def of(self, replica: Replica) -> Move | None:
        """The move that the replica makes way or follows in."""
        return self._of.get(replica)

    def draining(self, node: str) -> Move | None:
        """The move that frees the node for an operator, or since it said so itself."""
        return next((m for m in self._moves.values() if m.plan.kind is Kind.DRAIN and m.plan.node == node), None)

    def shifting(self, request: str) -> bool:
        """Whether an operator has the request moved."""
        return any(move.plan.request == request for move in self._moves.values())

    @property
    def ahead_of_time(self) -> list[Replica]:
        """Those that follow others which serve on as if they were not there."""
        return [heir for move in self._moves.values() for heir in move.heirs if heir.ahead_of_time]

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
        predicted_s = _predicted_s(seats, switch_s)
        return self._begin(kind, made, reason, now_s, predicted_s, node=node, wish=wish)

    def order_request(self, request: str, old: Replica, to: Replica, reason: str, now_s: float, wish: str) -> Move:
        """The request alone goes on at a replica that serves already."""
        return self._begin(
            Kind.MIGRATE, [Way(old, [to])], reason, now_s, {}, node="", request=request, wish=wish
        )  # fmt: skip

    def _begin(
        self, kind: Kind, ways: list[Way], reason: str, now_s: float, predicted_s: Mapping[str, float],
        *, node: str, request: str = "", wish: str = "",
    ) -> Move:  # fmt: skip
        plan = Plan(
            next(self._names),
            kind,
            tuple([_handover(way) for way in ways]),
            reason,
            node,
            request,
            wish,
            dict(predicted_s),
        )
        move = self._moves[plan.move] = Move(plan, ways, now_s)
        if not request:
            self._of |= {way.old: move for way in ways} | dict.fromkeys(move.heirs, move)
        self._out(MoveAt(plan, move.step))
        self._be_patient(move, now_s)
        return move

    def _seat(self, old: Replica, seat: Seat, now_s: float) -> Replica:
        assert seat.decision.chosen is not None
        cold = Cold(None, now_s, now_s, seat.decision, self._books.learned.corrections.hop_s, over=True)
        placement = seat.decision.chosen.placement
        heir = Replica(seat.group, old.service, now_s, cold, placement=placement, heir_of=old, behind=True)
        old.heirs.append(heir)
        self._fleet.add(heir)
        return heir

    def _be_patient(self, move: Move, now_s: float) -> None:
        at = move.step

        def look(then_s: float) -> None:
            if move.step is at:
                self.give_up(move, f"nobody carried it out for {MOVE_PATIENCE_S:g} s", then_s)

        self._wakes.at(now_s + MOVE_PATIENCE_S, look)

    def _to(self, move: Move, to: Step, reason: str = "") -> None:
        move.step = step(move.step, to)
        self._out(MoveAt(move.plan, to, reason))

    # ---- steps

    def go_on(self, name: str, now_s: float) -> None:
        """Whoever carries the move out is ready for what comes next."""
        move = self._moves.get(name)
        if move is not None and move.step is Step.ORDERED:
            self._prepare(move, now_s)
        elif move is not None and move.step is Step.READY:
            self._switch(move, now_s)

    def _prepare(self, move: Move, now_s: float) -> None:
        self._to(move, Step.PREPARING)
        if move.plan.request and self._lost_sight(move):
            self.give_up(move, self._lost_sight(move), now_s)
            return
        timeout_s = self._start_timeout_s + 2 * move.plan.predicted_s.get("ready", 0.0)
        for heir in move.heirs:
            if heir.state is State.WANTED:
                self._fleet.begin(heir, timeout_s, now_s)
        self._ready_if_whole(move, now_s)

    def formed(self, replica: Replica, now_s: float) -> None:
        """All of its units are in its stages."""
        move = self._of.get(replica)
        if move is not None and replica.heir_of is not None:
            self._ready_if_whole(move, now_s)

    def _ready_if_whole(self, move: Move, now_s: float) -> None:
        if move.step is Step.PREPARING and all(heir.state is State.SERVING for heir in move.heirs):
            self._to(move, Step.READY)
            self._be_patient(move, now_s)

    def _switch(self, move: Move, now_s: float) -> None:
        if move.plan.request and self._lost_sight(move):
            self.give_up(move, self._lost_sight(move), now_s)
            return
        self._to(move, Step.SWITCHING)
        if not move.plan.request:
            for way in move.ways:
                way.old.giving_way, way.idle_since_s = True, way.old.idle_since_s
            self._fleet.make_way([way.old for way in move.ways], now_s)
        for way in list(move.ways):
            self._shift(move, way)
            self._shifts.serve(way.old.service, now_s)
            self._fleet.rest(way.old, now_s)
        self._end_if_over(move)

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

    # ---- requests

    def _shift(self, move: Move, way: Way) -> None:
        """As many of its requests as the heirs take in now are on their way."""
        names = [move.plan.request] if move.plan.request else list(way.old.requests)
        for name in names:
            request = self._shifts.request(name)
            if request is None or request.stand is not Stand.RUNNING or request.group != way.old.group:
                continue
            if way.stayed[name] > 1 or name in way.later:
                continue
            heir = self._taker(way, request.room)
            if heir is not None and heir.placement is not None:
                speeds = [self._books.speeds(node) for node in heir.nodes]
                copy = copies(heir.service.model, heir.placement, request.tokens, speeds)
                self._shifts.shift(name, heir, copy=copy)

    def _taker(self, way: Way, room: int) -> Replica | None:
        """The heir with least to do that has the room, and takes one more in."""
        most = way.old.service.objectives.kv_tokens
        able = [
            heir
            for heir in way.heirs
            if heir.state is State.SERVING
            and len(heir.arriving) < SHIFTS_AT_ONCE
            and heir.used_tokens + room <= most
            and not self._books.nodes.drained(heir.nodes)
        ]
        return min(able, key=lambda heir: heir.used_tokens, default=None)

    def released(self, replica: Replica) -> None:
        """A request that it had is not there any more: there may be room for others."""
        for move in self._with(replica):
            for way in list(move.ways):
                self._shift(move, way)
            if move.plan.request:
                self._end_if_over(move)

    def stayed(self, request: str, group: str, now_s: float) -> None:
        """The request could not go over; it is tried once more."""
        for move in list(self._moves.values()):
            for way in move.ways:
                if (
                    move.switching
                    and way.old.group == group
                    and (not move.plan.request or move.plan.request == request)
                ):
                    self._try_again(move, way, request, now_s)

    def _try_again(self, move: Move, way: Way, request: str, now_s: float) -> None:
        way.stayed[request] += 1
        if way.stayed[request] > 1:
            self._end_if_over(move)
            return
        way.later.add(request)

        def look(_then_s: float) -> None:
            way.later.discard(request)
            if way in move.ways and move.switching:
                self._shift(move, way)

        self._wakes.at(now_s + SHIFT_AGAIN_S, look)

    def _with(self, replica: Replica) -> list[Move]:
        """The moves that are switching and have to do with the replica; of nearly all there are none."""
        if not self._moves:
            return []
        return [m for m in self._moves.values() if m.switching and any(replica in (w.old, *w.heirs) for w in m.ways)]

    # ---- ends

    def _end_if_over(self, move: Move) -> None:
        """DONE, if nothing is left to be moved."""
        if not move.switching:
            return
        if move.plan.request:
            self._end_request(move)
        elif not move.ways and not self._runs_there(move):
            self._close(move, Step.DONE)

    def _end_request(self, move: Move) -> None:
        (way,) = move.ways
        request = self._shifts.request(move.plan.request)
        if request is not None and request.stand is not Stand.HELD and request.group == way.old.group:
            if way.stayed[request.name] > 1:
                self._close(move, Step.GIVEN_UP, "the request could not go over, and stays where it is")
            return
        there = request is not None and request.group == way.heirs[0].group
        self._close(move, Step.DONE if there else Step.GIVEN_UP, "" if there else "the request is over, or lost")

    def _runs_there(self, move: Move) -> bool:
        """Whether anything runs on the node that is left."""
        if move.plan.kind is not Kind.DRAIN or not self._books.nodes.drained([move.plan.node]):
            return False
        return any(move.plan.node in replica.nodes for replica in self._fleet.replicas.values())

    def _close(self, move: Move, to: Step, reason: str = "") -> None:
        del self._moves[move.plan.move]
        for replica in [replica for replica, of in self._of.items() if of is move]:
            del self._of[replica]
        self._to(move, to, reason)

    def ended(self, replica: Replica, now_s: float) -> None:
        """Nothing is left of the replica."""
        move = self._of.get(replica)
        if move is not None:
            for way in [way for way in move.ways if way.old is replica]:
                self._part(move, way, now_s)
        for other in list(self._moves.values()):
            self._end_if_over(other)

    def _part(self, move: Move, way: Way, now_s: float) -> None:
        """Its replica makes way no more, and nobody follows it."""
        move.ways.remove(way)
        self._of.pop(way.old, None)
        way.old.heirs.clear()
        for heir in way.heirs:
            self._of.pop(heir, None)
            heir.heir_of = None
            heir.stay_until_s = now_s + MOVE_AGAIN_S
            self._fleet.settle(heir, way.idle_since_s, now_s)

    def lost(self, replica: Replica, reason: str, now_s: float) -> None:
        """It serves, or starts, no more. Those that follow it are wanted for its own sake then."""
        move = self._of.get(replica)
        for other in [m for m in self._with(replica) if m.plan.request]:
            self._end_if_over(other)
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
                self._close(move, Step.GIVEN_UP, f"the replica that was to make way was lost: {reason}")
            else:
                self._ready_if_whole(move, now_s)

    def _without(self, move: Move, heir: Replica, reason: str, now_s: float) -> None:
        """The move goes on without one that was to follow, if it can."""
        (way,) = [way for way in move.ways if heir in way.heirs]
        way.heirs.remove(heir)
        way.old.heirs.remove(heir)
        heir.heir_of = None
        self._of.pop(heir, None)
        if way.heirs:
            self._ready_if_whole(move, now_s)
        elif move.plan.kind is Kind.DRAIN:
            self._drain_in_place(move, way, now_s)
        elif not move.switching:
            self.give_up(move, f"the replica that was to follow did not come: {reason}", now_s)
        elif way.old.state is State.DRAINING:
            move.ways.remove(way)
            self._keep(way, now_s)
            if not move.ways:
                self._close(move, Step.GIVEN_UP, f"the replica that followed was lost: {reason}")

    def _drain_in_place(self, move: Move, way: Way, now_s: float) -> None:
        """What it has begun ends where it is."""
        self._fleet.make_way([way.old], now_s)
        self._fleet.rest(way.old, now_s)
        self._ready_if_whole(move, now_s)

    def interrupt(self, replica: Replica, reason: str, now_s: float) -> None:
        """Something else is to become of the replica than what the move has in mind."""
        move = self._of.get(replica)
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
            self._ready_if_whole(move, now_s)
        else:
            self.give_up(move, reason, now_s)

    def give_up(self, move: Move, reason: str, now_s: float) -> None:
        """Those that were to follow end, and what was to make way serves on; on a node that is to be left none the less, it
        ends what it has begun. Too late once the move is switching."""
        if move.switching or move.plan.move not in self._moves:
            return
        ways = [] if move.plan.request else list(move.ways)
        for way in ways:
            self._give_up_way(move, way, now_s)
        self._close(move, Step.GIVEN_UP, reason)
        if move.plan.kind is Kind.DRAIN and self._books.nodes.drained([move.plan.node]):
            self._fleet.make_way([way.old for way in ways], now_s)

    def undrained(self, node: str, now_s: float) -> None:
        """The node is not to be left any more: what has not begun to go stays."""
        move = self.draining(node)
        if move is None:
            return
        self.give_up(move, "the node is not to be left any more", now_s)
        if move.switching:
            for way in [way for way in move.ways if not way.heirs]:
                move.ways.remove(way)
                self._keep(way, now_s)
            self._end_if_over(move)

    def given_up(self, name: str, reason: str, now_s: float) -> None:
        """As `give_up`, of a move that may be over."""
        move = self._moves.get(name)
        if move is not None:
            self.give_up(move, reason, now_s)

    def _give_up_way(self, move: Move, way: Way, now_s: float) -> None:
        move.ways.remove(way)
        self._of.pop(way.old, None)
        for heir in list(way.heirs):
            self._abandon(way, heir, now_s)
        self._keep(way, now_s)

    def _abandon(self, way: Way, heir: Replica, now_s: float) -> None:
        way.heirs.remove(heir)
        way.old.heirs.remove(heir)
        heir.heir_of = None
        self._of.pop(heir, None)
        self._fleet.abandon(heir, now_s)

    def _keep(self, way: Way, now_s: float) -> None:
        way.old.stay_until_s, way.old.giving_way = now_s + MOVE_AGAIN_S, False
        self._of.pop(way.old, None)
        if way.old.state is State.DRAINING:
            self._fleet.keep(way.old, now_s)
        self._fleet.stays(way.old, now_s)


def _handover(way: Way) -> Handover:
    assert way.old.placement is not None
    heirs = [Heir(heir.group, heir.placement) for heir in way.heirs if heir.placement is not None]
    return Handover(way.old.group, way.old.service.key, way.old.placement, tuple(heirs))


def _predicted_s(seats: Sequence[Seat], switch_s: float | None) -> dict[str, float]:
    """As far as anything is known."""
    found = dict[str, float]()
    if all(seat.ready_s is not None for seat in seats):
        found["ready"] = max([seat.ready_s or 0.0 for seat in seats], default=0.0)
    if switch_s is not None:
        found["switch"] = switch_s
    return found
