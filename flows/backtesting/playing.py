"""The requests that came, played once more to the nodes that there are: with nothing brought ahead, with prewarming, and with
a prewarming that knows what comes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from flows.foreseeing.make import Wish
from schedules.facts import Node
from schedules.foresight.forecast import Forecast, Forecaster
from schedules.foresight.forecasters.oracle import Oracle
from schedules.foresight.past import Past
from schedules.foresight.planner import Wanted
from schedules.simulation.outcomes import Outcomes
from schedules.simulation.play import play
from schedules.simulation.scenario import Offered, Scenario
from schedules.systems.prewarms import Prewarms
from schedules.systems.system import OURS
from schedules.traces.trace import Trace

REACTIVE, PREWARMED, KNOWING = "reactive (LRU)", "prewarmed", "oracle"
Report = Callable[[float, str], object]


@dataclass(frozen=True, eq=False)
class Remembering:
    """A method that knows, beside what a trace shows it, what came `before` the trace's begin, at `since_s` on that clock."""

    method: Forecaster
    before: Past
    since_s: float

    @property
    def name(self) -> str:
        return self.method.name

    def forecast(self, past: Past, horizon_s: float) -> Forecast:
        """Of `past.models`, in the trace's time."""
        known = self.before.before(self.since_s)
        rows = {name: row for row, name in enumerate(known.models)}
        places = [rows.get(name, -1) for name in past.models]
        earlier = np.where(np.array(places)[:, None] >= 0, known.counts[places], 0) if len(known.models) else None
        if earlier is None:
            earlier = np.zeros((len(past.models), known.minutes), np.int32)
        last_s = [max(past.last_s[row] + self.since_s, _last(known, place)) for row, place in enumerate(places)]
        counts = np.concatenate([earlier, past.counts], axis=1).astype(np.int32)
        whole = Past(past.models, counts, known.begin_s, self.since_s + past.until_s, np.array(last_s))
        return replace(self.method.forecast(whole, horizon_s), at_s=past.until_s)


def _last(known: Past, place: int) -> float:
    return float(known.last_s[place]) if place >= 0 else float("-inf")


@dataclass(frozen=True)
class Played:
    """How requests fared: percentiles of the time to the first token (of those that had one), how many waited for a start,
    and bytes that came over networks."""

    name: str
    requests: int
    cold: int
    p50_s: float
    p95_s: float
    p99_s: float
    waited_s: float
    moved_bytes: int


def play_all(
    nodes: Sequence[Node], models: Sequence[Offered], trace: Trace, prewarms: Prewarms, report: Report
) -> list[Played]:
    """Each way after the other, `report` told how far it is. Nothing is on the nodes at the begin."""
    knowing = replace(prewarms, forecaster=Oracle(trace))
    ways = ((REACTIVE, None), (PREWARMED, prewarms), (KNOWING, knowing))
    found = []
    for number, (name, way) in enumerate(ways):
        report(number / len(ways), f"playing {len(trace):,} requests: {name}")
        scenario = Scenario(tuple(map(_empty, nodes)), tuple(models), trace, replace(OURS, name=name, prewarms=way))
        found.append(_played(name, play(scenario)))
    report(1.0, "played")
    return found


def gap_closed(played: Sequence[Played]) -> float | None:
    """Of what an oracle would spare of the seconds that requests waited for starts, the share that prewarming spares; None if
    there is nothing to spare."""
    reactive, prewarmed, knowing = (each.waited_s for each in played)
    return (reactive - prewarmed) / (reactive - knowing) if reactive > knowing else None


def _empty(node: Node) -> Node:
    return replace(
        node, units={}, groups=(), dram_used_bytes=0, ssd_used_bytes=0, device_reserved_bytes=0, draining=False,
        idle_stage_processes=max(1, node.idle_stage_processes + node.busy_stage_processes), busy_stage_processes=0,
    )  # fmt: skip


def _played(name: str, outcomes: Outcomes) -> Played:
    served = outcomes.ttft_s[~np.isnan(outcomes.ttft_s)]
    p50, p95, p99 = np.percentile(served, [50, 95, 99]) if served.size else (float("nan"),) * 3
    waited_s = float(np.nansum(outcomes.ttft_s[outcomes.cold]))
    moved = sum(size_bytes for source, size_bytes in outcomes.moved_bytes.items() if source != "ssd")
    return Played(name, len(outcomes), int(outcomes.cold.sum()), float(p50), float(p95), float(p99), waited_s, moved)


def prewarms_of(wish: Wish, past: Past, since_s: float) -> Prewarms:
    """As the flow prewarms, from the begin of a trace on."""
    return Prewarms(Remembering(wish.forecaster, past, since_s), wish.budgets, wish.every_s, wish.horizon_s)


def offered(models: Sequence[Wanted]) -> list[Offered]:
    """As they are played."""
    return [Offered(wanted.model, wanted.objectives) for wanted in models]
