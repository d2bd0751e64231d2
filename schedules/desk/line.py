"""Those who wait: a line for each model, and what becomes of who has waited for too long."""

from collections.abc import Callable
from math import ceil, inf

from schedules.actions import Action, Reject, Why
from schedules.facts import ModelKey
from schedules.limits import Limits
from schedules.requests import Request, Stand
from schedules.service import Service
from schedules.wakes import Wakes

RETRY_S = 5


class Line:
    """See the module. `requests`, by name, are all that are not over, those that run too, to be changed by this package
    alone; of all models so many are `waiting`. `unwanted` is told that perhaps nobody waits for a model any more. `out` takes
    actions in their order."""

    def __init__(
        self,
        services: dict[ModelKey, Service],
        wakes: Wakes,
        limits: Limits,
        unwanted: Callable[[Service, float], None],
        out: Callable[[Action], None],
    ) -> None:
        self._services, self._wakes, self._limits = services, wakes, limits
        self._unwanted, self._out = unwanted, out
        self.requests: dict[str, Request] = {}
        self.waiting = 0

    def hold(self, service: Service, request: Request, now_s: float, first: bool = False) -> None:
        """It waits, behind all others or `first` of all."""
        self.requests[request.name] = request
        if first:
            service.held.appendleft(request.name)
        else:
            service.held.append(request.name)
        service.waiting += 1
        service.waiting_tokens += request.room
        self.waiting += 1
        self._watch_held(service, now_s)

    def unhold(self, service: Service, request: Request) -> None:
        """It is counted no more among those who wait; its name in the line is passed over."""
        service.waiting -= 1
        service.waiting_tokens -= request.room
        self.waiting -= 1

    def first(self, service: Service) -> Request | None:
        """Who waits longest."""
        while service.held:
            request = self.requests.get(service.held[0])
            if request is not None and request.stand is Stand.HELD:
                return request
            service.held.popleft()
        return None

    def longest(self, service: Service) -> tuple[float, int] | None:
        """When who waits longest arrived, and with how many tokens; who is announced waits too."""
        first = self.first(service)
        found = [(a.arrived_s, a.prompt_tokens) for a in service.announced.values()]
        if first is not None:
            found.append((first.arrived_s, first.tokens))
        return min(found, default=None)

    def begun(self, service: Service) -> bool:
        """Whether who waits first has had a replica before, and lost it."""
        first = self.first(service)
        return first is not None and first.attempts > 0

    # ---- patience

    def _watch_held(self, service: Service, now_s: float) -> None:
        if not service.held_wake:
            service.held_wake = True
            self._wakes.at(now_s + self._limits.start_timeout_s, lambda then_s: self._expire(service, then_s))

    def _expire(self, service: Service, now_s: float) -> None:
        """Reject who has waited as long as a start may take, where no replica is at work that would come to them."""
        service.held_wake = False
        at_work = service.serves
        while (request := self.first(service)) is not None:
            until_s = request.deadline_s if at_work else self._patience_s(request)
            if until_s > now_s:
                service.held_wake = True
                self._wakes.at(min(until_s, now_s + self._limits.start_timeout_s), lambda s: self._expire(service, s))
                return
            service.held.popleft()
            self.unhold(service, request)
            reasons = [replica.reason for replica in service.replicas if replica.reason]
            why = reasons[0] if reasons else f"it took longer than {self._limits.start_timeout_s:g} s"
            self.reject_unstarted(request, why)
        self._nobody_waits(service, now_s)

    def _patience_s(self, request: Request) -> float:
        service = self._services[request.key]
        return min(request.deadline_s, max(request.held_s, service.served_s) + self._limits.start_timeout_s)

    def out_of_patience(self, request: Request, now_s: float) -> bool:
        """Whether it has waited for its first token as long as a start may take, with replicas that never came to it."""
        return request.cold and not request.generated and now_s >= request.held_s + self._limits.start_timeout_s

    def watch_deadline(self, request: Request) -> None:
        """It is rejected then, if it waits still."""
        if request.deadline_s != inf:
            self._wakes.at(request.deadline_s, lambda then_s: self._too_late(request.name, then_s))

    def _too_late(self, name: str, now_s: float) -> None:
        """Nobody waits for the request any more."""
        request = self.requests.get(name)
        if request is None or request.stand is not Stand.HELD:
            return
        service = self._services[request.key]
        self.unhold(service, request)
        expected = service.expected
        retry_after_s = RETRY_S if expected is None else max(1, ceil(expected.mean_s - now_s))
        why = f"nothing could be done for it by {request.deadline_s - request.arrived_s:g} s"
        self.reject_unstarted(request, why, retry_after_s)
        self._nobody_waits(service, now_s)

    # ---- ends

    def reject(self, request: Request, why: Why, sentence: str, retry_after_s: int | None = RETRY_S) -> None:
        """It is over, and nobody's any more."""
        del self.requests[request.name]
        self._out(Reject(request.name, why, sentence, retry_after_s))

    def reject_unstarted(self, request: Request, reason: str, retry_after_s: int = RETRY_S) -> None:
        """No replica came to it, or none that came to its end."""
        name = request.key.name
        if request.generated:
            what = f"the replica of {name} was lost {request.attempts} time(s), and it cannot be continued: {reason}"
            self.reject(request, Why.INTERRUPTED, what, None)
        else:
            self.reject(request, Why.UNAVAILABLE, f"{name} could not be started: {reason}", retry_after_s)

    def fail(self, service: Service, reason: str) -> None:
        """No replica comes: whoever waits is told so."""
        while (request := self.first(service)) is not None:
            service.held.popleft()
            self.unhold(service, request)
            self.reject_unstarted(request, reason)
        self.forget_if_over(service)

    def forget_if_over(self, service: Service) -> None:
        """A version that was replaced is forgotten once nothing of it runs and nobody waits for it."""
        over = service.retired and not service.replicas and not service.waiting and not service.announced
        known = self._services.get(service.key) is service  # it may have been asked for again, and be another's now
        if over and known:
            del self._services[service.key]

    def leave(self, service: Service, request: Request, now_s: float) -> None:
        """It waits no more, and nobody wants it."""
        self.unhold(service, request)
        self._nobody_waits(service, now_s)

    def _nobody_waits(self, service: Service, now_s: float) -> None:
        self._unwanted(service, now_s)
        self.forget_if_over(service)
