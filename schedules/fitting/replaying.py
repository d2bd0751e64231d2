"""A history, played again: by the same brain, on the cluster as it is known, from the requests that there were."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from schedules.facts import Model, Node
from schedules.fitting.fitted import Fitted, Played
from schedules.fitting.samples import held_at_first
from schedules.fitting.seen import Happened, matched
from schedules.simulation.comparing import Comparison, Matched, compare, match
from schedules.simulation.outcomes import Outcomes
from schedules.simulation.play import play
from schedules.simulation.scenario import Offered, Scenario
from schedules.systems.system import OURS, System
from schedules.traces.happened import trace_of
from schedules.world.habits import Habits

QUIET_S = 120.0
"""Beyond the longest keep-alive and the longest answer: then nothing runs, and nothing happens until somebody asks."""

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Ground:
    """What is known of the cluster beside its history: its nodes as they report, its models and what is wanted of them, by
    name, how it is run, and the habits that are not fitted."""

    nodes: tuple[Node, ...]
    offered: Mapping[str, Offered]
    system: System = OURS
    habits: Habits = field(default_factory=Habits)
    starts_within_s: float = 600.0

    @property
    def models(self) -> Mapping[str, Model]:
        """By name."""
        return {name: offered.model for name, offered in self.offered.items()}


@dataclass(frozen=True)
class Replay:
    """A history beside what became of it when it was played: TTFT of its requests in their order, NaN where there was none or
    none is known. `starts` are those requests that a recorded start was for, with its own TTFT; those that were started on
    the same nodes both times are `alike`."""

    at_s: Values
    seen_s: Values
    seen_cold: NDArray[np.bool_]
    played_s: Values
    played_cold: NDArray[np.bool_]
    starts: Mapping[int, float]
    alike: frozenset[int]
    starts_at_s: Sequence[float]
    played_starts_at_s: Sequence[float] = field(repr=False)

    def after(self, since_s: float) -> Played:
        """How near it comes, of what arrived from then on."""
        late = self.at_s >= since_s
        starts = [place for place in self.starts if late[place] and self.played_cold[place]]
        return Played(
            _compared(self.seen_s[late & self.seen_cold], self.played_s[late & self.played_cold]),
            _matched([self.starts[place] for place in starts], self.played_s[starts]),
            _compared(self.seen_s[late], self.played_s[late & ~np.isnan(self.seen_s)]),
            sum(at_s >= since_s for at_s in self.starts_at_s),
            sum(at_s >= since_s for at_s in self.played_starts_at_s),
        )


def replay(world: Fitted, happened: Happened, ground: Ground) -> Replay:
    """What is played is all that happened, from nodes that held what they are known to have held, and report what they do;
    they are as fast as those of the world. Of time in which nothing runs a little is left. BadTrace if there were no
    requests."""
    trace = trace_of(happened.asked, happened.since_s, happened.until_s, "history")
    offered = tuple(ground.offered[name] for name in trace.models)
    longest_s = max([each.last_s or 0.0 for each in happened.asked])
    quiet_s = QUIET_S + longest_s + max(of.objectives.keep_alive_s for of in offered)
    cut_s = _cut(trace.at_s, quiet_s)
    shorter = trace.after("quiet time cut", at_s=trace.at_s - cut_s, duration_s=trace.duration_s - float(cut_s[-1]))
    nodes = as_found(ground.nodes, held_at_first(happened, ground.models))
    scenario = Scenario(
        nodes, offered, shorter, ground.system, world.habits, world.startups,
        truly={node.name: node.rates for node in world.nodes}, starts_within_s=ground.starts_within_s,
    )  # fmt: skip
    return _beside(play(scenario), happened, trace.at_s, shorter.at_s)


def as_found(nodes: Sequence[Node], held: Mapping[str, Mapping[str, str]]) -> tuple[Node, ...]:
    """The nodes with nothing on them but these units, by digest, in these tiers."""
    return tuple(
        replace(
            node, dram_used_bytes=0, ssd_used_bytes=0, device_reserved_bytes=0, busy_stage_processes=0, groups=(),
            draining=False, units=dict(held.get(node.name, {})),
        )
        for node in nodes
    )  # fmt: skip


def _cut(at_s: Values, quiet_s: float) -> Values:
    """How much earlier each arrival is, if no two of them are farther apart than that."""
    return np.cumsum(np.maximum(np.diff(at_s, prepend=0.0) - quiet_s, 0.0))


def _beside(outcomes: Outcomes, happened: Happened, at_s: Values, played_at_s: Values) -> Replay:
    seen_s = np.array([np.nan if each.ttft_s is None else each.ttft_s for each in happened.asked])
    cold = np.array([bool(each.cold) for each in happened.asked])
    starts, alike = dict[int, float](), set[int]()
    answered = [(start, start.arrived_s) for start in outcomes.starts if start.arrived_s is not None]
    where = {(start.model, round(arrived_s, 3)): start.nodes for start, arrived_s in answered}
    for start, place in matched(happened.starts, happened.asked).items():
        starts[place] = happened.starts[start].ttft_s
        if where.get((int(outcomes.model[place]), round(float(played_at_s[place]), 3))) == happened.starts[start].nodes:
            alike.add(place)
        seen_s[place] = starts[place] if np.isnan(seen_s[place]) else seen_s[place]
        cold[place] = True
    ordered_s = np.array([start.ordered_s for start in outcomes.starts])
    places = np.maximum(np.searchsorted(played_at_s, ordered_s, side="right") - 1, 0)
    return Replay(
        happened.since_s + at_s, seen_s, cold, outcomes.ttft_s, outcomes.cold, starts, frozenset(alike),
        [start.arrived_s for start in happened.starts], (happened.since_s + at_s[places]).tolist(),
    )  # fmt: skip


def _compared(seen: Values, played: Values) -> Comparison | None:
    seen, played = seen[~np.isnan(seen)], played[~np.isnan(played)]
    return compare(seen, played) if len(seen) and len(played) and seen.min() > 0.0 else None


def _matched(seen: Sequence[float], played: Values) -> Matched | None:
    there = [(one, float(other)) for one, other in zip(seen, played, strict=True) if one > 0.0 and other == other]
    return match([one for one, _ in there], [other for _, other in there]) if there else None
