"""A trace: requests in the order of their arrival, in columns, so that a million of them take 24 MB."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from schedules.traces.errors import BadTrace

Seconds = NDArray[np.float64]
Numbers = NDArray[np.int32]

MOST_REQUESTS = 20_000_000
MOST_TOKENS = 100_000_000
LONGEST_S = 10 * 366 * 86_400.0
LONGEST_NAME = 200
NAMED = 1_000_000
"""So many models a trace may have."""


class Target(NamedTuple):
    """What a model's requests are to be served within, at the bad end; None where nothing is said."""

    ttft_s: float | None = None
    tpot_s: float | None = None


@dataclass(frozen=True)
class Provenance:
    """Where a trace is from, what was done to it, in order, and the seed of what chance there was in that."""

    source: str
    steps: tuple[str, ...] = ()
    seed: int | None = None


@dataclass(frozen=True, eq=False)
class Trace:
    """`at_s` are seconds from the trace's begin, never falling and within `duration_s`; `model` counts into `models`. Of
    `max_tokens`, which clients ask for, they get `answer_tokens`. `targets` are by model, or nothing is said of any.

    The columns cannot be written to. BadTrace says what is wrong with them.
    """

    at_s: Seconds
    model: Numbers
    prompt_tokens: Numbers
    answer_tokens: Numbers
    max_tokens: Numbers
    models: tuple[str, ...]
    duration_s: float
    provenance: Provenance
    targets: tuple[Target, ...] = ()

    def __post_init__(self) -> None:
        _check_models(self.models, self.targets)
        for name in COLUMNS:
            column = np.ascontiguousarray(getattr(self, name), _TYPES[name]).view()
            if column.shape != np.shape(self.at_s) or column.ndim != 1:
                raise BadTrace(f"the column {name} has another length than the arrivals")
            column.flags.writeable = False
            object.__setattr__(self, name, column)
        if len(self) > MOST_REQUESTS:
            raise BadTrace(f"{len(self):,} requests are more than a trace can have ({MOST_REQUESTS:,})")
        _check_times(self.at_s, self.duration_s)
        self._check_numbers()

    def __len__(self) -> int:
        return len(self.at_s)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Trace):
            return NotImplemented
        alike = (self.models, self.duration_s, self.provenance, self.targets) == (
            (other.models, other.duration_s, other.provenance, other.targets)
        )
        return alike and all(np.array_equal(getattr(self, name), getattr(other, name)) for name in COLUMNS)

    def after(self, step: str, seed: int | None = None, **changed: Any) -> Self:
        """The trace with what has `changed`, and a word on how."""
        known = self.provenance
        provenance = replace(known, steps=(*known.steps, step), seed=known.seed if seed is None else seed)
        return replace(self, provenance=provenance, **changed)

    def only(self, which: NDArray[Any], step: str, seed: int | None = None, **changed: Any) -> Self:
        """Of its requests those that `which` chooses, in their order, and what else has `changed`."""
        columns = {name: getattr(self, name)[which] for name in COLUMNS}
        return self.after(step, seed, **(columns | changed))

    def _check_numbers(self) -> None:
        if not len(self):
            return
        if self.model.min() < 0 or self.model.max() >= len(self.models):
            raise BadTrace("a request is for a model that the trace does not name")
        for name in TOKENS:
            column = getattr(self, name)
            if column.min() < 1 or column.max() > MOST_TOKENS:
                raise BadTrace(f"{name} are from 1 to {MOST_TOKENS:,}, not {column.min():,} to {column.max():,}")
        if (self.answer_tokens > self.max_tokens).any():
            raise BadTrace("an answer is longer than its max_tokens")


COLUMNS = ("at_s", "model", "prompt_tokens", "answer_tokens", "max_tokens")
TOKENS = COLUMNS[2:]
_TYPES = {name: np.float64 if name == "at_s" else np.int32 for name in COLUMNS}


def in_order(
    at_s: Seconds, columns: Sequence[NDArray[Any]], models: Sequence[str], duration_s: float, provenance: Provenance
) -> Trace:
    """A trace of requests in any order: of model, prompt, answer and most tokens each. Those that come at one time keep their
    order."""
    order = np.argsort(at_s, kind="stable")
    model, prompt, answer, most = (column[order] for column in columns)
    return Trace(at_s[order], model, prompt, answer, most, tuple(models), duration_s, provenance)


def _check_models(models: Sequence[str], targets: Sequence[Target]) -> None:
    if len(models) > NAMED:
        raise BadTrace(f"{len(models):,} models are more than a trace can name ({NAMED:,})")
    if len(set(models)) < len(models):
        raise BadTrace("two models have the same name")
    for name in models:
        check_name(name)
    if targets and len(targets) != len(models):
        raise BadTrace(f"{len(targets)} targets for {len(models)} models")
    for limit in (limit for target in targets for limit in target):
        if limit is not None and not 0 < limit < LONGEST_S:
            raise BadTrace(f"{limit} s cannot be a target")


def check_name(name: str) -> None:
    """BadTrace, unless it can be a model's name."""
    if not name or name != name.strip() or not name.isprintable() or len(name) > LONGEST_NAME:
        raise BadTrace(f"{name[:40]!r} cannot be a model's name: those are printable, 1 to {LONGEST_NAME} characters")


def _check_times(at_s: Seconds, duration_s: float) -> None:
    if not (isfinite(duration_s) and 0 <= duration_s <= LONGEST_S):
        raise BadTrace(
            f"a trace lasts up to {LONGEST_S / 86_400:,.0f} days, not {duration_s / 86_400:,.0f}: see its time unit"
        )
    if not len(at_s):
        return
    if not np.isfinite(at_s).all():
        raise BadTrace("an arrival is not a finite number of seconds")
    if at_s[0] < 0 or at_s[-1] > duration_s:
        raise BadTrace(f"arrivals from {at_s[0]} to {at_s[-1]} s are not within the {duration_s} s of the trace")
    if (np.diff(at_s) < 0).any():
        raise BadTrace("the arrivals are not in order")
