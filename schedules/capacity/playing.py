"""A job of a search, done: its scenario is made and played, and what became of it is summed up."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from schedules.capacity.machines import nodes_of, price_per_h
from schedules.capacity.question import PlanQuestion
from schedules.capacity.search import Job
from schedules.capacity.trial import Trial, Usage
from schedules.facts import Node
from schedules.rates import NIC, STORE
from schedules.simulation.outcomes import Ending, Outcomes
from schedules.simulation.play import play
from schedules.simulation.scenario import Offered, Scenario
from schedules.simulation.simulate import Trouble
from schedules.systems.system import Keeps
from schedules.traces.changing import denser, during
from schedules.traces.trace import Trace
from schedules.world.habits import Misfortune
from schedules.world.usage import MINUTE_S

PERCENTILES = (50, 95, 99)
SECONDS_PER_H = 3600.0

OnProgress = Callable[[int], object]
"""Told now and then how many requests of the trace are over."""


def try_out(question: PlanQuestion, job: Job, on_progress: OnProgress | None = None) -> Trial:
    """What becomes of it; the same each time, wherever it is done."""
    scenario = scenario_of(question, job)
    return _trial(question, job, scenario, play(scenario, on_progress))


def scenario_of(question: PlanQuestion, job: Job) -> Scenario:
    """All that is played for a job. Where a machine is to be lost the first half is played to see which is used most."""
    trace, system = question.trace, question.system
    if job.demand != 1.0:
        trace = denser(trace, job.demand, question.seed)
    if job.cold:
        system = replace(system, keeps=Keeps(dram=False, ssd=False))
    nodes = nodes_of(job.cluster, question.choices.types, job.twice)
    scenario = Scenario(
        nodes, question.models, trace, system, question.habits, patience_s=question.patience_s, seed=question.seed
    )
    if job.lose:
        middle_s = trace.duration_s / 2
        lost = _most_used(scenario, middle_s)
        scenario = replace(
            scenario,
            troubles=tuple(
                Trouble(middle_s, Misfortune.NODE_LOST, node.name) for node in nodes if node.machine == lost
            ),
        )
    return scenario


def _most_used(scenario: Scenario, until_s: float) -> str:
    """The machine that most stages run on by then; of equals the first."""
    stages = Counter[str]()
    if until_s > 0:
        machines = {node.name: node.machine for node in scenario.nodes}
        before = play(replace(scenario, trace=during(scenario.trace, 0.0, until_s)))
        for start in before.starts:
            if start.ordered_s <= until_s and (start.ended_s is None or start.ended_s > until_s):
                stages.update(machines[node] for node in start.nodes)
    return max((node.machine for node in scenario.nodes), key=lambda machine: stages[machine])


def limits_of(models: Sequence[Offered]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """TTFT and TPOT that each model's requests are to be served within; infinite where there is no limit."""
    wanted = [offered.objectives for offered in models]
    ttft_s = np.array([np.inf if each.ttft_s is None else each.ttft_s for each in wanted])
    return ttft_s, np.array([np.inf if each.tpot_s is None else each.tpot_s for each in wanted])


def _trial(question: PlanQuestion, job: Job, scenario: Scenario, played: Outcomes) -> Trial:
    price, trace = price_per_h(job.cluster, question.choices.types), scenario.trace
    attained, served = played.attained(*limits_of(scenario.models)), played.ending == Ending.SERVED
    answered = int(played.answer_tokens[served].sum())
    hours = (trace.duration_s or played.lasted_s) / SECONDS_PER_H
    return Trial(
        name=job.name,
        cluster=job.cluster,
        price_per_h=price,
        attained=float(attained.mean()),
        by_model=_by_model(trace, attained),
        ttft_s=_percentiles(played.ttft_s),
        cold_ttft_s=_percentiles(played.ttft_s[played.cold]),
        tpot_s=_percentiles(played.tpot_s),
        cold=float(played.cold.mean()),
        unserved=float(1.0 - served.mean()),
        price_per_mtok=price * hours / answered * 1e6 if answered else float("inf"),
        moved_bytes=dict(played.moved_bytes),
        usage=_usage(scenario.nodes, played),
        requests=len(played),
    )


def _by_model(trace: Trace, attained: NDArray[np.bool_]) -> Mapping[str, float]:
    """Of those that were called at all."""
    calls = np.bincount(trace.model, minlength=len(trace.models))
    well = np.bincount(trace.model, attained, minlength=len(trace.models))
    return {name: float(well[i] / calls[i]) for i, name in enumerate(trace.models) if calls[i]}


def _percentiles(seconds: NDArray[np.float64]) -> Mapping[str, float]:
    known = seconds[~np.isnan(seconds)]
    if not len(known):
        return {}
    found = np.percentile(known, PERCENTILES)
    return {f"p{which}": float(value) for which, value in zip(PERCENTILES, found, strict=True)}


def _usage(nodes: Sequence[Node], played: Outcomes) -> Usage:
    used, minutes = played.by_minute, len(played.by_minute.card_bytes)
    lasted_s = max(played.lasted_s, 1e-9)
    seconds = np.minimum(MINUTE_S, np.maximum(lasted_s - np.arange(minutes) * MINUTE_S, 1e-9))

    def shares(amounts: NDArray[np.float64], per_s: float) -> tuple[float, float]:
        """In the mean and in the busiest minute."""
        whole = seconds >= MINUTE_S / 2
        busiest = amounts[whole] / seconds[whole] if whole.any() else amounts / seconds
        return min(1.0, float(amounts.sum()) / lasted_s / per_s), min(1.0, float(busiest.max()) / per_s)

    store = nodes[0].rates.get(STORE)
    of_store = (None, None) if store is None else shares(used.store_bytes, store.mean)
    device = shares(used.device_reserved_byte_s, sum(node.device_bytes for node in nodes))
    cards = shares(used.card_bytes, sum(node.rates[NIC].mean for node in nodes))
    return Usage(*device, *cards, *of_store)
