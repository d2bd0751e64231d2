"""What is expected to be asked for, and whoever says so."""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from schedules.foresight.past import MINUTE_S, Past

Expected = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Forecast:
    """`expected[i, k]` requests for `models[i]` in the `k`-th minute from `at_s` on; by the end of that minute at least one
    has come with the probability `by_then[i, k]`, which never falls from minute to minute. All of the horizon together has
    from `low[i]` to `high[i]` of them, four times in five. `methods[i]` is by whom that is said. In the minute
    alone, whatever came before, any come with the probability `alone[i, k]`, which is less than is expected where calls come
    together; None where that is not known.

    ValueError says what is wrong with it.
    """

    models: tuple[str, ...]
    at_s: float
    expected: Expected
    by_then: Expected
    low: Expected
    high: Expected
    methods: tuple[str, ...] = field(default=())
    alone: Expected | None = None

    def __post_init__(self) -> None:
        shape, count = self.expected.shape, len(self.models)
        if len(shape) != 2 or shape[0] != count or not shape[1] or self.by_then.shape != shape:
            raise ValueError(f"{shape} and {self.by_then.shape} are no forecast of {count} models")
        if self.low.shape != (count,) or self.high.shape != (count,) or len(self.methods) not in (0, count):
            raise ValueError(f"bounds or methods are not of {count} models")
        if not (np.isfinite(self.expected).all() and np.isfinite(self.low).all() and np.isfinite(self.high).all()):
            raise ValueError("a number of requests is not finite")
        rises = (np.diff(self.by_then, axis=1) >= -1e-9).all()
        if not rises or not ((self.by_then >= 0.0) & (self.by_then <= 1.0 + 1e-9)).all():
            raise ValueError("a probability that at least one has come by then falls, or is none")
        if (self.expected < 0.0).any() or (self.low < 0.0).any() or (self.low > self.high).any():
            raise ValueError("fewer than no requests are expected, or the bounds are crossed")
        if self.alone is not None and not (
            self.alone.shape == shape and (self.alone >= 0.0).all() and (self.alone <= 1.0).all()
        ):
            raise ValueError("of a minute alone there is no such probability")

    @property
    def busy(self) -> Expected:
        """By model and minute the probability of any request in it; as if they came one by one, where nobody knows."""
        return np.minimum(self.expected if self.alone is None else self.alone, 1.0)

    @property
    def horizon_s(self) -> float:
        """How far it looks."""
        return float(self.expected.shape[1] * MINUTE_S)

    @property
    def total(self) -> Expected:
        """Requests expected in all of the horizon, by model."""
        return np.asarray(self.expected.sum(axis=1), np.float64)

    @property
    def probability(self) -> Expected:
        """Of at least one request in all of the horizon, by model."""
        return self.by_then[:, -1]


class Forecaster(Protocol):
    """A method. As a value it can be sent to other processes, and it changes nothing of itself: the same past gives the
    same forecast."""

    @property
    def name(self) -> str:
        """As people call it: lower case, with dashes."""
        ...

    def forecast(self, past: Past, horizon_s: float) -> Forecast:
        """Of `past.models`, from `past.until_s` on, for so many whole minutes (at least one)."""
        ...
