"""All replicas: which are wanted, where they start, when they end, and who makes room for whom."""

from collections.abc import Callable, Iterable, Sequence
from itertools import count

from schedules.actions import Action, Adopt, Decided, Failed, Start, Stop
from schedules.events import GroupFailed, GroupFound
from schedules.facts import NoPlacement, Placement
from schedules.ledgers.books import Books
from schedules.lifecycle import State, Turn
from schedules.limits import (
    FOUND_WITHIN_S,
    KEEP_UP_AFTER_S,
    LONGEST_WAIT_S,
    MIGRATE_AMONG,
    MOVE_AGAIN_S,
    PAUSE_NODES,
    PAUSE_S,
    REFUSED_AFTER_S,
    RESUME_S,
    SHORTEST_WAIT_S,
    START_ATTEMPTS,
    TURN_AFTER_S,
    Limits,
)
from schedules.moving.consolidating import Consolidating
from schedules.moving.moves import Moves
from schedules.moving.plan import Kind
from schedules.moving.seats import Seats
from schedules.placing.decision import Decision, Move, Running, Wait
from schedules.replicas.idle import Idle
from schedules.replicas.resting import Resting
from schedules.replicas.turns import Up, something_ends, turns_over_s
from schedules.replicas.waiters import Waiters
from schedules.replicas.wanted import Wanted
from schedules.scaling import wanted_replicas
from schedules.service import Cold, Demand, Replica, Service
from schedules.wakes import Wakes


