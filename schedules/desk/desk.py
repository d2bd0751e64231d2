"""Who comes with a request, and whether it may wait. The rest of its life is told in this package's other files."""

from collections.abc import Callable
from math import ceil

from schedules import events
from schedules.actions import Action, Hold, Reject, Why
from schedules.desk.handing import Handing
from schedules.desk.line import RETRY_S, Line
from schedules.desk.outlooks import Outlooks
from schedules.desk.patience import Patience
from schedules.desk.runs import Runs
from schedules.desk.shifts import Shifts
from schedules.facts import ModelKey
from schedules.ledgers.books import Books
from schedules.limits import ANNOUNCED_S, Limits
from schedules.replicas.fleet import Fleet
from schedules.requests import Request, Stand, room_tokens
from schedules.service import Announced, Replica, Service
from schedules.wakes import Wakes

LONGEST_RETRY_S = 60


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
        self._out = out
        self.line = Line(services, wakes, limits, self._unwanted, out)
        self.fleet = Fleet(books, wakes, limits, prefix, self, out)
        self._handing = Handing(self.line, self.fleet, out)
        self.runs = Runs(services, books, self.line, self._handing, self.fleet, out)
        self.shifts = Shifts(self.line, self._handing, self.fleet, out)
        self.outlooks = Outlooks(self.line, self.fleet, books)
        self._patience = Patience(self.line, wakes, self.fleet.ends.expected, self._forget_announced)
        self.scheduler_away = False
        self._announcing: dict[str, Service] = {}

    def _unwanted(self, service: Service, now_s: float) -> None:
        self.fleet.counting.unwanted(service, now_s)

    # ---- who comes

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
        self.line.forget_if_over(service)

    def arrived(self, event: events.RequestArrived, now_s: float) -> None:
        service, tokens = self._services[event.key], event.prompt_tokens + event.max_tokens
        most = service.objectives.kv_tokens
        if tokens > most:
            self._out(
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
            room_tokens(tokens, most), now_s, not service.serves,
        )  # fmt: skip
        must_wait = bool(service.waiting) or service.taker(request.room) is None
        refusal = self._refusal(service, event.request, now_s) if must_wait and not event.more else None
        if refusal is not None:
            self._out(refusal)
            return
        load = service.vectors if request.wants_vector else service.load
        load.arrived(now_s, more=event.more)
        self.fleet.foreseeing.asked_for(service)
        self.line.hold(service, request, now_s)
        self.fleet.counting.scale(service, now_s)
        if request.name in self.line.requests:  # else a start was decided that comes too late for it
            self._patience.look(service, request, now_s)
        self._handing.serve(service, now_s)
        held = self.line.requests.get(request.name)
        if held is not None and held.stand is Stand.HELD:
            self._out(Hold(request.name))
            self.line.watch_deadline(request)

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
        elif self.line.waiting >= limits.max_held_requests:
            what = f"{self.line.waiting} requests wait already"
        else:
            return None
        return Reject(request, Why.OVERLOADED, what, self._retry_after_s(service, now_s))

    def _retry_after_s(self, service: Service, now_s: float) -> int:
        """When who waits now is likely to be served, in whole seconds."""
        expected = service.expected
        if expected is not None:
            return max(1, min(LONGEST_RETRY_S, ceil(expected.mean_s - now_s)))
        waits_s = service.clearing.takes_s(service.waiting_tokens, now_s) if service.serves else None
        if waits_s is None:
            waits_s = service.last_ttft_s
        return max(1, min(LONGEST_RETRY_S, round(waits_s)))

    # ---- those who wait, as the fleet knows them

    def longest(self, service: Service) -> tuple[float, int] | None:
        """When who waits longest arrived, and with how many tokens; who is announced waits too."""
        return self.line.longest(service)

    def begun(self, service: Service) -> bool:
        """Whether who waits first has had a replica before, and lost it."""
        return self.line.begun(service)

    def serve(self, service: Service, now_s: float) -> None:
        """A replica may have room."""
        self._handing.serve(service, now_s)

    def placed(self, service: Service, now_s: float) -> None:
        """It is decided where a replica starts, and hence when."""
        self._patience.look_at_all(service, now_s)

    def fail(self, service: Service, reason: str) -> None:
        """No replica comes for those who wait."""
        self.line.fail(service, reason)

    def request(self, name: str) -> Request | None:
        """As it stands; None if it is over."""
        return self.line.requests.get(name)

    def shift(self, name: str, to: Replica, *, copy: bool) -> None:
        """It is to go on there, and has a room there from now on."""
        self.shifts.shift(name, to, copy=copy)

    def replay(self, replica: Replica, cause: str, now_s: float) -> None:
        """The replica's requests must go on elsewhere."""
        self.runs.replay(replica, cause, now_s)
