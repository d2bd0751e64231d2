"""The requests: who waits for which model, who runs where, and what becomes of them when that changes."""

from collections.abc import Callable
from math import inf

from schedules import events
from schedules.actions import Action, Assign, Hold, Record, Reject, Replay, Shift, Why
from schedules.facts import ModelKey
from schedules.ledgers.books import Books
from schedules.lifecycle import State
from schedules.limits import ALONE_TOKENS, ANNOUNCED_S, REPLAYS, Limits
from schedules.replicas.fleet import Fleet
from schedules.requests import Request, Stand, room_tokens
from schedules.service import Alone, Announced, Replica, Service
from schedules.wakes import Wakes

RETRY_S, LONGEST_RETRY_S = 5, 60


class Desk:
    """See the module. `services` are those of the brain, `out` takes actions in their order."""

    def __init__(
        self,
        services: dict[ModelKey, Service],
        books: Books,
        wakes: Wakes,
        limits: Limits,
        prefix: str,
        out: Callable[[Action], None],
    ) -> None:
        self._services, self._books, self._wakes, self._limits = services, books, wakes, limits
        self._do = out
        self.fleet = Fleet(books, wakes, limits, prefix, self, out)
        self.waiting = 0
        self.scheduler_away = False
        self._requests: dict[str, Request] = {}
        self._announcing: dict[str, Service] = {}

    def request(self, name: str) -> Request | None:
        """As it stands; None if it is over."""
        return self._requests.get(name)

    # ---- requests

    def announced(self, event: events.RequestAnnounced, now_s: float) -> None:
        service = self._services[event.key]
        if self._refusal(service, event.request, now_s) is not None:
            return  # it is refused when it is known whether it was right at all
        self._announcing[event.request] = service
        service.announced[event.request] = Announced(event.request, event.prompt_tokens, event.arrived_s)
        self.fleet.ends.expected(service)
        self.fleet.counting.scale(service, now_s)

    def announcement_over(self, event: events.AnnouncementOver, now_s: float) -> None:
        service = self._announcing.pop(event.request, None)
        if service is None:
            return
        announced = service.announced[event.request]
        for replica in service.replicas:
            if replica.cold.arrived_s == announced.arrived_s:
                replica.cold.text_s = now_s - announced.arrived_s
        self._wakes.at(now_s + ANNOUNCED_S, lambda then_s: self._forget_announced(service, event.request, then_s))

    def _forget_announced(self, service: Service, request: str, now_s: float) -> None:
        service.announced.pop(request, None)
        self.fleet.counting.unwanted(service, now_s)
        for replica in list(service.replicas):
            self.fleet.ends.rest(replica, now_s)
        self.forget_if_over(service)

    def arrived(self, event: events.RequestArrived, now_s: float) -> None:
        service, tokens = self._services[event.key], event.prompt_tokens + event.max_tokens
        most = service.objectives.kv_tokens
        if tokens > most:
            self._do(
                Reject(
                    event.request,
                    Why.TOO_LONG,
                    f"prompt ({event.prompt_tokens} tokens) and max_tokens ({event.max_tokens}) exceed the {most} "
                    "tokens of KV cache that a replica has here (frontend.kv_tokens)",
                )
            )
            return
        request = Request(
            event.request, event.key, event.prompt_tokens, event.max_tokens, event.arrived_s, event.deadline_s,
            room_tokens(tokens, most), now_s, not service.in_state(State.SERVING),
        )  # fmt: skip
        must_wait = bool(service.waiting) or service.taker(request.room) is None
        refusal = self._refusal(service, event.request, now_s) if must_wait and not event.more else None
        if refusal is not None:
            self._do(refusal)
            return
        service.load.arrived(now_s)
        self._hold(service, request, now_s)
        self.fleet.counting.scale(service, now_s)
        self.serve(service, now_s)
        held = self._requests.get(request.name)
        if held is not None and held.stand is Stand.HELD:
            self._do(Hold(request.name))
            self._watch_deadline(request)

    def _refusal(self, service: Service, request: str, now_s: float) -> Reject | None:
        """Why the request may not even wait."""
        name, limits = service.model.name, self._limits
        nodes = self._books.nodes
        if not nodes.view().nodes and not nodes.silent and not service.coming:
            what = (
                "the cluster's scheduler does not answer; the front end keeps trying"
                if self.scheduler_away
                else "no node is connected, so no model can be started"
            )
            return Reject(request, Why.UNAVAILABLE, what, RETRY_S)
        if service.waiting >= limits.max_held_per_model:
            what = f"{service.waiting} requests wait for {name} already"
        elif self.waiting >= limits.max_held_requests:
            what = f"{self.waiting} requests wait already"
        else:
            return None
        return Reject(request, Why.OVERLOADED, what, self._retry_after_s(service, now_s))

    def _retry_after_s(self, service: Service, now_s: float) -> int:
        """When who waits now is likely to be served, in whole seconds."""
        waits_s = service.clearing.takes_s(service.waiting_tokens, now_s) if service.in_state(State.SERVING) else None
        if waits_s is None:
            waits_s = service.last_ttft_s
        return max(1, min(LONGEST_RETRY_S, round(waits_s)))

    def _hold(self, service: Service, request: Request, now_s: float, first: bool = False) -> None:
        self._requests[request.name] = request
        if first:
            service.held.appendleft(request.name)
        else:
            service.held.append(request.name)
        service.waiting += 1
        service.waiting_tokens += request.room
        self.waiting += 1
        self._watch_held(service, now_s)

    def _unhold(self, service: Service, request: Request) -> None:
        service.waiting -= 1
        service.waiting_tokens -= request.room
        self.waiting -= 1

    def _first_held(self, service: Service) -> Request | None:
        """Who waits longest."""
        while service.held:
            request = self._requests.get(service.held[0])
            if request is not None and request.stand is Stand.HELD:
                return request
            service.held.popleft()
        return None

    def _watch_held(self, service: Service, now_s: float) -> None:
        if not service.held_wake:
            service.held_wake = True
            self._wakes.at(now_s + self._limits.start_timeout_s, lambda then_s: self._expire(service, then_s))

    def _expire(self, service: Service, now_s: float) -> None:
        """Reject who has waited as long as a start may take, where no replica is at work that would come to them."""
        service.held_wake = False
        at_work = bool(service.in_state(State.SERVING))
        while (request := self._first_held(service)) is not None:
            until_s = request.deadline_s if at_work else self._patience_s(request)
            if until_s > now_s:
                service.held_wake = True
                self._wakes.at(min(until_s, now_s + self._limits.start_timeout_s), lambda s: self._expire(service, s))
                return
            service.held.popleft()
            self._unhold(service, request)
            reasons = [replica.reason for replica in service.replicas if replica.reason]
            why = reasons[0] if reasons else f"it took longer than {self._limits.start_timeout_s:g} s"
            self._reject_unstarted(request, why)
        self.fleet.counting.unwanted(service, now_s)
        self.forget_if_over(service)

    def _patience_s(self, request: Request) -> float:
        service = self._services[request.key]
        return min(request.deadline_s, max(request.held_s, service.served_s) + self._limits.start_timeout_s)

    def _out_of_patience(self, request: Request, now_s: float) -> bool:
        """Whether it has waited for its first token as long as a start may take, with replicas that never came to it."""
        return request.cold and not request.generated and now_s >= request.held_s + self._limits.start_timeout_s

    def _watch_deadline(self, request: Request) -> None:
        if request.deadline_s != inf:
            self._wakes.at(request.deadline_s, lambda then_s: self._too_late(request.name, then_s))

    def _too_late(self, name: str, now_s: float) -> None:
        """Nobody waits for the request any more."""
        request = self._requests.get(name)
        if request is None or request.stand is not Stand.HELD:
            return
        service = self._services[request.key]
        self._unhold(service, request)
        self._reject_unstarted(request, f"nothing could be done for it by {request.deadline_s - request.arrived_s:g} s")
        self.fleet.counting.unwanted(service, now_s)
        self.forget_if_over(service)

    def _reject(self, request: Request, why: Why, sentence: str, retry_after_s: int | None = RETRY_S) -> None:
        """It is over, and nobody's any more."""
        del self._requests[request.name]
        self._do(Reject(request.name, why, sentence, retry_after_s))

    def _reject_unstarted(self, request: Request, reason: str) -> None:
        """No replica came to it, or none that came to its end."""
        name = request.key.name
        if request.generated:
            what = f"the replica of {name} was lost {request.attempts} time(s), and it cannot be continued: {reason}"
            self._reject(request, Why.INTERRUPTED, what, None)
        else:
            self._reject(request, Why.UNAVAILABLE, f"{name} could not be started: {reason}")

    def progressed(self, event: events.RequestProgressed, now_s: float) -> None:
        request = self._requests.get(event.request)
        if request is None or request.group != event.group:
            return
        replica = self.fleet.replicas[event.group]
        self._requests[event.request] = request.progressed(event.tokens)
        if not replica.cold.over:
            self._first_token(replica, request, now_s)
        alone = replica.alone
        if alone is not None:
            alone.last_s = now_s
            alone.tokens += event.tokens
        elif len(replica.requests) == 1 and request.attempts == 1 and not request.generated:
            replica.alone = Alone(event.request, now_s, now_s, event.tokens)

    def _first_token(self, replica: Replica, request: Request, now_s: float) -> None:
        cold = replica.cold
        cold.over = True
        self._books.first_token(replica.group, now_s)
        self.fleet.links_free()
        self.fleet.consolidating.watch(replica, now_s)
        decision = cold.decision
        if decision is None:
            return
        cold.decision = decision.without_losers
        if request.generated or cold.arrived_s is None or replica.placement is None:
            return
        if _is_cold(request, replica):
            service = replica.service
            service.last_start_s = now_s - cold.decided_s
            ttft_s = service.last_ttft_s = now_s - cold.arrived_s
            self._do(
                Record(
                    replica.group, service.key, replica.placement, decision, cold.arrived_s,
                    cold.wanted_s, cold.decided_s, ttft_s, cold.text_s,
                )
            )  # fmt: skip

    def ended(self, event: events.RequestEnded | events.RequestLeft, now_s: float) -> None:
        request = self._requests.pop(event.request, None)
        if request is None:
            return
        service = self._services[request.key]
        if request.stand is not Stand.HELD:
            service.load.answered(request.generated)
            self._release(service, request, now_s)
        else:
            self._unhold(service, request)
            self.fleet.counting.unwanted(service, now_s)
            self.forget_if_over(service)

    def refused(self, event: events.RequestRefused, now_s: float) -> None:
        request = self._requests.get(event.request)
        if request is None or request.group != event.group:
            return
        self._reject(request, Why.UNAVAILABLE, f"the replica refused the request: {event.reason}", None)
        self._release(self._services[request.key], request, now_s)

    def broke(self, event: events.RequestBroke, now_s: float) -> None:
        """Streams end before their last token with their group, and with nothing else."""
        request = self._requests.get(event.request)
        if request is not None and request.group == event.group:
            self.fleet.lost(event.group, event.cause, now_s)

    def _release(self, service: Service, request: Request, now_s: float) -> None:
        """The request is not its replica's any more, nor that's to which it was on its way."""
        replica = self.fleet.replicas[request.group]
        service.clearing.add(request.room, now_s)
        self._learn_hop(replica, request)
        self._free(replica, request)
        arriving = self._unshift(request)
        self._freed([replica, *arriving], now_s)

    def _free(self, replica: Replica, request: Request) -> None:
        del replica.requests[request.name]
        replica.used_tokens -= request.room

    def _unshift(self, request: Request) -> list[Replica]:
        """It has no room any more where it was to go; that replica, if there was one."""
        replica = self.fleet.replicas.get(request.to)
        if replica is None or replica.arriving.pop(request.name, None) is None:
            return []
        self._free(replica, request)
        return [replica]

    def _freed(self, replicas: list[Replica], now_s: float) -> None:
        """There is room at these: for those that are to move there, then for who waits; or nothing is left to do."""
        for replica in replicas:
            self.fleet.moves.shifting.released(replica)
        self.serve(replicas[0].service, now_s)
        for replica in replicas:
            self.fleet.ends.rest(replica, now_s)

    # ---- requests that go on elsewhere

    def shift(self, name: str, to: Replica, *, copy: bool) -> None:
        """It is to go on there, and has a room there from now on."""
        request = self._requests[name]
        self._requests[name] = request.shifting(to.group)
        self._arrive(to, request)
        to.arriving[name] = request.room
        self._do(Shift(name, request.group, to.group, copy))

    def _arrive(self, to: Replica, request: Request) -> None:
        to.requests[request.name] = None
        to.used_tokens += request.room
        to.alone = None
        self.fleet.ends.busy(to)

    def shifted(self, event: events.RequestShifted, now_s: float) -> None:
        request = self._requests.get(event.request)
        if request is None or request.stand is Stand.HELD or request.group != event.group:
            return
        to, old = self.fleet.replicas.get(event.to), self.fleet.replicas[event.group]
        if request.to != event.to:  # it was taken back, which came too late
            arriving = self._unshift(request)
            if to is None or to.state not in (State.SERVING, State.DRAINING):
                self._free(old, request)
                self._lose(old, request, f"{event.to}, where it went on, was lost", now_s)
                self._freed([old, *arriving], now_s)
                return
            if request.stand is Stand.SHIFTING:
                request = request.stayed()
            request = request.shifting(event.to)
            self._arrive(to, request)
        assert to is not None
        to.arriving.pop(event.request, None)
        self._requests[event.request] = request.shifted()
        old.alone = None
        self._free(old, request)
        self._freed([old, to], now_s)

    def _lose(self, replica: Replica, request: Request, cause: str, now_s: float) -> None:
        """It waits again, first of all."""
        self._hold(replica.service, request.broken(now_s), now_s, first=True)
        self._do(Replay(request.name, replica.group, request.generated, cause))
        self._watch_deadline(request)

    def stayed(self, event: events.RequestStayed, now_s: float) -> None:
        request = self._requests.get(event.request)
        if (
            request is None
            or request.stand is not Stand.SHIFTING
            or (request.group, request.to) != (event.group, event.to)
        ):
            return
        arriving = self._unshift(request)
        self._requests[event.request] = request.stayed()
        self.fleet.moves.shifting.stayed(event.request, event.group, now_s)
        if arriving:
            self._freed(arriving, now_s)

    def _learn_hop(self, replica: Replica, request: Request) -> None:
        """A request had the replica for itself: what its tokens took tells what a hop takes."""
        alone, decision = replica.alone, replica.cold.decision
        if alone is None or alone.request != request.name:
            return
        replica.alone = None
        chosen = decision.chosen if decision is not None else None
        if alone.tokens < ALONE_TOKENS or chosen is None or chosen.prediction is None or chosen.degree < 2:
            return
        tpot_s = (alone.last_s - alone.first_s) / (alone.tokens - 1)
        hop_s = replica.cold.hop_s + (tpot_s - chosen.prediction.tpot_s) / chosen.degree
        self._books.learned = self._books.learned.with_hop(max(0.0, hop_s))

    # ---- those who wait, as the fleet knows them

    def longest(self, service: Service) -> tuple[float, int] | None:
        """When who waits longest arrived, and with how many tokens; who is announced waits too."""
        first = self._first_held(service)
        found = [(a.arrived_s, a.prompt_tokens) for a in service.announced.values()]
        if first is not None:
            found.append((first.arrived_s, first.tokens))
        return min(found, default=None)

    def begun(self, service: Service) -> bool:
        """Whether who waits first has had a replica before, and lost it."""
        first = self._first_held(service)
        return first is not None and first.attempts > 0

    def serve(self, service: Service, now_s: float) -> None:
        """Those who wait get replicas that serve, as far as they have room, in the order of their turn. Once nobody waits,
        what was only wished for is not, and a version that was replaced goes."""
        self._serve(service)
        if not service.waiting:
            self.fleet.counting.unwanted(service, now_s)

    def _serve(self, service: Service) -> None:
        while (request := self._first_held(service)) is not None:
            replica = service.taker(request.room)
            if replica is None:
                return
            service.held.popleft()
            self._unhold(service, request)
            assigned = self._requests[request.name] = request.assigned(replica.group)
            replica.requests[assigned.name] = None
            replica.used_tokens += assigned.room
            replica.alone = None
            self.fleet.ends.busy(replica)
            self._do(Assign(assigned.name, replica.group, _is_cold(request, replica)))

    def fail(self, service: Service, reason: str) -> None:
        """No replica comes: whoever waits is told so."""
        while (request := self._first_held(service)) is not None:
            service.held.popleft()
            self._unhold(service, request)
            self._reject_unstarted(request, reason)
        self.forget_if_over(service)

    def replay(self, replica: Replica, cause: str, now_s: float) -> None:
        """What the replica had begun waits again, first of all; who was unlucky too often is told so."""
        service, names = replica.service, [name for name in replica.requests if name not in replica.arriving]
        for name in replica.arriving:
            self._requests[name] = self._requests[name].stayed()
        replica.requests.clear()
        replica.arriving.clear()
        replica.used_tokens = 0
        for name in reversed(names):
            request = self._requests[name]
            self._unshift(request)
            if request.attempts <= REPLAYS and not self._out_of_patience(request, now_s):
                self._hold(service, request.broken(now_s), now_s, first=True)
            else:
                self._reject_unstarted(request, cause)
        for name in names:
            again = self._requests.get(name)
            if again is not None:
                self._do(Replay(name, replica.group, again.generated, cause))
                self._watch_deadline(again)

    def forget_if_over(self, service: Service) -> None:
        """A version that was replaced is forgotten once nothing of it runs and nobody waits for it."""
        over = service.retired and not service.replicas and not service.waiting and not service.announced
        known = self._services.get(service.key) is service  # it may have been asked for again, and be another's now
        if over and known:
            del self._services[service.key]


def _is_cold(request: Request, replica: Replica) -> bool:
    """Whether the request had to wait for the replica to start, or was announced to it."""
    return request.cold or (not replica.cold.over and replica.cold.arrived_s == request.arrived_s)
