"""The models that requests are for: named and given tasks before any request comes. And those of two papers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from schedules.traces.errors import BadWish
from schedules.traces.lengths import task
from schedules.traces.trace import NAMED, Target


class Served(NamedTuple):
    """A model, what it is asked for, and within what time."""

    name: str
    task: str
    target: Target = Target()


@dataclass(frozen=True)
class Preset:
    """How a paper makes its requests. A prompt is cut at `max_prompt_tokens`; clients ask for `max_tokens`."""

    lineup: tuple[Served, ...]
    rate_per_s: float
    cv: float
    skew: float
    duration_s: float
    max_prompt_tokens: int
    max_tokens: int


def numbered(count: int, tasks: Sequence[str] = ("chat",)) -> tuple[Served, ...]:
    """So many models with names that sort; they take the tasks in turn."""
    if not 1 <= count <= NAMED:
        raise BadWish(f"there are 1 to {NAMED:,} models, not {count:,}")
    for name in tasks:
        task(name)
    digits = len(str(count - 1))
    return tuple(Served(f"model-{i:0{digits}}", tasks[i % len(tasks)]) for i in range(count))


def popularity(count: int, skew: float) -> NDArray[np.float64]:
    """The share of each of so many models, the most popular first: Zipf's, all equal with a skew of 0."""
    weights: NDArray[np.float64] = np.arange(1, count + 1, dtype=np.float64) ** -skew
    shares: NDArray[np.float64] = weights / weights.sum()
    return shares


def _hydraserve() -> tuple[Served, ...]:
    """Three tasks of two models with 64 replicas each, and the service levels of its evaluation."""
    ttft_s = {"7b": 5 * 1.5, "13b": 5 * 2.4}
    tpot_s = {"7b": 2 * 0.042, "13b": 2 * 0.058}
    return tuple(
        Served(
            f"{name}-llama-2-{size}-{i:02}",
            name,
            Target(ttft_s[size] * (5 if name == "summarisation" else 1), 0.2 if name == "chat" else tpot_s[size]),
        )
        for i in range(64)
        for name in ("chat", "code", "summarisation")
        for size in ("7b", "13b")
    )


def _serverlessllm() -> tuple[Served, ...]:
    """OPT of three sizes with 32, 16 and 8 replicas; the most popular are of all sizes."""
    replicas = {"6.7b": 32, "13b": 16, "30b": 8}
    return tuple(Served(f"opt-{size}-{i:02}", "chat") for i in range(32) for size, many in replicas.items() if i < many)


def preset(name: str) -> Preset:
    """A paper's by its name; BadWish if there is no such."""
    if name not in PRESETS:
        raise BadWish(f"{name!r} is no preset: those are {', '.join(PRESETS)}")
    return PRESETS[name]


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "hydraserve": Preset(_hydraserve(), 0.6, 8.0, 1.0, 3600.0, 1024, 1024),
        "serverlessllm": Preset(_serverlessllm(), 0.8, 8.0, 1.0, 1200.0, 2048, 1024),
    }
)
"""Rates and CVs are of those in the papers. Both map the functions of Azure's trace to models; the skew that stands for
them here is ours, as are durations and lengths where the papers draw from data sets."""
