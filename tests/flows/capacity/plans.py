"""Plans to be shown: what became of machines is made up."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from schedules.capacity.clusters import Cluster
from schedules.capacity.plan import Plan, WhatIf
from schedules.capacity.trial import Trial, Usage

GIB = 1 << 30
GOAL = 0.99
ATTAINED = {2: 0.61, 3: 0.82, 4: 0.931, 5: 0.972, 6: 0.9893, 7: 0.9941, 8: 0.9972, 12: 0.9996, 16: 1.0}
NAME = "l4"


def trial(count: int, attained: float, models: Mapping[str, float] | None = None, **more: Any) -> Trial:
    """So many machines for a dollar an hour each."""
    cluster = Cluster({NAME: count}, 5e9, {NAME: 64 * GIB}, {NAME: 900 * 10**9})
    known = Trial(
        name=f"{count} x {NAME}",
        cluster=cluster,
        price_per_h=float(count),
        attained=attained,
        by_model={"llama": attained, "qwen": 1.0} if models is None else models,
        ttft_s={"p50": 0.12, "p95": 1.0, "p99": 2.5},
        cold_ttft_s={"p50": 0.9, "p95": 2.2, "p99": 4.0},
        tpot_s={"p50": 0.021, "p95": 0.034, "p99": 0.051},
        cold=0.08,
        unserved=0.0004,
        price_per_mtok=0.4 * count,
        moved_bytes={"remote": 48 * 10**12, "ssd": 0},
        usage=Usage(0.61, 0.97, 0.22, 0.88, 0.15, 0.71),
        requests=182_334,
    )
    return replace(known, **more)


def plan(attained: Mapping[int, float] | None = None, **more: Any) -> Plan:
    """Of so many machines each; the cheapest that attains the goal is chosen."""
    tried = tuple(trial(count, share) for count, share in (ATTAINED if attained is None else attained).items())
    chosen = next((each for each in tried if each.attained >= GOAL), None)
    fewer = WhatIf("one machine fewer", "With one machine fewer 98.9 % would be served.", trial(6, 0.9893))
    faster = WhatIf("twice the network", "With cards twice as fast 99.8 % would be served.", trial(7, 0.998))
    known = Plan(
        attainment=GOAL,
        currency="$",
        sentence="7 x l4 for $7.00 an hour: it attains 99.4 %.",
        binding="the network cards: twice of them would attain 99.2 %.",
        chosen=chosen,
        curve=tried,
        what_ifs=(fewer, faster) if chosen is not None else (),
        tried=tried,
        inputs=inputs(("llama", "qwen")),
        settings={NAME: {"cluster.nodes": 1, "node.dram_bytes": 64 * GIB}},
        notes=("the trace is of an hour",),
    )
    return replace(known, **more)


def inputs(models: Iterable[str]) -> dict[str, Any]:
    """As much of them as the page knows, and more."""
    rates = {"nic": {"mean": 1.25e9, "bad": 1.2e9, "samples": 9}}
    kind = {"name": NAME, "price_per_h": 1.0, "nodes": 2, "rates": rates}
    listed = [{"name": name, "requests": 91_167, "ttft_s": 2.0, "tpot_s": None} for name in models]
    return {"trace": {"source": "made up", "seed": 7}, "models": listed, "choices": {"types": [kind]}, "system": "ours"}


def large(models: int, trials: int) -> Plan:
    """As many as there may be."""
    names = [f"organisation/some-model-of-70b-instruct-{i:04}" for i in range(models)]
    shares = {name: 1 - i / models / 50 for i, name in enumerate(names)}
    tried = tuple(trial(count, 1 - 0.5**count, shares) for count in range(1, trials + 1))
    return plan(chosen=tried[min(7, trials - 1)], curve=tried, tried=tried, inputs=inputs(names))
