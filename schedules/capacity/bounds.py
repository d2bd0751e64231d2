"""What is known of a question before anything is played: which machines can hold a model, how many there should be at least,
and which requests no cluster can serve as they should be."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil, inf

import numpy as np
from numpy.typing import NDArray

from schedules.capacity.clusters import NodeType
from schedules.capacity.question import PlanQuestion
from schedules.estimates import speeds_of, step_s
from schedules.placing.partition import parts_of
from schedules.rates import BUS
from schedules.simulation.scenario import Offered
from schedules.systems.system import System

_WINDOW_S = 10.0
_MANY = 1 << 20
"""Tokens of a step that arithmetic bounds."""


def stages_needed(offered: Offered, kind: NodeType) -> int | None:
    """The fewest stages in which nodes of the type hold the model with its KV cache; None if it would be spread further than
    is wanted. The product goes on from there if it must, but nobody should buy machines for that."""
    model, wanted, gpus = offered.model, offered.objectives, BUS in kind.rates
    kv_tokens = wanted.kv_tokens
    free_bytes = kind.device_bytes - kind.context_bytes
    least_bytes = model.size_bytes + kv_tokens * model.kv_bytes_per_token
    begin = max(1, least_bytes // max(1, free_bytes))
    for degree in range(begin, min(model.layers, wanted.max_degree) + 1):
        if max(part.reserve_bytes for part in parts_of(model, degree, kv_tokens, gpus=gpus)) <= free_bytes:
            return degree
    return None


def fewest_machines(kind: NodeType, question: PlanQuestion) -> int | None:
    """With fewer machines of this type alone too many requests are for models that it cannot hold; None if any number does
    not help."""
    calls = np.bincount(question.trace.model, minlength=len(question.models))
    needed = [stages_needed(offered, kind) for offered in question.models]
    held = sorted(
        (ceil(stages / kind.nodes), int(count)) for stages, count in zip(needed, calls, strict=True) if stages
    )
    served = 0
    for machines, count in held:
        served += count
        if served >= question.attainment * len(question.trace):
            return machines
    return None


def enough_machines(kind: NodeType, question: PlanQuestion) -> int:
    """About how many of this type it takes, to begin with: those that compute all tokens in the time of the trace, and hold
    what half of the time is called within some seconds."""
    trace, speeds = question.trace, speeds_of(kind.rates, bad=False)
    assert speeds is not None
    duration_s = max(trace.duration_s, _WINDOW_S)
    sizes = np.array([offered.model.size_bytes for offered in question.models], np.float64)
    tokens = np.bincount(trace.model, trace.prompt_tokens + trace.answer_tokens, minlength=len(sizes))
    busy_s = float((tokens * sizes).sum()) * step_s(1.0, _MANY, speeds) / _MANY
    windows = ceil(duration_s / _WINDOW_S)
    called = np.unique((trace.at_s // _WINDOW_S).astype(np.int64) * len(sizes) + trace.model)
    held = [
        offered.model.size_bytes + offered.objectives.kv_tokens * offered.model.kv_bytes_per_token
        for offered in question.models
    ]
    by_window = np.bincount(called // len(sizes), np.array(held, np.float64)[called % len(sizes)], windows)
    by_time = busy_s / duration_s / kind.nodes
    by_room = float(np.median(by_window)) / (kind.device_bytes * kind.nodes)
    return max(1, ceil(by_time), ceil(by_room))


@dataclass(frozen=True)
class Floor:
    """What no machine that can be had falls below, in seconds: of a cold start of the model with a prompt of one token, of a
    token of its answers, and, for each of its tokens, of a prompt."""

    cold_s: float
    token_s: float
    prompt_token_s: float


def floor_of(offered: Offered, types: Iterable[NodeType], system: System) -> Floor:
    """Of nodes that have all units already, and nothing else to do."""
    speeds = [found for kind in types if (found := speeds_of(kind.rates, bad=False)) is not None]
    size_bytes = offered.model.size_bytes
    tail_s = system.startup.tail_s
    return Floor(
        min(min(each.formed_s.values()) + tail_s + step_s(size_bytes, 1, each) for each in speeds),
        min(step_s(size_bytes, 1, each) for each in speeds),
        min(step_s(size_bytes, _MANY, each) for each in speeds) / _MANY,
    )


@dataclass(frozen=True, eq=False)
class Lost:
    """Of each request whether it is late on whatever cluster: its first token by the arithmetic of its `prompt`, its other
    `tokens` by the reading of weights, or because it is the `first` of its model, which then has to start."""

    prompt: NDArray[np.bool_]
    tokens: NDArray[np.bool_]
    first: NDArray[np.bool_]

    @property
    def which(self) -> NDArray[np.bool_]:
        """For whichever reason."""
        return self.prompt | self.tokens | self.first


def lost_anyway(question: PlanQuestion) -> Lost:
    """The requests that cannot be served within their levels."""
    trace, wanted = question.trace, [offered.objectives for offered in question.models]
    floors = [floor_of(offered, question.choices.types, question.system) for offered in question.models]
    ttft_s = np.array([inf if each.ttft_s is None else each.ttft_s for each in wanted])
    tpot_s = np.array([inf if each.tpot_s is None else each.tpot_s for each in wanted])
    starts = np.array([each.min_replicas == 0 for each in wanted])
    slow = np.array([floor.token_s for floor in floors]) > tpot_s
    cold = starts & (np.array([floor.cold_s for floor in floors]) > ttft_s)
    first = np.zeros(len(trace), np.bool_)
    first[np.unique(trace.model, return_index=True)[1]] = True
    prompts_s = trace.prompt_tokens * np.array([floor.prompt_token_s for floor in floors])[trace.model]
    return Lost(
        prompts_s > ttft_s[trace.model], slow[trace.model] & (trace.answer_tokens > 1), first & cold[trace.model]
    )
