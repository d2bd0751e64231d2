"""What prewarming is measured on: four nodes, sixty models that they cannot all hold, and seven traces.

Models are of five sizes from 1.5B to 14B, as in `benchmarks.simulator_workload`, 0.8 TB in all: the nodes' accelerators hold
a third of them, their dram less than each of them twice, their ssds everything. Rates, skews, seeds and the cluster were set
before anything that foresees was played, so that with replicas and units that stay until others need their room, and nothing
else, from 13 to 21 % of the requests are cold (39 % of the functions', which are few), and they stay what they are.

One thing was changed after that: groups form as fast as was measured on a GPU (0.08 s for one stage, see docs/benchmarks.md;
of several stages as on a CPU), not in the second that `benchmarks.simulator_workload` has for them, behind which all else
was hidden.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.simulator_workload import GB, SIZES, model, node
from schedules.facts import Node, Rate
from schedules.objectives import Objectives
from schedules.rates import NIC, SSD, formed
from schedules.simulation.scenario import Offered, Scenario
from schedules.traces.changing import merged, renamed, sped, spread, thinned, truncated, with_lengths
from schedules.traces.formats import Reading
from schedules.traces.lengths import task
from schedules.traces.lineup import numbered
from schedules.traces.parsing import Wanting, parse
from schedules.traces.renewals import arrivals_within
from schedules.traces.synthesis import Recipe, synthesise
from schedules.traces.trace import Numbers, Provenance, Seconds, Trace, in_order

HOUR_S, DAY_S = 3600.0, 86_400.0
NODES, MODELS = 4, 60
DRAM_BYTES, SSD_BYTES = 160 * GB, 2000 * GB
FORMED_S = {1: 0.08, 2: 0.12, 4: 0.2}
NIC_BYTES_PER_S, SSD_BYTES_PER_S = 2.8 * GB, 4.0 * GB
SKEW, SPREAD_SKEW = 1.3, 1.6
MOST_PROMPT, MOST_ANSWER = 2048, 512
WANTED = Objectives(
    ttft_s=None, tpot_s=None, min_replicas=0, max_replicas=4, keep_alive_s=600.0, priority=0, max_degree=4,
    kv_tokens=16_384,
)  # fmt: skip


@dataclass(frozen=True)
class Played:
    """A trace, of which the first `history_s` are played to be learned from, and not counted."""

    name: str
    trace: Trace
    history_s: float


def scenario(trace: Trace, seed: int) -> Scenario:
    """Without a system yet. Sizes do not go by how much a model is asked for."""
    sizes = np.random.default_rng(seed + 7).permutation(_sizes(len(trace.models)))
    offered = tuple(Offered(model(name, SIZES[size]), WANTED) for name, size in zip(trace.models, sizes, strict=True))
    return Scenario(tuple(_node(index) for index in range(NODES)), offered, trace, seed=seed)


def _sizes(models: int) -> list[int]:
    each = [place for place, size in enumerate(SIZES[:5]) for _ in range(size.share)]
    return [each[index % len(each)] for index in range(models)]


def _node(index: int) -> Node:
    """All alike."""
    made = node(index, random.Random(0))
    speeds = {formed(degree): Rate(seconds, 1.25 * seconds, 32) for degree, seconds in FORMED_S.items()} | {
        NIC: Rate(NIC_BYTES_PER_S, 0.8 * NIC_BYTES_PER_S, 32),
        SSD: Rate(SSD_BYTES_PER_S, 0.8 * SSD_BYTES_PER_S, 32),
    }
    return replace(made, dram_bytes=DRAM_BYTES, ssd_bytes=SSD_BYTES, rates={**made.rates, **speeds})


# ---- made up


def bursty(cv: float, seed: int) -> Trace:
    """Each model in bursts of its own, by Zipf's law."""
    recipe = Recipe(
        numbered(MODELS, ("chat",)),
        0.5,
        6 * HOUR_S,
        cv=cv,
        skew=SKEW,
        max_prompt_tokens=MOST_PROMPT,
        max_tokens=MOST_ANSWER,
    )
    return synthesise(recipe, seed)


