"""The requests that go on elsewhere while they run."""

from collections.abc import Callable

from schedules import events
from schedules.actions import Action, Replay, Shift
from schedules.desk.handing import Handing
from schedules.desk.line import Line
from schedules.lifecycle import State
from schedules.replicas.fleet import Fleet
from schedules.requests import Request, Stand
from schedules.service import Replica


class Shifts:
    """See the module. `out` takes actions in their order."""

    def __init__(self, line: Line, handing: Handing, fleet: Fleet, out: Callable[[Action], None]) -> None:
        self._line, self._handing, self._fleet, self._out = line, handing, fleet, out

    def shift(self, name: str, to: Replica, *, copy: bool) -> None:
        """It is to go on there, and has a room there from now on."""
        request = self._line.requests[name]
        self._line.requests[name] = request.shifting(to.group)
        self._handing.arrive(to, request)
        to.arriving[name] = request.room
        self._out(Shift(name, request.group, to.group, copy))

    def shifted(self, event: events.RequestShifted, now_s: float) -> None:
        request = self._line.requests.get(event.request)
        if request is None or request.stand is Stand.HELD or request.group != event.group:
            return
        to, old = self._fleet.replicas.get(event.to), self._fleet.replicas[event.group]
        if request.to != event.to:  # it was taken back, which came too late
            arriving = self._handing.unshift(request)
            if to is None or to.state not in (State.SERVING, State.DRAINING):
                self._handing.free(old, request)
                self._lose(old, request, f"{event.to}, where it went on, was lost", now_s)
                self._handing.freed([old, *arriving], now_s)
                return
            if request.stand is Stand.SHIFTING:
                request = request.stayed()
            request = request.shifting(event.to)
            self._handing.arrive(to, request)
        assert to is not None
        to.arriving.pop(event.request, None)
        self._line.requests[event.request] = request.shifted()
        old.alone = None
        self._handing.free(old, request)
        self._handing.freed([old, to], now_s)

    def stayed(self, event: events.RequestStayed, now_s: float) -> None:
        request = self._line.requests.get(event.request)
        if (
            request is None
            or request.stand is not Stand.SHIFTING
            or (request.group, request.to) != (event.group, event.to)
        ):
            return
        arriving = self._handing.unshift(request)
        self._line.requests[event.request] = request.stayed()
        self._fleet.moves.shifting.stayed(event.request, event.group, now_s)
        if arriving:
            self._handing.freed(arriving, now_s)

    def _lose(self, replica: Replica, request: Request, cause: str, now_s: float) -> None:
        """It waits again, first of all."""
        self._line.hold(replica.service, request.broken(now_s), now_s, first=True)
        self._out(Replay(request.name, replica.group, request.generated, cause))
        self._line.watch_deadline(request)
