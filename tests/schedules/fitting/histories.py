"""Histories of clusters whose every constant is known: the simulator's own."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from schedules.actions import Action, Record, Start
from schedules.brain import Brain
from schedules.events import Event, NodeReported
from schedules.facts import Node, Placement
from schedules.fitting.seen import Began, Fetch, Happened
from schedules.limits import Limits
from schedules.simulation.counting import Counting
from schedules.simulation.play import LEAD_S, _inputs
from schedules.simulation.scenario import Scenario
from schedules.simulation.simulate import drive
from schedules.traces.happened import Asked
from schedules.world.world import World

BEGIN_S = 1_700_000_000.0


@dataclass
class _Watch:
    """Writes down what a front end keeps of starts, and what its nodes tell it. Groups have one stage."""

    world: World
    held: dict[str, Mapping[str, str]] = field(default_factory=dict)
    ordered: dict[str, tuple[Placement, float, Mapping[str, str]]] = field(default_factory=dict)
    starts: list[Began] = field(default_factory=list)

    def see(self, now_s: float, event: Event, actions: tuple[Action, ...]) -> None:
        if isinstance(event, NodeReported):
            self.held[event.node.name] = event.node.units
        for action in actions:
            if isinstance(action, Start):
                (node,) = action.placement.nodes
                self.ordered[action.group] = action.placement, now_s, self.held[node]
            elif isinstance(action, Record):
                self.starts.append(self._began(action))

    def _began(self, action: Record) -> Began:
        placement, ordered_s, held = self.ordered[action.group]
        times = self.world.times(action.group)
        assert times is not None
        (stage,) = placement.stages
        units = {unit.name: unit for unit in self.world._models[action.key].units}
        receive_s = self.world.habits.receive_s
        fetched_s = ordered_s if times.fetched_s is None else times.fetched_s
        fetches = []
        for name in stage.units:
            source = held.get(units[name].digest, "remote")
            size_bytes = 0 if source == "dram" else units[name].size_bytes
            fetches.append(Fetch(stage.node, name, source, size_bytes, _unix(ordered_s), _unix(fetched_s)))
        return Began(
            action.key.name, placement.nodes, _unix(action.arrived_s - receive_s), _unix(ordered_s),
            action.ttft_s + receive_s, None if times.formed_s is None else _unix(times.formed_s), fetches=tuple(fetches),
        )  # fmt: skip


def _unix(at_s: float) -> float:
    return BEGIN_S + at_s - LEAD_S


def happened_in(scenario: Scenario) -> Happened:
    """What a front end would have kept of it."""
    models = [offered.model for offered in scenario.models]
    world = World(
        scenario.nodes,
        models,
        scenario.habits,
        startups=scenario.startups,
        keeps=scenario.system.keeps,
        truly=scenario.truly,
    )
    brain = Brain(scenario.system.policy(0), Limits(600.0, 1 << 62, 1 << 62, consolidate=True), "g", 0.0)
    watch = _Watch(world)
    counting = Counting(scenario.trace, [model.key for model in models], world, LEAD_S, None)

    def see(now_s: float, event: Event, actions: tuple[Action, ...]) -> None:
        counting.see(now_s, event, actions)
        watch.see(now_s, event, actions)

    outcomes, trace = counting.outcomes(drive(brain, world, _inputs(scenario, ()), see)), scenario.trace
    asked = tuple(
        Asked(
            trace.models[trace.model[i]], BEGIN_S + float(trace.at_s[i]), int(trace.prompt_tokens[i]),
            int(trace.max_tokens[i]), int(trace.answer_tokens[i]), False, float(outcomes.ttft_s[i]),
            float(outcomes.last_s[i]), bool(outcomes.cold[i]),
        )
        for i in range(len(trace))
    )  # fmt: skip
    starts = tuple(sorted(watch.starts, key=lambda start: start.arrived_s))
    return Happened(BEGIN_S, BEGIN_S + trace.duration_s, starts, asked)


def reporting(node: Node, **means: float) -> Node:
    """The node, believing these of itself; names have underscores for points."""
    rates = {name.replace("_", "."): mean for name, mean in means.items()}
    return replace(
        node, rates={**node.rates, **{of: replace(node.rates[of], mean=mean, bad=mean) for of, mean in rates.items()}}
    )
