"""How many replicas each model is wanted to have."""

from collections.abc import Callable

from schedules.ledgers.books import Books
from schedules.lifecycle import State, Turn
from schedules.limits import KEEP_UP_AFTER_S
from schedules.replicas.ends import Ends
from schedules.replicas.rooms import Rooms
from schedules.replicas.roster import Roster
from schedules.replicas.waiters import Waiters
from schedules.replicas.wanted import Wanted
from schedules.scaling import wanted_replicas
from schedules.service import Cold, Demand, Replica, Service
from schedules.wakes import Wakes


class Counting:
    """See the module. `place` decides where one starts; `hurry` is told of one that starts behind others, and that somebody
    waits for now."""

    def __init__(
        self,
        roster: Roster,
        books: Books,
        wakes: Wakes,
        waiters: Waiters,
        wanted: Wanted,
        rooms: Rooms,
        ends: Ends,
        place: Callable[[Replica, float], bool],
        hurry: Callable[[Replica, float], None],
    ) -> None:
        self._roster, self._books, self._wakes, self._waiters = roster, books, wakes, waiters
        self._wanted, self._rooms, self._ends, self._place, self._hurry = wanted, rooms, ends, place, hurry

    def scale(self, service: Service, now_s: float) -> None:
        """Want another replica if the present ones have not the memory for all that is asked for."""
        asked_for = service.waiting or service.announced
        if not asked_for and (service.retired or service.keep_up_wake):  # which tries again those that shall be there
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
        if asked_for and not service.serves:
            for replica in service.replicas:
                if replica.behind and replica.heir_of is None and replica.state is State.STARTING:
                    self._hurry(replica, now_s)

    def _busy(self, service: Service, demand: Demand, now_s: float) -> int:
        """How many whole replicas what comes keeps busy. What a pipeline becomes is decided apart."""
        speeds = self._books.speeds(demand.whole.nodes[0]) if demand.whole is not None else None
        return service.busy_replicas(speeds, demand, now_s) if speeds is not None else 0

    def _ask_for(self, service: Service, now_s: float) -> None:
        """Replicas that were wanted for nobody are for those who wait now; or for nobody again, if nobody does."""
        wanted = service.in_state(State.WANTED)
        longest = self._waiters.longest(service) if wanted else None
        for replica in wanted:
            if (replica.cold.arrived_s is None) == (longest is None) or replica.placement is not None:
                continue
            replica.cold = Cold(longest[0] if longest is not None else None, now_s)
            replica.since_s, replica.until_s = now_s, 0.0
            self._rooms.release(replica, now_s)
            self._wanted.remove(replica)
            self._wanted.add(replica)
            self._wanted.stir()

    def keep_up(self, service: Service, now_s: float) -> None:
        """Want as many replicas as the model shall at least have."""
        while not service.keep_up_wake and self._too_few(service):
            self._want(service, now_s)

    def _too_few(self, service: Service) -> bool:
        return len(service.coming) < service.least_replicas

    def keep_up_later(self, service: Service, now_s: float) -> None:
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
            self._ends.end_soon(service.replicas, now_s)
        kept = service.least_replicas
        for replica in [r for r in service.replicas if r.state is State.WANTED and r.heir_of is None]:
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
        replica = Replica(self._roster.name(), service, now_s, cold, attempts=attempts)
        self._roster.add(replica)
        self._wanted.add(replica)
        if not self._wanted.behind(replica, now_s):
            self._place(replica, now_s)
        return replica

    def again(self, replica: Replica, now_s: float) -> None:
        """Another in its place, if anybody waits for it, or it shall be there."""
        service = replica.service
        if service.waiting or service.announced or self._too_few(service):
            self._want(service, now_s, replica.attempts + 1)

    def _give_up(self, replica: Replica, now_s: float) -> None:
        """Nobody wants it any more, and nothing of it was ordered."""
        self._ends.end_wanted(replica, Turn.GIVEN_UP, now_s)
        self._wanted.stir()
