"""Measured quantities: what was seen of late, its running mean and its bad end. Nothing here is a constant of a machine."""

from collections.abc import Mapping
from dataclasses import dataclass

KEPT_SAMPLES = 32
NEWEST_WEIGHT = 0.25
"""Weight of the newest sample in the running mean."""
BAD_END = 0.1
"""The share of samples that are worse than the bad end."""


@dataclass(frozen=True)
class Measured:
    """The latest samples of one quantity, oldest first; at least one, all positive."""

    samples: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.samples or min(self.samples) <= 0:
            raise ValueError(f"not a measurement: {self.samples}")

    @property
    def mean(self) -> float:
        """Exponentially weighted, the newest weighing most."""
        mean = self.samples[0]
        for sample in self.samples[1:]:
            mean += NEWEST_WEIGHT * (sample - mean)
        return mean

    @property
    def low(self) -> float:
        """What nine of ten samples reach: the bad end of a rate."""
        return sorted(self.samples)[int(BAD_END * (len(self.samples) - 1) + 0.5)]

    @property
    def high(self) -> float:
        """What one of ten samples passes: the bad end of a duration."""
        return sorted(self.samples, reverse=True)[int(BAD_END * (len(self.samples) - 1) + 0.5)]

    def with_sample(self, value: float) -> "Measured":
        """One more; beyond KEPT_SAMPLES the oldest is forgotten."""
        return Measured((*self.samples, value)[-KEPT_SAMPLES:])


def observe(known: Mapping[str, Measured], name: str, value: float) -> dict[str, Measured]:
    """`known` with one more sample of `name`; what cannot be a measurement (zero, negative) is left out."""
    if value <= 0:
        return dict(known)
    measured = known[name].with_sample(value) if name in known else Measured((value,))
    return {**known, name: measured}
