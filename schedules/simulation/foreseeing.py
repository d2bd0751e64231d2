"""What the flow of prewarming does live, done to a world: from what came until now to a plan, carried out."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from schedules.brain import Brain
from schedules.events import Event, PrewarmPlanned
from schedules.facts import ModelKey
from schedules.foresight.past import past_of
from schedules.foresight.planner import Ground, Wanted, make_plan
from schedules.service import COMING
from schedules.simulation.simulate import Look
from schedules.systems.prewarms import Prewarms
from schedules.traces.trace import Trace
from schedules.world.world import World


class Foreseeing:
    """Plans every so often while `trace`, whose models are `wanted` in its order, is played from `begin_s` of the world's
    time on. Its own clock, and its plans', is the trace's."""

    def __init__(
        self, prewarms: Prewarms, trace: Trace, wanted: Sequence[Wanted], world: World, brain: Brain, begin_s: float
    ) -> None:
        self._prewarms, self._trace, self._wanted = prewarms, trace, wanted
        self._world, self._brain, self._begin_s = world, brain, begin_s
        self.plans = 0

    def looks(self) -> Iterator[Look]:
        """When it plans, to the trace's end."""
        every_s = self._prewarms.every_s
        for number in range(1, int(np.ceil(self._trace.duration_s / every_s))):
            yield Look(self._begin_s + number * every_s, self.plan)

    def plan(self, now_s: float) -> Iterable[Event]:
        """What is to be where, from now on, is said to the nodes; and to the brain, what it is to do."""
        prewarms, trace, at_s = self._prewarms, self._trace, now_s - self._begin_s
        came = int(np.searchsorted(trace.at_s, at_s))
        past = past_of(trace.models, trace.model[:came], trace.at_s[:came], 0.0, at_s)
        forecast = prewarms.forecaster.forecast(past, prewarms.horizon_s)
        view = self._world.view()
        plan = make_plan(
            Ground(view, self._wanted, forecast, self._running()), prewarms.budgets, at_s, prewarms.every_s
        )
        for node in view.nodes:
            self._world.retain(node.name, *plan.retention(node.name))
        self._world.stage(plan.stagings, now_s)
        self.plans += 1
        return (PrewarmPlanned(plan),)

    def _running(self) -> dict[ModelKey, list[tuple[str, ...]]]:
        """Nodes of what is up or coming."""
        found = dict[ModelKey, list[tuple[str, ...]]]()
        for replica in self._brain.replicas():
            if replica.state in COMING and replica.nodes:
                found.setdefault(replica.service.key, []).append(replica.nodes)
        return found
