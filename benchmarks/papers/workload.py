"""The hour that HydraServe's figures 9, 11 and 13 were measured in, as far as it can be made again.

Theirs is two weeks of Azure's functions pressed into an hour, with gamma gaps drawn anew in windows that last 1.8 s of it,
and then thinned from about 550 requests a second to the rate of a cell. That trace is not ours to ship. What is known of
it: how many models were called, and, by what figures 9 and 11 say of the same runs, the share of each task. What is not
known is how popular each model was: a Zipf law stands for that, whose exponent is the one constant that was fitted
(`SKEW`), so that serverless vLLM attains in figure 11's cell what it did. Requests are drawn at the rate before thinning,
with the cell's CV, and thinned as theirs were; little is left of the CV by that, as in their figure.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from benchmarks.papers.hydraserve import (
    BATCH,
    FIGURE9_ATTAINED,
    FIGURE11_ATTAINED,
    FIGURE11_CELL,
    FIGURE13_MODELS,
    KEEP_ALIVE_S,
    KV_BYTES,
    TASKS,
    Cell,
)
from benchmarks.papers.models import model
from schedules.objectives import Objectives
from schedules.simulation.scenario import Offered
from schedules.traces.changing import as_served, thinned, truncated
from schedules.traces.lineup import PRESETS, Served, popularity
from schedules.traces.synthesis import Recipe, synthesise
from schedules.traces.trace import Trace

DURATION_S = 3600.0
INVOCATIONS = 1_980_951
"""Of Azure's trace of 2021, by its description: so many come in the hour before it is thinned."""
SKEW = 1.06
PRESET = PRESETS["hydraserve"]
ROOM_TOKENS = 2048
"""A request's prompt and answer are 1,024 tokens at most each."""
SIZES = {"7b": "Llama-2-7B", "13b": "Llama-2-13B"}


def task_shares() -> dict[str, float]:
    """Of the requests: with which figure 11's attainments, task by task, make figure 9's of the same cell."""
    systems = list(FIGURE11_ATTAINED)
    by_task = np.array([[FIGURE11_ATTAINED[system][task] for task in TASKS] for system in systems])
    of_all = np.array([FIGURE9_ATTAINED[system][FIGURE11_CELL] for system in systems])
    found, *_ = np.linalg.lstsq(by_task[:, :2] - by_task[:, 2:], of_all - by_task[:, 2], rcond=None)
    shares = [float(found[0]), float(found[1]), 1.0 - float(found.sum())]
    return dict(zip(TASKS, shares, strict=True))


def lineup(skew: float, count: int = FIGURE13_MODELS) -> tuple[Served, ...]:
    """So many of the preset's models, the most popular first: each of the task that has least of its share by then."""
    shares, had = task_shares(), dict.fromkeys(TASKS, 0.0)
    left = {task: iter([served for served in PRESET.lineup if served.task == task]) for task in TASKS}
    found = list[Served]()
    for popular in popularity(count, skew):
        task = max(TASKS, key=lambda each: shares[each] * (sum(had.values()) + popular) - had[each])
        had[task] += float(popular)
        found.append(next(left[task]))
    return tuple(found)


def workload(cell: Cell, skew: float = SKEW, seed: int = 1, duration_s: float = DURATION_S) -> Trace:
    """The trace of a cell."""
    served = lineup(skew)
    rate_per_s = INVOCATIONS / DURATION_S
    dense = synthesise(Recipe(served, rate_per_s, duration_s, cv=cell.cv, skew=skew), seed, "HydraServe's, made again")
    trace = as_served(thinned(dense, cell.rate_per_s, seed), served, PRESET.max_tokens, seed)
    return truncated(trace, PRESET.max_prompt_tokens)


def offered(trace: Trace, max_degree: int = 4) -> tuple[Offered, ...]:
    """The trace's models, with room for as many requests a worker as theirs take, and their service levels."""
    tokens = BATCH * ROOM_TOKENS
    made = list[Offered]()
    for name, target in zip(trace.models, trace.targets, strict=True):
        size = name.split("-")[-2]
        objectives = Objectives(
            target.ttft_s, target.tpot_s, min_replicas=0, max_replicas=8, keep_alive_s=KEEP_ALIVE_S, priority=0,
            max_degree=max_degree, kv_tokens=tokens,
        )  # fmt: skip
        made.append(Offered(model(SIZES[size], name, KV_BYTES // tokens), objectives))
    return tuple(made)


def called(trace: Trace) -> int:
    """How many of the models anybody asked for."""
    return len(np.unique(trace.model))


def share_of(trace: Trace, tasks: Sequence[str] = TASKS) -> dict[str, float]:
    """Of the trace's requests."""
    of_model = np.array([name.split("-")[0] for name in trace.models])[trace.model]
    return {task: float((of_model == task).mean()) for task in tasks}


def only_called(trace: Trace) -> Trace:
    """Without the models that nobody asks for: they cost nothing, and a brain need not know them."""
    there = np.unique(trace.model)
    place = np.full(len(trace.models), -1, np.int32)
    place[there] = np.arange(len(there), dtype=np.int32)
    names, targets = (tuple(each[i] for i in there) for each in (trace.models, trace.targets))
    return replace(trace, model=place[trace.model], models=names, targets=targets)
