"""How long prompts and answers are, where nothing was recorded."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import log
from types import MappingProxyType

import numpy as np

from schedules.traces.errors import BadWish
from schedules.traces.trace import MOST_TOKENS, Numbers, Trace


@dataclass(frozen=True)
class Lognormal:
    """Lengths in tokens of that mean; `sigma` is the standard deviation of their logarithms."""

    mean_tokens: float
    sigma: float

    def __post_init__(self) -> None:
        if not (1 <= self.mean_tokens <= MOST_TOKENS and 0 <= self.sigma <= 5):
            raise BadWish(f"no lengths have a mean of {self.mean_tokens} tokens and a sigma of {self.sigma}")

    def draw(self, count: int, rng: np.random.Generator) -> Numbers:
        """So many lengths, of one token at least."""
        drawn = rng.lognormal(log(self.mean_tokens) - self.sigma**2 / 2, self.sigma, count)
        return np.clip(np.rint(drawn), 1, MOST_TOKENS).astype(np.int32)


@dataclass(frozen=True)
class Task:
    """What is asked for."""

    prompt: Lognormal
    answer: Lognormal


TASKS: Mapping[str, Task] = MappingProxyType(
    {
        "chat": Task(Lognormal(755.5, 1.0), Lognormal(200.3, 1.0)),
        "code": Task(Lognormal(171.3, 0.5), Lognormal(98.2, 0.7)),
        "summarisation": Task(Lognormal(1738.3, 0.6), Lognormal(90.7, 0.9)),
    }
)
"""The means are about those that ShareGPT, HumanEval and LongBench are cited with, and were not counted in the data; the
sigmas are ours."""


def task(name: str) -> Task:
    """A task by its name, or `PROMPT[:SIGMA]/ANSWER[:SIGMA]` in mean tokens; BadWish if it is neither."""
    if name in TASKS:
        return TASKS[name]
    prompt, slash, answer = name.partition("/")
    try:
        if slash:
            return Task(_lognormal(prompt), _lognormal(answer))
    except ValueError:
        pass
    raise BadWish(
        f"{name!r} is no task: those are {', '.join(TASKS)}, or mean lengths such as 500/100 or 500:1.0/100:0.8"
    )


def _lognormal(text: str) -> Lognormal:
    mean, colon, sigma = text.partition(":")
    return Lognormal(float(mean), float(sigma) if colon else 1.0)


Pair = tuple[Numbers, Numbers]


def draw(what: "Task | Trace", count: int, rng: np.random.Generator) -> Pair:
    """Lengths of so many prompts and answers. From a trace the two are drawn together, with replacement."""
    if isinstance(what, Task):
        return what.prompt.draw(count, rng), what.answer.draw(count, rng)
    if not len(what):
        raise BadWish("no lengths can be drawn from a trace without requests")
    which = rng.integers(len(what), size=count)
    return what.prompt_tokens[which], what.answer_tokens[which]
