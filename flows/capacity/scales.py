"""From a quantity to its place on an axis, as a share of the axis from 0 to 1, and the ticks that stand there."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil, floor, log10

_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_LOWS = (0.0, 0.5, 0.9, 0.99, 0.999)
_TICKS = (1.0, 0.0, 0.9, 0.99, 0.999, 0.9999, 0.99999, 0.5, 0.75, 0.95, 0.995, 0.9995)
"""Those that matter most first."""
_FURTHEST = 0.99999


@dataclass(frozen=True)
class Linear:
    """From `low` to `high`."""

    low: float
    high: float

    def at(self, value: float) -> float:
        """What is beyond an end stands at that end."""
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))

    def ticks(self, about: int) -> list[float]:
        """Round numbers within."""
        step = _step((self.high - self.low) / about)
        return [step * index for index in range(ceil(self.low / step - 1e-9), floor(self.high / step + 1e-9) + 1)]


@dataclass(frozen=True)
class Nines:
    """Shares near 1: 90 %, 99 % and 99.9 % are as far from each other; all of it stands at the very end, half as far again
    from the last nine that is told apart."""

    low: float
    high: float

    def at(self, share: float) -> float:
        """What is beyond the last nine but not all stands there."""
        if share >= 1:
            return 1.0
        within = min(self.high, max(self.low, share))
        return (_nines(within) - _nines(self.low)) / (_nines(self.high) + 0.5 - _nines(self.low))

    def ticks(self, beside: float, apart: float) -> list[float]:
        """Those that are so far `apart` on the axis, and from `beside`, which has a label of its own."""
        kept = [self.at(beside)]
        found = []
        for share in _TICKS:
            if (self.low <= share <= self.high or share == 1) and min(abs(self.at(share) - at) for at in kept) >= apart:
                kept.append(self.at(share))
                found.append(share)
        return sorted(found)


def from_zero(values: Iterable[float]) -> Linear:
    """Up to the highest with a little room; of nothing up to 1."""
    highest = max(values, default=0.0)
    return Linear(0.0, highest * 1.08 if highest > 0 else 1.0)


def nines(shares: Iterable[float], goal: float) -> Nines:
    """As much as it takes to tell the shares and the goal apart."""
    known = [share for share in (*shares, goal) if share < 1] or [0.9]
    lowest = min(known)
    low = max((low for low in _LOWS if low < lowest), default=0.0)
    high = min(_FURTHEST, max(0.9, *known))
    return Nines(low, high if high > low else _FURTHEST)


def _nines(share: float) -> float:
    return -log10(1 - share)


def _step(least: float) -> float:
    power = 10.0 ** floor(log10(least))
    return next(step * power for step in _STEPS if step * power >= least * (1 - 1e-9))
