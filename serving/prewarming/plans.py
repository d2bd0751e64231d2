"""The plan of prewarming that is in force: at most one, the one that was made last."""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

from cluster.wire.phases import unix_s
from schedules import events
from schedules.facts import ModelKey
from schedules.foresight.plan import Kept, LeftOut, Plan
from serving.catalog import ServedModel
from serving.errors import ModelNotFound, PlanRefused, RequestError
from serving.metrics import Metrics

_log = logging.getLogger(__name__)
AHEAD_S = 60.0
"""Clocks may differ by so much: a plan from further in the future would keep all others out."""


@dataclass(frozen=True)
class _InForce:
    """A plan, and when it was made and is over by the loop's clock, which nobody sets."""

    plan: Plan
    made_s: float
    over_s: float


class Plans:
    """See the module. `tell` has the brain told; `knows` says whether it knows a version of a model, and `know` tells it of
    one; `open_model` finds a model by its name. Use from one event loop, whose time is the brain's."""

    def __init__(
        self,
        tell: Callable[[events.Event], None],
        knows: Callable[[ModelKey], bool],
        know: Callable[[ServedModel], ModelKey],
        open_model: Callable[[str], Awaitable[ServedModel]],
        metrics: Metrics,
    ) -> None:
        self._tell, self._knows, self._know, self._open = tell, knows, know, open_model
        self._metrics = metrics
        self._kept: _InForce | None = None

    @property
    def plan(self) -> Plan | None:
        """The one in force, in unix seconds as it was told."""
        there = self._there()
        return there.plan if there is not None else None

    def take(self, plan: Plan) -> None:
        """It is in force from now on. PlanRefused if it is over, or made before the one in force, or in the future."""
        now_s, unix_now_s = _now_s(), unix_s(time.monotonic())
        made_ago_s, left_s = unix_now_s - plan.made_s, plan.until_s - unix_now_s
        if left_s <= 0.0:
            raise PlanRefused(f"the plan has been over for {-left_s:.0f} s: make another")
        if made_ago_s < -AHEAD_S:
            raise PlanRefused(f"the plan is made {-made_ago_s:.0f} s from now: the clock here, or there, is wrong")
        there = self._there()
        if there is not None and plan.made_s < there.plan.made_s:
            earlier_s = there.plan.made_s - plan.made_s
            raise PlanRefused(f"the plan was made {earlier_s:.0f} s before the one that is in force")
        self._kept = _InForce(plan, now_s - made_ago_s, now_s + left_s)
        self._tell(events.PrewarmPlanned(replace(plan, made_s=now_s, until_s=now_s + left_s)))

    async def know_kept(self, plan: Plan) -> tuple[LeftOut, ...]:
        """Have the brain know the models that the plan keeps replicas of; those of which it cannot, and why."""
        return tuple([left_out for kept in plan.kept if (left_out := await self._know_kept(kept)) is not None])

    async def _know_kept(self, kept: Kept) -> LeftOut | None:
        name = kept.key.name
        if self._knows(kept.key):
            return None
        try:
            found = self._know(await self._open(name))
        except RequestError as error:
            reason = "it is not published" if isinstance(error, ModelNotFound) else str(error)
        else:
            if found == kept.key:
                return None
            reason = f"version {kept.key.digest[:12]} is planned for, and {found.digest[:12]} is published"
        _log.warning("no replica of %s is kept, as the plan says: %s", name, reason)
        return LeftOut(name, reason)

    def summary(self) -> dict[str, Any] | None:
        """What status says of the plan in force."""
        there = self._there()
        if there is None:
            return None
        plan = there.plan
        return {
            "made_at": plan.made_s,
            "until": plan.until_s,
            "stagings": len(plan.stagings),
            "moved_bytes": plan.moved_bytes,
            "kept_replicas": _replicas(plan),
            "left_out": len(plan.left_out),
        }

    def measure(self) -> None:
        """Bring the gauges up to date."""
        there = self._there()
        self._metrics.plan_age.set(math.nan if there is None else _now_s() - there.made_s)
        self._metrics.kept_replicas.set(0 if there is None else _replicas(there.plan))

    def _there(self) -> _InForce | None:
        if self._kept is not None and _now_s() >= self._kept.over_s:
            self._kept = None
        return self._kept


def _now_s() -> float:
    return asyncio.get_running_loop().time()


def _replicas(plan: Plan) -> int:
    return sum(kept.replicas for kept in plan.kept)
