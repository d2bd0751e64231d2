"""How long replicas that have nothing to do are kept."""

from collections.abc import Callable

from schedules.lifecycle import State
from schedules.service import Replica
from schedules.wakes import Wakes


class Resting:
    """Ends those that were idle for their model's time to keep alive, but for as many as it shall at least have
    (`least_replicas`). One wake a replica, however often it rests."""

    def __init__(self, wakes: Wakes, stop: Callable[[Replica, float], None]) -> None:
        self._wakes, self._stop = wakes, stop

    def begin(self, replica: Replica, now_s: float, since_s: float | None = None) -> None:
        """It has nothing to do from now on, or `since_s`, since when one that it followed had not."""
        replica.idle_since_s = now_s if since_s is None else since_s
        self._watch(replica, replica.idle_since_s + replica.service.objectives.keep_alive_s)

    def _watch(self, replica: Replica, at_s: float) -> None:
        if not replica.idle_wake:
            replica.idle_wake = True
            self._wakes.at(at_s, lambda then_s: self._reap(replica, then_s))

    def _reap(self, replica: Replica, now_s: float) -> None:
        replica.idle_wake = False
        if replica.state is not State.SERVING or replica.idle_since_s is None or not replica.idle:
            return
        keep_alive_s = replica.service.objectives.keep_alive_s
        end_s = replica.idle_since_s + keep_alive_s
        if now_s < end_s:
            self._watch(replica, end_s)
        elif not self.end_if_over(replica, now_s):
            self._watch(replica, now_s + max(1.0, keep_alive_s))

    def end_if_over(self, replica: Replica, now_s: float) -> bool:
        """It ends if it is idle for so long already, and is not one of those that are kept; whether it does."""
        service, since_s = replica.service, replica.idle_since_s
        if replica.state is not State.SERVING or since_s is None or not replica.idle:
            return False
        if now_s < since_s + service.objectives.keep_alive_s or len(service.coming) <= service.least_replicas:
            return False
        self._stop(replica, now_s)
        return True
