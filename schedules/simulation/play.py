"""A scenario, played: the product's own brain against the world, under virtual time."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from heapq import merge
from operator import attrgetter

from schedules.brain import Brain
from schedules.events import ModelKnown, Recalled
from schedules.foresight.planner import Wanted
from schedules.limits import Limits
from schedules.objectives import Objectives
from schedules.simulation.counting import Counting
from schedules.simulation.foreseeing import Foreseeing
from schedules.simulation.outcomes import Outcomes
from schedules.simulation.scenario import Offered, Scenario
from schedules.simulation.simulate import Input, Wish, drive
from schedules.systems.system import System
from schedules.traces.arrivals import arrivals
from schedules.world.world import World

LEAD_S = 5.0
"""So long before the trace begins its nodes are there, and its models known."""
_NO_BOUND = 1 << 62


def play(scenario: Scenario, on_progress: Callable[[int], object] | None = None) -> Outcomes:
    """What becomes of it. `on_progress` is told now and then how many requests are over."""
    system, models = scenario.system, [offered.model for offered in scenario.models]
    startups = {node.name: scenario.startups.get(node.name, system.startup) for node in scenario.nodes}
    nodes = scenario.nodes if system.peers else tuple(replace(node, peer_port=0) for node in scenario.nodes)
    world = World(
        nodes, models, scenario.habits, startups=startups, keeps=system.keeps, count_from_s=LEAD_S, truly=scenario.truly,
        terse=True,
    )  # fmt: skip
    limits = Limits(
        scenario.starts_within_s, _NO_BOUND, _NO_BOUND, system.consolidate, system.in_place, system.moves_others
    )
    brain = Brain(system.policy(scenario.seed), limits, "g", 0.0)
    foreseen: Iterable[Input] = ()
    if system.prewarms is not None:
        wanted = [Wanted(offered.model, _objectives(offered, system)) for offered in scenario.models]
        foreseen = Foreseeing(system.prewarms, scenario.trace, wanted, world, brain, LEAD_S).looks()
    counting = Counting(scenario.trace, [model.key for model in models], world, LEAD_S, on_progress)
    return counting.outcomes(drive(brain, world, _inputs(scenario, foreseen), counting.see))


def _objectives(offered: Offered, system: System) -> Objectives:
    wanted, keep_alive_s = offered.objectives, system.keep_alive_s
    return wanted if keep_alive_s is None else replace(wanted, keep_alive_s=keep_alive_s)


def _inputs(scenario: Scenario, foreseen: Iterable[Input]) -> Iterator[Input]:
    for opened, offered in enumerate(scenario.models):
        yield Wish(0.0, ModelKnown(offered.model, _objectives(offered, scenario.system), opened + 1))
    if scenario.lessons:
        yield Wish(0.0, Recalled(scenario.lessons, (scenario.habits.hop_s,)))
    troubles = [replace(trouble, at_s=LEAD_S + trouble.at_s) for trouble in scenario.troubles]
    keys = {name: offered.model.key for name, offered in zip(scenario.trace.models, scenario.models, strict=True)}
    come: Iterable[Input] = arrivals(scenario.trace, keys, LEAD_S + scenario.habits.receive_s, scenario.patience_s)
    yield from merge(sorted(troubles, key=attrgetter("at_s")), foreseen, come, key=attrgetter("at_s"))