class Fleet:
    """See the module. `out` takes actions in their order."""

    def __init__(
        self,
        books: Books,
        wakes: Wakes,
        limits: Limits,
        prefix: str,
        waiters: Waiters,
        out: Callable[[Action], None],
    ) -> None:
        self._books, self._wakes, self._limits = books, wakes, limits
        self._waiters, self._out = waiters, out
        self._prefix, self._numbers = prefix, count(1)
        self._wanted = Wanted(wakes, self._place, self._pause_s)
        self._resting = Resting(wakes, self._stop)
        self._room_for: dict[str, Replica] = {}
        self._making_room: set[Replica] = set()
        self._find_until_s: float | None = None
        self._idle = Idle()
        self.replicas: dict[str, Replica] = {}
        self.moves = Moves(books, wakes, self, waiters, f"{prefix}m", limits.start_timeout_s, out)
        self.seats = Seats(books, self._name)
        self.consolidating = Consolidating(books, wakes, self.moves, self.seats, waiters, wanted=limits.consolidate)

    def _pause_s(self) -> float:
        """Decisions take the longer the more nodes there are."""
        return PAUSE_S * max(1.0, len(self._books.nodes.view().nodes) / PAUSE_NODES)

    def joined(self, now_s: float) -> None:
        """Nodes can be given orders. What they run for others that are gone is found soon, the first time."""
        if self._find_until_s is None:
            self._find_until_s = now_s + FOUND_WITHIN_S
        self.stir()

    # ---- how many

    def scale(self, service: Service, now_s: float) -> None:
        """Want another replica if the present ones have not the memory for all that is asked for."""
        asked_for = service.waiting or service.announced
        if not asked_for and (
            service.retired or service.keep_up_wake
        ):  # those that shall be there are tried again then
            return
        demand = service.demand()
        busy = self._busy(service, demand, now_s) if demand.coming < service.objectives.max_replicas else 0
        needed = wanted_replicas(service.objectives, demand.room_tokens, busy)
        if not demand.coming and asked_for:
            needed = max(1, needed)
        if needed > demand.coming:
            self._want(service, now_s)
        elif asked_for:
            self._ask_for(service, now_s)

    def _busy(self, service: Service, demand: Demand, now_s: float) -> int:
        """How many whole replicas what comes keeps busy. What a pipeline becomes is decided apart."""
        whole: Placement | None = None
        for replica in service.replicas:
            if replica.heirs:
                return 0
            placement = replica.placement
            if whole is None and replica.state is State.SERVING and placement is not None and placement.degree == 1:
                whole = placement
        speeds = self._books.speeds(whole.stages[0].node) if whole is not None else None
        return service.busy_replicas(speeds, demand, now_s) if speeds is not None else 0

    def _ask_for(self, service: Service, now_s: float) -> None:
        """Replicas that were wanted for nobody are for those who wait now; or for nobody again, if nobody does."""
        wanted = service.in_state(State.WANTED)
        longest = self._waiters.longest(service) if wanted else None
        for replica in wanted:
            if (replica.cold.arrived_s is None) == (longest is None) or replica.placement is not None:
                continue
            replica.cold = Cold(longest[0] if longest is not None else None, now_s)
            replica.since_s = now_s
            self._release_turns(replica, now_s)
            self._wanted.remove(replica)
            self._wanted.add(replica)
            self.stir()

    def keep_up(self, service: Service, now_s: float) -> None:
        """Want as many replicas as the model shall at least have."""
        while not service.keep_up_wake and self._too_few(service):
            self._want(service, now_s)

    def _too_few(self, service: Service) -> bool:
        return not service.retired and len(service.coming) < service.objectives.min_replicas

    def _keep_up_later(self, service: Service, now_s: float) -> None:
        """It could not start: that it shall be there is no reason to try again at once."""
        if not service.keep_up_wake and self._too_few(service):
            service.keep_up_wake = True
            self._wakes.at(now_s + KEEP_UP_AFTER_S, lambda then_s: self._keep_up_again(service, then_s))

    def _keep_up_again(self, service: Service, now_s: float) -> None:
        service.keep_up_wake = False
        self.keep_up(service, now_s)

    def unwanted(self, service: Service, now_s: float) -> None:
        """Nobody waits any more: what is not even ordered is given up, but for those that shall always be there; and so is a
        version that was replaced."""
        if service.retired and not service.waiting and not service.announced:
            self._end_soon(service.replicas, now_s)
        kept = 0 if service.retired else service.objectives.min_replicas
        for replica in [replica for replica in service.in_state(State.WANTED) if replica.heir_of is None]:
            if service.waiting or service.announced:
                return
            if len(service.coming) > kept:
                self._give_up(replica, now_s)
            else:
                self._ask_for(service, now_s)

    def retire(self, service: Service, now_s: float) -> None:
        """There is a newer version: the replicas of this one end when they have no requests, once nobody waits for them."""
        service.retired = True
        self.unwanted(service, now_s)

    def _want(self, service: Service, now_s: float, attempts: int = 0) -> Replica:
        """One more replica. Where it starts is decided at once, unless others have waited long for room."""
        longest = self._waiters.longest(service)
        cold = Cold(longest[0] if longest is not None else None, now_s)
        replica = Replica(self._name(), service, now_s, cold, attempts=attempts)
        service.replicas.append(replica)
        self.replicas[replica.group] = replica
        self._wanted.add(replica)
        if not self._wanted.behind(replica, now_s):
            self._place(replica, now_s)
        return replica

    def _name(self) -> str:
        return f"{self._prefix}{next(self._numbers)}"

    # ---- where

    def look(self, now_s: float) -> None:
        """Decide again for those that are to be decided again."""
        self._wanted.look(now_s)

    def stir(self) -> None:
        """Room, links or nodes may be free that were not."""
        self._wanted.stir()

    def links_free(self) -> None:
        """What a start had under way is there, or over."""
        self._wanted.hurry()

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
        return self._books.decide(
            group,
            service.model,
            service.objectives,
            now_s,
            running,
            longest[1] if longest is not None else 1,
            now_s - cold.arrived_s if cold.arrived_s is not None else 0.0,
            may_migrate,
        )

    def running(self, service: Service, asked_for: bool) -> Up:
        """The replicas that are up, as a start of `service` sees them."""
        return Up(self.replicas.values(), self._idle, service, asked_for)

    def _place(self, replica: Replica, now_s: float) -> bool:
        """Decide where it starts; whether it waits no more."""
        if self._may_be_found(now_s):
            replica.until_s = self._find_until_s or 0.0
            self._stir_for(replica, replica.until_s)
            return False
        service, cold = replica.service, replica.cold
        decision = self._decide_for(replica, now_s)
        cold.decision, cold.decided_s, cold.hop_s = decision, now_s, self._books.learned.corrections.hop_s
        self._out(Decided(replica.group, service.key, decision))
        match decision.outcome:
            case NoPlacement(reason):
                replica.reason, replica.until_s = reason, 0.0
                return self._without_room(replica, now_s)
            case Wait(until_s, reason):
                replica.reason = reason
                replica.until_s = min(max(until_s, now_s + SHORTEST_WAIT_S), now_s + LONGEST_WAIT_S)
                self._wakes.at(replica.until_s, lambda _then_s: self.stir())
                return False
            case Placement() as placement:
                self._wanted.remove(replica)
                replica.placement = placement
                self._books.order(replica.group, decision, now_s)
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
        if without_room and asked_for and (heirs := [h for h in self.moves.ahead_of_time if not h.requests]):
            leaving = [*[other for other in running if other.may_stop], *[heir.running(True) for heir in heirs]]
            instead = self.decide(service, replica.group, leaving, cold, now_s)
            if instead.chosen is not None:
                return instead
        if asked_for and (without_room or _is_late(service, decision)) and self._may_migrate(replica, now_s):
            up = Up(self.replicas.values(), self._idle, service, True, now_s=now_s)
            instead = self.decide(service, replica.group, up, cold, now_s, may_migrate=True)
            if instead.chosen is not None and any(move.to for move in instead.chosen.moves):
                return instead
        return decision

    def _may_migrate(self, replica: Replica, now_s: float) -> bool:
        few = len(self.replicas) <= MIGRATE_AMONG
        return self._limits.consolidate and few and now_s >= replica.stay_until_s

    def _may_be_found(self, now_s: float) -> bool:
        """Whether nodes run groups of others, so early that they may be without an owner."""
        if self._find_until_s is None or now_s >= self._find_until_s:
            return False
        there = (group for node in self._books.nodes.view().nodes for group in node.groups)
        return any(group not in self.replicas for group in there)

    def _make_room(self, replica: Replica, moves: Iterable[Move], now_s: float) -> None:
        """Those that move make way for it: they end, or go on elsewhere."""
        for move in moves:
            if replica.placement is None:  # one before has nowhere to go
                return
            other = self.replicas[move.group]
            if other.heir_of is not None:
                self.moves.interrupt(other, f"{replica.service.model.name} starts, and needs the room", now_s)
                if other.state is not State.STOPPING:
                    continue
            replica.leaving.add(move.group)
            self._room_for[move.group] = replica
            if move.to:
                self._migrate(other, move.to, replica, now_s)
            elif other.state is not State.STOPPING:
                self._stop(other, now_s)
        if not replica.leaving and replica.placement is not None:
            self._start(replica, now_s)

    def _migrate(self, replica: Replica, to: str, waiting: Replica, now_s: float) -> None:
        """It goes on at that node, so that the one that waits can start where it was."""
        seat = self.seats.whole(replica.service, replica.nodes, now_s, only=to)
        if seat is None:
            self.stays(replica, now_s)
            return
        reason = f"{waiting.service.model.name} starts sooner where {replica.service.model.name} is"
        self.moves.order(Kind.MIGRATE, [(replica, [seat])], reason, now_s, node=replica.nodes[0])

    def _start(self, replica: Replica, now_s: float) -> None:
        assert replica.placement is not None
        self._let(replica, Turn.PLACED, now_s)
        self._release_turns(replica, now_s)
        timeout_s = self._limits.start_timeout_s
        self._out(Start(replica.group, replica.service.key, replica.placement, timeout_s))

    # ---- room that others hold

    def _without_room(self, replica: Replica, now_s: float) -> bool:
        """There is none now: it waits if there ever can be, and others make room for it in turn."""
        service = replica.service
        hopeless = self._books.hopeless(service.model, service.objectives, now_s)
        if hopeless:
            replica.reason = hopeless
            until_s = replica.since_s + RESUME_S
            waits = self._waiters.begun(service) or self._books.nodes.silent
            if now_s >= until_s or not waits:
                self._fail(replica, hopeless, now_s)
                return True
            self._stir_for(replica, until_s)
            return False
        if replica.cold.arrived_s is not None:
            ask_s = replica.since_s + TURN_AFTER_S
            if now_s >= ask_s:
                self._ask_for_turn(replica, now_s)
            else:
                self._stir_for(replica, ask_s)
        return False

    def _stir_for(self, replica: Replica, at_s: float) -> None:
        if replica.turn_s != at_s:
            replica.turn_s = at_s
            self._wakes.at(at_s, lambda _then_s: self.stir())

    def _ask_for_turn(self, replica: Replica, now_s: float) -> None:
        """Busy replicas that have had their turn end what they have begun, and make room."""
        if any(other.turn_of is replica for other in self._making_room):
            return
        service = replica.service
        over_s = turns_over_s(self.replicas.values(), service)
        had = frozenset(group for group, until_s in over_s.items() if until_s <= now_s)
        moves: tuple[Move, ...] = ()
        if had:
            running = Up(self.replicas.values(), self._idle, service, True, had)
            decision = self.decide(service, replica.group, running, replica.cold, now_s)
            moves = decision.chosen.moves if decision.chosen is not None else ()
        leaving = [self.replicas[move.group] for move in moves]
        self._making_room.update(leaving)
        for other in leaving:
            other.turn_of = replica
        self._end_soon(leaving, now_s)
        replica.stuck = not moves and len(had) == len(over_s) and not something_ends(self.replicas.values(), service)
        if not moves and len(had) < len(over_s):
            self._stir_for(replica, min(until_s for group, until_s in over_s.items() if group not in had))

    def _release_turns(self, replica: Replica, now_s: float) -> None:
        """It needs no room any more: those that still make some for it go on as they were."""
        if not self._making_room:
            return
        for other in list(self.replicas.values()):
            if other.turn_of is not replica:
                continue
            other.turn_of = None
            self._making_room.discard(other)
            if (
                other.state is State.DRAINING
                and not other.service.retired
                and not self._books.nodes.drained(other.nodes)
                and not other.giving_way
            ):
                self._let(other, Turn.KEEP, now_s)
                self.stir()
                self._waiters.serve(other.service, now_s)

    # ---- what becomes of starts

    def formed(self, group: str, now_s: float) -> None:
        replica = self.replicas.get(group)
        if replica is None or replica.state is not State.STARTING:
            return
        self._let(replica, Turn.FORMED, now_s)
        if replica.behind:
            self._books.whole(group, now_s)
            self.links_free()
        self._waiters.serve(replica.service, now_s)
        self.moves.formed(replica, now_s)
        if replica.cold.over:
            self.consolidating.watch(replica, now_s)
        if replica.heir_of is None and self._books.nodes.drained(replica.nodes):
            self._end_soon([replica], now_s)
        self.rest(replica, now_s)
        self.stir()

    def failed(self, event: GroupFailed, now_s: float) -> None:
        """The group was not formed: it is decided again, a few times."""
        replica = self.replicas.get(event.group)
        if replica is None or replica.state is not State.STARTING:
            return
        self._books.over(event.group, now_s)
        self.links_free()
        if replica.heir_of is not None:
            self._let(replica, Turn.FAILED, now_s)
            self._forget(replica)
            self.moves.lost(replica, event.reason, now_s)
        elif event.refused:
            self._refused(replica, event.reason, now_s)
        elif replica.attempts + 1 < START_ATTEMPTS:
            self._let(replica, Turn.FAILED, now_s)
            self._forget(replica)
            self._again(replica, now_s)
        else:
            self._fail(replica, event.reason, now_s)
        self.moves.ended(replica, now_s)
        self.stir()

    def _refused(self, replica: Replica, reason: str, now_s: float) -> None:
        """A node has less room than it had said: it is decided again by what it says next, under another name."""
        del self.replicas[replica.group]
        self._let(replica, Turn.REFUSED, now_s)
        replica.group, replica.placement, replica.reason = self._name(), None, reason
        replica.until_s = now_s + REFUSED_AFTER_S
        self.replicas[replica.group] = replica
        self._wanted.add(replica)
        self._wakes.at(replica.until_s, lambda _then_s: self.stir())
        self.unwanted(replica.service, now_s)

    def _again(self, replica: Replica, now_s: float) -> None:
        """Another in its place, if anybody waits for it, or it shall be there."""
        service = replica.service
        if service.waiting or service.announced or self._too_few(service):
            self._want(service, now_s, replica.attempts + 1)

    def _fail(self, replica: Replica, reason: str, now_s: float) -> None:
        """It is not tried again for those who wait; if another replica comes they wait for that."""
        self._end_wanted(replica, Turn.FAILED if replica.state is State.STARTING else Turn.GIVEN_UP, now_s)
        self._tell_failed(replica, reason, now_s)

    def _tell_failed(self, replica: Replica, reason: str, now_s: float) -> None:
        service = replica.service
        self._out(Failed(replica.group, service.key, reason))
        if service.coming:
            self._waiters.serve(service, now_s)
        else:
            self._waiters.fail(service, reason)
        self._keep_up_later(service, now_s)

    def _give_up(self, replica: Replica, now_s: float) -> None:
        """Nobody wants it any more, and nothing of it was ordered."""
        self._end_wanted(replica, Turn.GIVEN_UP, now_s)
        self.stir()

    def _end_wanted(self, replica: Replica, turn: Turn, now_s: float) -> None:
        self._wanted.remove(replica)
        self._books.over(replica.group, now_s)
        replica.leaving.clear()
        self._let(replica, turn, now_s)
        self._forget(replica)
        self._release_turns(replica, now_s)

    # ---- ends

    def rest(self, replica: Replica, now_s: float) -> None:
        """If it has nothing to do it ends after its time to keep alive, or at once if it drains."""
        self._idle.note(replica)
        if replica.giving_way and replica.requests:
            return
        if not replica.idle and not replica.giving_way:
            return
        if replica.state is State.DRAINING:
            self._stop(replica, now_s)
        elif replica.state is State.SERVING:
            self._resting.begin(replica, now_s)
            self.stir()

    def busy(self, replica: Replica) -> None:
        """It has something to do."""
        replica.idle_since_s = None
        self._idle.note(replica)

    def expected(self, service: Service) -> None:
        """Somebody is about to come: none of its replicas is idle."""
        for replica in service.replicas:
            self._idle.note(replica)

    def _let(self, replica: Replica, turn: Turn, now_s: float) -> None:
        replica.let(turn, now_s)
        self._idle.note(replica)

    def unplace_from(self, node: str, now_s: float) -> None:
        """Those that were to start there once there is room cannot any more."""
        for replica in [r for r in self.replicas.values() if node in r.nodes and r.state is State.WANTED]:
            self._unplace(replica, now_s)
        self.stir()

    def _end_soon(self, replicas: Sequence[Replica], now_s: float) -> None:
        """They end when they are done, whatever else was to become of them."""
        ending = [replica for replica in replicas if replica.heir_of is None]
        for replica in ending:
            self.moves.interrupt(replica, "the replica is to end", now_s)
        self._drain(ending, now_s)

    def _drain(self, replicas: Sequence[Replica], now_s: float) -> None:
        """Those that serve get nothing new from now on, all of them before others are wanted in their place."""
        serving = [replica for replica in replicas if replica.state is State.SERVING]
        for replica in serving:
            self._let(replica, Turn.DRAIN, now_s)
        for replica in serving:
            self.scale(replica.service, now_s)
            self.keep_up(replica.service, now_s)
            self.rest(replica, now_s)

    def _stop(self, replica: Replica, now_s: float) -> None:
        self.moves.interrupt(replica, "the replica has nothing to do, and ends", now_s)
        self._let(replica, Turn.IDLE, now_s)
        self._end_group(replica)

    def _end_group(self, replica: Replica) -> None:
        replica.idle_since_s, replica.alone = None, None
        self._out(Stop(replica.group))

    def lost(self, group: str, cause: str, now_s: float) -> None:
        """The group can serve no more: its requests go on elsewhere, its start is tried again."""
        replica = self.replicas.get(group)
        if replica is None or replica.state not in (State.STARTING, State.SERVING, State.DRAINING):
            return
        starting, heir = replica.state is State.STARTING, replica.heir_of is not None
        short_lived = not replica.requests and now_s - replica.since_s < KEEP_UP_AFTER_S
        self._let(replica, Turn.LOST, now_s)
        self._books.lost(group, now_s)
        self.links_free()
        self._end_group(replica)
        self.moves.lost(replica, cause, now_s)
        self._waiters.replay(replica, cause, now_s)
        self.moves.released(replica)
        service = replica.service
        if heir:
            starting = False
        if starting and replica.attempts + 1 >= START_ATTEMPTS:
            self._tell_failed(replica, cause, now_s)
            return
        if starting:
            self._again(replica, now_s)
        elif short_lived and not heir:
            self._keep_up_later(service, now_s)
        self.scale(service, now_s)
        self.keep_up(service, now_s)
        self._waiters.serve(service, now_s)

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
            self._end_wanted(replica, Turn.GIVEN_UP, now_s)
            self.moves.lost(replica, "the node where it was to start takes nothing any more", now_s)
            return
        self._books.over(replica.group, now_s)
        replica.placement = None
        replica.leaving.clear()
        self._wanted.add(replica)

    def stopped(self, group: str, now_s: float) -> None:
        """Nothing is left of the group: who waits for its room starts."""
        replica = self.replicas.get(group)
        if replica is None or replica.state is not State.STOPPING:
            return
        self._books.over(group, now_s)
        self._let(replica, Turn.STOPPED, now_s)
        self._forget(replica)
        waiting = self._room_for.pop(group, None)
        if waiting is not None and group in waiting.leaving:
            waiting.leaving.discard(group)
            if not waiting.leaving:
                self._start(waiting, now_s)
        self.moves.ended(replica, now_s)
        self.keep_up(replica.service, now_s)
        self.stir()

    def found(self, event: GroupFound, service: Service, now_s: float) -> None:
        """A group of a front end that is gone is ours from now on."""
        if event.group in self.replicas or service.retired:
            return
        replica = Replica(event.group, service, now_s, Cold(None, now_s, over=True), placement=event.placement)
        service.replicas.append(replica)
        self.replicas[event.group] = replica
        self._let(replica, Turn.PLACED, now_s)
        self._out(Adopt(event.group))

    # ---- those that follow others, as moves order it

    def add(self, replica: Replica) -> None:
        """It is one of its model's from now on."""
        replica.service.replicas.append(replica)
        self.replicas[replica.group] = replica

    def begin(self, replica: Replica, timeout_s: float, now_s: float) -> None:
        """It has its room, and starts behind everything that anybody waits for."""
        assert replica.placement is not None
        self._let(replica, Turn.PLACED, now_s)
        self._out(Start(replica.group, replica.service.key, replica.placement, timeout_s, behind=True))

    def abandon(self, replica: Replica, now_s: float) -> None:
        """One that followed another is not wanted any more, whatever it is at; who runs there already ends there."""
        if replica.state is State.WANTED:
            self._end_wanted(replica, Turn.GIVEN_UP, now_s)
        elif replica.state is State.STARTING:
            self._let(replica, Turn.GIVEN_UP, now_s)
            self._books.lost(replica.group, now_s)
            self._end_group(replica)
        elif replica.state is State.SERVING and replica.requests:
            self._let(replica, Turn.DRAIN, now_s)
        elif replica.state is State.SERVING:
            self._stop(replica, now_s)
        self.stir()

    def make_way(self, replicas: Sequence[Replica], now_s: float) -> None:
        """They get nothing new from now on."""
        self._drain(replicas, now_s)

    def keep(self, replica: Replica, now_s: float) -> None:
        """It makes way no more, as far as nothing else wants it to go."""
        leaves = replica.service.retired or replica.turn_of is not None or self._books.nodes.drained(replica.nodes)
        if replica.state is State.DRAINING and not leaves:
            self._let(replica, Turn.KEEP, now_s)
            self._waiters.serve(replica.service, now_s)
        self.rest(replica, now_s)

    def settle(self, replica: Replica, idle_since_s: float | None, now_s: float) -> None:
        """It follows nobody any more: it is kept as long as the one before would have been."""
        self._idle.note(replica)
        if self._books.nodes.drained(replica.nodes):
            self._end_soon([replica], now_s)
        elif replica.state is State.SERVING and replica.idle:
            self._resting.begin(replica, now_s, idle_since_s)
        self.unwanted(replica.service, now_s)
        self.stir()

    def stays(self, replica: Replica, now_s: float) -> None:
        """It does not make room for whoever waits for that: where that starts is decided again."""
        waiting = self._room_for.pop(replica.group, None)
        if waiting is not None and replica.group in waiting.leaving:
            waiting.stay_until_s = now_s + MOVE_AGAIN_S
            self._unplace(waiting, now_s)
            self.stir()

    def _forget(self, replica: Replica) -> None:
        self._making_room.discard(replica)
        del self.replicas[replica.group]
        replica.service.replicas.remove(replica)


def _is_late(service: Service, decision: Decision) -> bool:
    """Whether its first token is predicted to come after it was promised, if anything was."""
    goal_s, chosen = service.objectives.ttft_s, decision.chosen
    prediction = chosen.prediction if chosen is not None else None
    return goal_s is not None and prediction is not None and prediction.ttft_bad_s > goal_s