def seasons(seed: int) -> Trace:
    """Three days: a quarter of the models are called by timers, every 10 to 120 minutes to within seconds; half of them at
    hours of the day of their own, in sessions; and the rest by chance."""
    rng, days = np.random.default_rng(seed), 3
    lineup = numbered(MODELS, ("chat",))
    at_s, which = list[Seconds](), list[Numbers]()

    def add(place: int, times: Seconds) -> None:
        times = times[(times >= 0.0) & (times < days * DAY_S)]
        at_s.append(times)
        which.append(np.full(len(times), place, np.int32))

    for place in range(MODELS):
        if place % 4 == 0:
            every_s = float(rng.choice([600, 900, 1800, 3600, 7200]))
            ticks = np.arange(rng.random() * every_s, days * DAY_S, every_s)
            add(place, ticks + rng.normal(0.0, 3.0, len(ticks)))
        elif place % 4 in (1, 2):
            hour, sessions = rng.uniform(6.0, 20.0), int(rng.integers(1, 4))
            for day in range(days):
                for session in range(sessions):
                    begin_s = day * DAY_S + (hour + 1.5 * session) * HOUR_S + rng.normal(0.0, 240.0)
                    add(place, begin_s + np.sort(rng.random(int(rng.integers(10, 40)))) * 1200.0)
        else:
            add(place, np.asarray(arrivals_within(days * DAY_S, float(rng.uniform(10, 60)) / DAY_S, 2.0, rng)))
    times, models = np.concatenate(at_s), np.concatenate(which)
    ones = np.ones(len(times), np.int32)
    names = [served.name for served in lineup]
    trace = in_order(times, (models, ones, ones, ones), names, days * DAY_S, Provenance("made up", ("seasons",), seed))
    return truncated(with_lengths(trace, ["chat"] * MODELS, MOST_ANSWER, seed + 1), MOST_PROMPT)


# ---- recorded


def azure_functions(traces: Path, seed: int) -> Trace:
    """The sample, six times as slow, four times in turn: it is of twenty minutes and a few functions."""
    recorded = sped(_read(traces / "azure_functions_invitro_sample" / "Azure2021_200.csv", seed), 1 / 6)
    names = {name: f"function-{place:02}" for place, name in enumerate(recorded.models)}
    repeated = merged([renamed(recorded, names)] * 4, in_turn=True)
    return truncated(with_lengths(repeated, task("chat"), MOST_ANSWER, seed + 1), MOST_PROMPT)


def azure_llm(traces: Path, seed: int) -> Trace:
    """Both services, four times as slow, thinned and spread over the models by Zipf's law."""
    files = ("AzureLLMInferenceTrace_code.csv", "AzureLLMInferenceTrace_conv.csv")
    both = merged([_read(traces / "azure_llm_2023" / name, seed) for name in files])
    return _spread(both, seed)


def mooncake(traces: Path, seed: int) -> Trace:
    """The same of Kimi's conversations."""
    return _spread(_read(traces / "mooncake_fast25" / "conversation_trace.jsonl", seed), seed)


def _spread(recorded: Trace, seed: int) -> Trace:
    names = [served.name for served in numbered(MODELS)]
    slow = thinned(sped(recorded, 1 / 4), 0.4, seed)
    shorter = with_lengths(slow, task("chat"), MOST_ANSWER, seed + 1)
    return truncated(spread(shorter, names, SPREAD_SKEW, seed), MOST_PROMPT)


def _read(path: Path, seed: int) -> Trace:
    with path.open(encoding="utf-8") as lines:
        return parse(lines, path.name, Reading(), Wanting("model", task("chat"), MOST_ANSWER, seed)).trace


RECORDED: Mapping[str, Callable[[Path, int], Trace]] = {
    "azure_functions": azure_functions, "azure_llm": azure_llm, "mooncake": mooncake
}  # fmt: skip
MADE: Mapping[str, Callable[[int], Trace]] = {
    "cv2": lambda seed: bursty(2.0, seed),
    "cv4": lambda seed: bursty(4.0, seed),
    "cv8": lambda seed: bursty(8.0, seed),
    "seasons": seasons,
}


def played(traces: Path | None, only: Sequence[str], seed: int) -> list[Played]:
    """All traces, or those of these names."""
    made = {name: (lambda make=make: make(seed)) for name, make in MADE.items()}
    if traces is not None:
        made |= {name: (lambda make=make: make(traces, seed)) for name, make in RECORDED.items()}
    found = list[Played]()
    for name in only or made:
        trace = made[name]()
        found.append(Played(name, trace, trace.duration_s * (2 / 3 if name == "seasons" else 1 / 3)))
    return found
