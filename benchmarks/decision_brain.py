"""What the brain costs a request: arrival, assignment, first token and end, with all that follows from them.

A thousand models, of which about half find room on five hundred nodes; who is asked for follows Zipf's law, and counting
begins once room is short. Virtual time; CPU time of one thread is counted around each event. What nodes say once a second is
counted apart, a report. Python looks for garbage as it does in a front end.
"""

import heapq
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate, count

from benchmarks.report import Result
from schedules import events
from schedules.actions import Action, Assign, Start, Stop, WakeAt
from schedules.brain import Brain
from schedules.facts import Model, Node, View
from schedules.limits import Limits
from schedules.objectives import Objectives
from schedules.placing.policies import POLICIES
from serving.collecting import keep_what_is_there

GOAL_US = 50.0
REQUESTS_PER_S, RUNS_S, FORMS_S, STOPS_S, HEARD_EVERY_S = 200.0, 2.0, 0.5, 0.1, 1.0
PROMPT, ANSWER = 300, 200
DEVICE_BYTES = 18 << 30
ZIPF, MOST_UNTIL_FULL = 1.3, 100_000


class _World:
    """Obeys a brain, and counts what its events cost. `spent_s` is CPU time, `events` their number, by whose they are."""

    def __init__(self, view: View, models: Sequence[Model], objectives: Objectives) -> None:
        self.brain = Brain(POLICIES["planned"], Limits(60.0, 100_000, 10_000, consolidate=True), "g", 0.0)
        self.now_s = 0.0
        self.spent_s = {"requests": 0.0, "nodes": 0.0}
        self.events = {"requests": 0, "nodes": 0}
        self.starts = self.stops = 0
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers, self._wake_s = count(), float("inf")
        self._nodes: dict[str, Node] = {}
        self._reserved: dict[str, dict[str, int]] = {}
        self._placed: dict[str, Start] = {}
        for model in models:
            self.tell(events.ModelKnown(model, objectives))
        for node in view.nodes:
            self._nodes[node.name], self._reserved[node.name] = node, {}
            self._hear(node.name)
        self.forget()

    def forget(self) -> None:
        """Count from here on."""
        self.spent_s, self.events = dict.fromkeys(self.spent_s, 0.0), dict.fromkeys(self.events, 0)
        self.starts = self.stops = 0

    def tell(self, event: events.Event, of: str = "requests") -> None:
        started_s = time.thread_time()
        actions = self.brain.handle(event, self.now_s)
        self.spent_s[of] += time.thread_time() - started_s
        self.events[of] += 1
        for action in actions:
            self._obey(action)

    def run_until(self, at_s: float) -> None:
        while True:
            next_s = self._later[0][0] if self._later else float("inf")
            if min(next_s, self._wake_s) > at_s:
                self.now_s = at_s
                return
            if self._wake_s <= next_s:
                self.now_s, self._wake_s = max(self.now_s, self._wake_s), float("inf")
                self.tell(events.Ticked())
            else:
                self.now_s, _, happens = heapq.heappop(self._later)
                happens()

    def _at(self, after_s: float, happens: Callable[[], None]) -> None:
        heapq.heappush(self._later, (self.now_s + after_s, next(self._numbers), happens))

    def _hear(self, name: str) -> None:
        self._say(name)
        self._at(HEARD_EVERY_S, lambda: self._hear(name))

    def _say(self, name: str) -> None:
        reserved = self._reserved[name]
        node = replace(self._nodes[name], device_reserved_bytes=sum(reserved.values()), groups=tuple(reserved))
        self.tell(events.NodeReported(node, {}), "nodes")

    def _obey(self, action: Action) -> None:
        match action:
            case Assign(request, group):
                self._at(0.05, lambda: self.tell(events.RequestProgressed(request, group, 1)))
                self._at(RUNS_S, lambda: self.tell(events.RequestEnded(request)))
            case Start(group, _, placement):
                self.starts += 1
                self._placed[group] = action
                for stage in placement.stages:
                    self._reserved[stage.node][group] = stage.reserve_bytes
                self._at(FORMS_S, lambda: self.tell(events.GroupFormed(group)))
            case Stop(group):
                self.stops += 1
                self._at(STOPS_S, lambda: self._stopped(group))
            case WakeAt(at_s):
                self._wake_s = at_s
            case _:
                pass

    def _stopped(self, group: str) -> None:
        nodes = [stage.node for stage in self._placed.pop(group).placement.stages]
        for name in nodes:
            del self._reserved[name][group]
        self.tell(events.GroupStopped(group))
        for name in nodes:
            self._say(name)


def _ask(world: _World, models: Sequence[Model], weights: Sequence[float], requests: int, first: int) -> None:
    """So many requests, one after the other at random."""
    chance = random.Random(first)
    for index, model in enumerate(chance.choices(models, cum_weights=weights, k=requests)):
        world.run_until(world.now_s + chance.expovariate(REQUESTS_PER_S))
        world.tell(events.RequestArrived(f"r{first + index}", model.key, PROMPT, ANSWER, world.now_s))


def _us(world: _World, requests: int) -> float:
    return world.spent_s["requests"] / requests * 1e6


def measure_brain(view: View, models: Sequence[Model], requests: int) -> list[Result]:
    """Microseconds of CPU a request: the mixture, and requests that all find a replica; and of a node's report."""
    nodes = tuple(replace(node, device_bytes=DEVICE_BYTES, device_reserved_bytes=0) for node in view.nodes)
    objectives = Objectives(
        ttft_s=20.0,
        tpot_s=None,
        min_replicas=0,
        max_replicas=8,
        keep_alive_s=300.0,
        priority=0,
        max_degree=4,
        kv_tokens=16384,
    )
    world = _World(View(nodes, view.holders), models, objectives)
    keep_what_is_there()
    weights = list(accumulate(1.0 / rank**ZIPF for rank in range(1, len(models) + 1)))
    asked = 0
    while not world.stops and asked < MOST_UNTIL_FULL:
        _ask(world, models, weights, requests, asked)
        asked += requests
    world.forget()
    _ask(world, models, weights, requests, asked)
    mixture_us, report_us = _us(world, requests), world.spent_s["nodes"] / world.events["nodes"] * 1e6
    starts, stops = world.starts / requests, world.stops / requests
    world.run_until(world.now_s + 60.0)
    warm = [r.service.model for r in world.brain.replicas()][:50]
    world.forget()
    _ask(world, warm, list(accumulate([1.0] * len(warm))), requests, asked + requests)
    return [
        Result("brain_request_us", mixture_us, "us", "lower", GOAL_US, "goal"),
        Result("brain_starts_a_request", starts, "", "lower"),
        Result("brain_stops_a_request", stops, "", "lower"),
        Result("brain_warm_request_us", _us(world, requests), "us", "lower", GOAL_US, "goal"),
        Result("brain_report_us", report_us, "us", "lower"),
    ]
