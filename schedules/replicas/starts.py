"""Where replicas start, and who makes room for them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from schedules.actions import Action, Decided, Hurry, Start
from schedules.facts import NoPlacement, Placement
from schedules.ledgers.books import Books
from schedules.lifecycle import State, Turn
from schedules.limits import (
    FOUND_WITHIN_S,
    KEEP_UP_AFTER_S,
    LONGEST_WAIT_S,
    MIGRATE_AMONG,
    RESUME_S,
    SHORTEST_WAIT_S,
    TURN_AFTER_S,
    Limits,
)
from schedules.moving.moves import Moves
from schedules.moving.plan import Kind
from schedules.moving.seats import Seats, behind
from schedules.placing.decision import Decision, Move, Running, Wait
from schedules.replicas.attempts import Attempts
from schedules.replicas.ends import Ends
from schedules.replicas.rooms import Rooms
from schedules.replicas.roster import Roster
from schedules.replicas.turns import Up, something_ends, turns_over_s
from schedules.replicas.waiters import Waiters
from schedules.replicas.wanted import Wanted
from schedules.service import Cold, Replica, Service
from schedules.wakes import Wakes


class Starts:
    """See the module. `out` takes actions in their order."""

    def __init__(
        self,
        roster: Roster,
        books: Books,
        wakes: Wakes,
        limits: Limits,
        waiters: Waiters,
        wanted: Wanted,
        rooms: Rooms,
        ends: Ends,
        attempts: Attempts,
        moves: Moves,
        seats: Seats,
        out: Callable[[Action], None],
    ) -> None:
        self._roster, self._books, self._wakes, self._limits = roster, books, wakes, limits
        self._waiters, self._wanted, self._rooms, self._ends = waiters, wanted, rooms, ends
        self._attempts, self._moves, self._seats, self._out = attempts, moves, seats, out
        self._find_until_s: float | None = None

    def joined(self, now_s: float) -> None:
        """Nodes can be given orders. What they run for others that are gone is found soon, the first time."""
        if self._find_until_s is None:
            self._find_until_s = now_s + FOUND_WITHIN_S
        self._wanted.stir()

    def decide(
        self,
        service: Service,
        group: str,
        running: Sequence[Running],
        cold: Cold,
        now_s: float,
        may_migrate: bool = False,
    ) -> Decision:
        """Where the model would start now. Changes nothing."""
        longest = self._waiters.longest(service)
        objectives = service.objectives
        if cold.arrived_s is None and service.foreseen.replicas:
            objectives = replace(objectives, max_degree=1)  # there is time to come whole
        return self._books.decide(
            group,
            service.model,
            objectives,
            now_s,
            running,
            longest[1] if longest is not None else 1,
            now_s - cold.arrived_s if cold.arrived_s is not None else 0.0,
            may_migrate,
        )

    def running(self, service: Service, asked_for: bool) -> Up:
        """The replicas that are up, as a start of `service` sees them."""
        saved_s = service.foreseen.saved_s if not asked_for and service.foreseen.replicas else 0.0
        return Up(self._roster.replicas.values(), self._roster.idle, service, asked_for, under=saved_s)

    def place(self, replica: Replica, now_s: float) -> bool:
        """Decide where it starts; whether it waits no more."""
        if self._may_be_found(now_s):
            replica.until_s = self._find_until_s or 0.0
            self._stir_for(replica, replica.until_s)
            return False
        service, cold = replica.service, replica.cold
        decision = self._decide_for(replica, now_s)
        if cold.arrived_s is None and (reason := self._not_worth(service, decision)):
            decision = Decision(decision.policy, NoPlacement(reason), decision.candidates)
        cold.decision, cold.decided_s, cold.hop_s = decision, now_s, self._books.learned.corrections.hop_s
        self._out(Decided(replica.group, service.key, decision))
        match decision.outcome:
            case NoPlacement(reason):
                replica.reason, replica.until_s = reason, 0.0
                return self._without_room(replica, now_s)
            case Wait(until_s, reason):
                replica.reason = reason
                replica.until_s = min(max(until_s, now_s + SHORTEST_WAIT_S), now_s + LONGEST_WAIT_S)
                self._wakes.at(replica.until_s, lambda _then_s: self._wanted.stir())
                return False
            case Placement() as placement:
                replica.behind = cold.arrived_s is None and service.foreseen.replicas > 0
                if replica.behind:
                    decision = behind(decision)
                    assert isinstance(decision.outcome, Placement)
                    placement = decision.outcome
                self._wanted.remove(replica)
                replica.placement = placement
                self._books.order(replica.group, decision, now_s)
                self._waiters.placed(service, now_s)
                self._make_room(replica, decision.chosen.moves, now_s)  # type: ignore[union-attr]
                return True

    def _decide_for(self, replica: Replica, now_s: float) -> Decision:
        """Where it starts; if it finds no room, or is late, for whoever waits, that of heirs that nobody waits for, or of
        replicas that can run elsewhere."""
        service, cold = replica.service, replica.cold
        asked_for = cold.arrived_s is not None
        running = self.running(service, asked_for)
        decision = self.decide(service, replica.group, running, cold, now_s)
        without_room = isinstance(decision.outcome, NoPlacement)
        if without_room and asked_for and (heirs := [h for h in self._moves.underway.ahead_of_time if not h.requests]):
            leaving = [*[other for other in running if other.may_stop], *[heir.running(True) for heir in heirs]]
            instead = self.decide(service, replica.group, leaving, cold, now_s)
            if instead.chosen is not None:
                return instead
        wished = without_room or self._limits.moves_others or _is_late(service, decision)
        if asked_for and wished and self._may_migrate(replica, now_s):
            up = Up(self._roster.replicas.values(), self._roster.idle, service, True, now_s=now_s)
            instead = self.decide(service, replica.group, up, cold, now_s, may_migrate=True)
            if instead.chosen is not None and any(move.to for move in instead.chosen.moves):
                return instead
        return decision

    def _not_worth(self, service: Service, decision: Decision) -> str:
        """Why one that is foreseen, and that nobody asks for, is not to start so, if it is not."""
        saved_s, chosen = service.foreseen.saved_s, decision.chosen
        if not service.foreseen.replicas or chosen is None:
            return ""
        if chosen.lost_s * FOR_SURE > saved_s:
            return f"it would save {saved_s:.2f} s and cost others {chosen.lost_s:.2f} s"
        if chosen.degree > 1 and self._books.nodes.largest_bytes >= self._seats.whole_bytes(service):
            return "no node has room for all of it now, which one could have"
        return ""

    def _may_migrate(self, replica: Replica, now_s: float) -> bool:
        few = len(self._roster.replicas) <= MIGRATE_AMONG
        return self._limits.consolidate and few and now_s >= replica.stay_until_s

    def _may_be_found(self, now_s: float) -> bool:
        """Whether nodes run groups of others, so early that they may be without an owner."""
        if self._find_until_s is None or now_s >= self._find_until_s:
            return False
        there = (group for node in self._books.nodes.view().nodes for group in node.groups)
        return any(group not in self._roster.replicas for group in there)

    def _make_room(self, replica: Replica, moves: Iterable[Move], now_s: float) -> None:
        """Those that move make way for it: they end, or go on elsewhere."""
        for move in moves:
            if replica.placement is None:  # one before has nowhere to go
                return
            other = self._roster.replicas[move.group]
            if other.heir_of is not None:
                self._moves.ways.interrupt(other, f"{replica.service.model.name} starts, and needs the room", now_s)
                if other.state is not State.STOPPING:
                    continue
            self._rooms.wait(replica, move.group)
            if move.to:
                self._migrate(other, move.to, replica, now_s)
            elif other.state is not State.STOPPING:
                self._ends.stop(other, now_s)
        if not replica.leaving and replica.placement is not None:
            self.start(replica, now_s)

    def _migrate(self, replica: Replica, to: str, waiting: Replica, now_s: float) -> None:
        """It goes on at that node, so that the one that waits can start where it was."""
        seat = self._seats.whole(replica.service, replica.nodes, now_s, only=to)
        if seat is None:
            self._rooms.stays(replica, now_s)
            return
        reason = f"{waiting.service.model.name} starts sooner where {replica.service.model.name} is"
        self._moves.order(Kind.MIGRATE, [(replica, [seat])], reason, now_s, node=replica.nodes[0])

    def start(self, replica: Replica, now_s: float) -> None:
        assert replica.placement is not None
        self._roster.let(replica, Turn.PLACED, now_s)
        self._rooms.release(replica, now_s)
        timeout_s = self._limits.start_timeout_s
        if replica.behind and self._waiters.longest(replica.service) is not None:
            self._books.hurry(replica.group, now_s)
            replica.behind = False
        self._out(Start(replica.group, replica.service.key, replica.placement, timeout_s, replica.behind))

    def hurry(self, replica: Replica, now_s: float) -> None:
        """Somebody waits for one that makes way for others: it does so no more."""
        replica.behind = False
        self._books.hurry(replica.group, now_s)
        self._out(Hurry(replica.group, replica.nodes))

    def _without_room(self, replica: Replica, now_s: float) -> bool:
        """There is none now: it waits if there ever can be, and others make room for it in turn."""
        service = replica.service
        hopeless = self._books.hopeless(service.model, service.objectives, now_s)
        if hopeless:
            replica.reason = hopeless
            until_s = replica.since_s + RESUME_S
            waits = self._waiters.begun(service) or self._books.nodes.silent
            if now_s >= until_s or not waits:
                self._attempts.fail(replica, hopeless, now_s)
                return True
            self._stir_for(replica, until_s)
            return False
        if replica.cold.arrived_s is not None:
            ask_s = replica.since_s + TURN_AFTER_S
            if now_s >= ask_s:
                self._ask_for_turn(replica, now_s)
            else:
                self._stir_for(replica, ask_s)
        elif service.foreseen.replicas:
            replica.until_s = now_s + KEEP_UP_AFTER_S
            self._stir_for(replica, replica.until_s)
        return False

    def _stir_for(self, replica: Replica, at_s: float) -> None:
        if replica.turn_s != at_s:
            replica.turn_s = at_s
            self._wakes.at(at_s, lambda _then_s: self._wanted.stir())

    def _ask_for_turn(self, replica: Replica, now_s: float) -> None:
        """Busy replicas that have had their turn end what they have begun, and make room."""
        if self._rooms.has_turn(replica):
            return
        service = replica.service
        over_s = turns_over_s(self._roster.replicas.values(), service)
        had = frozenset(group for group, until_s in over_s.items() if until_s <= now_s)
        moves: tuple[Move, ...] = ()
        if had:
            running = Up(self._roster.replicas.values(), self._roster.idle, service, True, had)
            decision = self.decide(service, replica.group, running, replica.cold, now_s)
            moves = decision.chosen.moves if decision.chosen is not None else ()
        leaving = [self._roster.replicas[move.group] for move in moves]
        self._rooms.give_turn(replica, leaving)
        self._ends.end_soon(leaving, now_s)
        replica.stuck = (
            not moves and len(had) == len(over_s) and not something_ends(self._roster.replicas.values(), service)
        )
        if not moves and len(had) < len(over_s):
            self._stir_for(replica, min(until_s for group, until_s in over_s.items() if group not in had))


FOR_SURE = 1.5
"""So many times as much is to be saved as others lose by it: forecasts are no better than that."""


def _is_late(service: Service, decision: Decision) -> bool:
    """Whether its first token is predicted to come after it was promised, if anything was."""
    goal_s, chosen = service.objectives.ttft_s, decision.chosen
    prediction = chosen.prediction if chosen is not None else None
    return goal_s is not None and prediction is not None and prediction.ttft_bad_s > goal_s
