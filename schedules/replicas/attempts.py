"""Starts that come to nothing: which are tried again, and who is told."""

from collections.abc import Callable

from schedules.actions import Action, Failed
from schedules.lifecycle import State, Turn
from schedules.limits import REFUSED_AFTER_S
from schedules.replicas.counting import Counting
from schedules.replicas.ends import Ends
from schedules.replicas.roster import Roster
from schedules.replicas.waiters import Waiters
from schedules.replicas.wanted import Wanted
from schedules.service import Replica
from schedules.wakes import Wakes


class Attempts:
    """See the module. `out` takes actions in their order."""

    def __init__(
        self,
        roster: Roster,
        wakes: Wakes,
        waiters: Waiters,
        wanted: Wanted,
        ends: Ends,
        counting: Counting,
        out: Callable[[Action], None],
    ) -> None:
        self._roster, self._wakes, self._waiters, self._wanted = roster, wakes, waiters, wanted
        self._ends, self._counting, self._out = ends, counting, out

    def refused(self, replica: Replica, reason: str, now_s: float) -> None:
        """A node has less room than it had said: it is decided again by what it says next, under another name."""
        self._roster.let(replica, Turn.REFUSED, now_s)
        self._roster.rename(replica)
        replica.placement, replica.reason = None, reason
        replica.until_s = now_s + REFUSED_AFTER_S
        self._wanted.add(replica)
        self._wakes.at(replica.until_s, lambda _then_s: self._wanted.stir())
        self._counting.unwanted(replica.service, now_s)

    def fail(self, replica: Replica, reason: str, now_s: float) -> None:
        """It is not tried again for those who wait; if another replica comes they wait for that."""
        self._ends.end_wanted(replica, Turn.FAILED if replica.state is State.STARTING else Turn.GIVEN_UP, now_s)
        self.tell_failed(replica, reason, now_s)

    def tell_failed(self, replica: Replica, reason: str, now_s: float) -> None:
        """Those who wait for it have no other, or are told why."""
        service = replica.service
        self._out(Failed(replica.group, service.key, reason))
        if service.coming:
            self._waiters.serve(service, now_s)
        else:
            self._waiters.fail(service, reason)
        self._counting.keep_up_later(service, now_s)
