"""The plan of prewarming, as far as it is the brain's: which replicas are kept, and which of the others go first."""

from collections.abc import Mapping

from schedules.facts import ModelKey
from schedules.foresight.plan import Plan
from schedules.replicas.counting import Counting
from schedules.replicas.idle import Idle
from schedules.replicas.resting import Resting
from schedules.service import NOTHING_FORESEEN, Foreseen, Service
from schedules.wakes import Wakes


class Foreseeing:
    """One plan at a time, until it is over or another comes. What it keeps is started as room is free, and counts as idle
    replicas do once the plan is over."""

    def __init__(self, wakes: Wakes, counting: Counting, resting: Resting, idle: Idle) -> None:
        self._wakes, self._counting, self._resting, self._idle = wakes, counting, resting, idle
        self.plan: Plan | None = None
        self._says: Mapping[ModelKey, Foreseen] = {}

    def begin(self, plan: Plan, services: Mapping[ModelKey, Service], now_s: float) -> None:
        """It was made now, whatever its clock says. The most worth is started first."""
        self.plan = plan
        says = {key: Foreseen(worth=worth) for key, worth in plan.worth.items()}
        for kept in plan.kept:
            worth = max(plan.worth.get(kept.key, 0.0), kept.saved_s)
            says[kept.key] = Foreseen(kept.replicas, kept.saved_s, worth)
        self._change(says, services, now_s)
        until_s = now_s + max(0.0, plan.until_s - plan.made_s)
        self._wakes.at(until_s, lambda then_s: self._over(plan, services, then_s))

    def known(self, service: Service) -> None:
        """The model is news: what the plan says of it holds."""
        service.foreseen = self._says.get(service.key, NOTHING_FORESEEN)

    def asked_for(self, service: Service) -> None:
        """Since the plan was made: as calls come in bursts, one of its idle replicas is worth a start by now, as its last one
        was, if the plan thought less of it."""
        if self.plan is not None and service.foreseen.worth < service.last_start_s:
            service.foreseen = service.foreseen._replace(worth=service.last_start_s)
            self._idle.reckon(service)

    def _over(self, plan: Plan, services: Mapping[ModelKey, Service], now_s: float) -> None:
        if self.plan is plan:
            self.plan = None
            self._change({}, services, now_s)

    def _change(self, says: Mapping[ModelKey, Foreseen], services: Mapping[ModelKey, Service], now_s: float) -> None:
        self._says = says
        fewer, kept = list[Service](), list[Service]()
        for key, service in services.items():
            least = service.least_replicas
            service.foreseen = says.get(key, NOTHING_FORESEEN)
            if service.least_replicas < least:
                fewer.append(service)
            if service.foreseen.replicas:
                kept.append(service)
            self._idle.reckon(service)
        for service in fewer:
            self._counting.unwanted(service, now_s)
            for replica in list(service.replicas):
                self._resting.end_if_over(replica, now_s)
        for service in sorted(kept, key=lambda each: -each.foreseen.saved_s):
            self._counting.keep_up(service, now_s)
