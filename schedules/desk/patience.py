"""Requests that will not have their first token in time, by what is predicted: they are told at once when to come back.

Nobody is refused on a guess: a start must be predicted, its first token must hardly come before the deadline even if all
goes well, and no replica may be up that could do with what others leave. Who is refused has the start nevertheless: until
they are thought to have come back it is as if they waited.
"""

from collections.abc import Callable
from math import ceil

from schedules.actions import Why
from schedules.desk.line import Line
from schedules.outlook import Expected
from schedules.requests import Request, Stand
from schedules.service import Announced, Service
from schedules.wakes import Wakes

BACK = "who was told to come back"
BACK_WITHIN_S = 10.0
"""Who was told when to come back is thought to come so long after that at most."""


class Patience:
    """See the module. `coming` is told that somebody will come for a model, and `forget` that nobody is thought to any more,
    by that name."""

    def __init__(
        self,
        line: Line,
        wakes: Wakes,
        coming: Callable[[Service], None],
        forget: Callable[[Service, str, float], None],
    ) -> None:
        self._line, self._wakes, self._coming, self._forget = line, wakes, coming, forget

    def look_at_all(self, service: Service, now_s: float) -> None:
        """Of those who wait for the model, refuse who cannot be served in time."""
        expected = service.expected
        for name in list(service.held) if expected is not None else ():
            request = self._line.requests.get(name)
            if request is not None and request.stand is Stand.HELD:
                self._refuse_if_late(service, request, expected, now_s)

    def look(self, service: Service, request: Request, now_s: float) -> None:
        """The same, of one of them."""
        self._refuse_if_late(service, request, service.expected, now_s)

    def _refuse_if_late(self, service: Service, request: Request, expected: Expected | None, now_s: float) -> None:
        if expected is None or request.generated or max(expected.best_s, now_s) <= request.deadline_s:
            return
        patience_s = request.deadline_s - request.arrived_s
        retry_after_s = max(1, ceil(expected.bad_s - patience_s - now_s))
        self._expect_back(service, request, now_s + retry_after_s + BACK_WITHIN_S)
        self._line.unhold(service, request)
        name = service.model.name
        self._line.reject(
            request,
            Why.LATE,
            f"{name} starts, and its first token is predicted {expected.mean_s - now_s:.1f} s from now, at best "
            f"{expected.best_s - now_s:.1f} s: the request waits for {patience_s:g} s. The start goes on",
            retry_after_s,
        )

    def _expect_back(self, service: Service, request: Request, until_s: float) -> None:
        service.back_until_s = max(service.back_until_s, until_s)
        if BACK not in service.announced:
            service.announced[BACK] = Announced(BACK, request.tokens, request.arrived_s)
            self._wakes.at(until_s, lambda then_s: self._over(service, then_s))
            self._coming(service)

    def _over(self, service: Service, now_s: float) -> None:
        if now_s < service.back_until_s:
            self._wakes.at(service.back_until_s, lambda then_s: self._over(service, then_s))
        else:
            self._forget(service, BACK, now_s)
