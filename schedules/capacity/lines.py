"""Clusters that differ in the number of machines of one type alone: the fewest that attain a goal are looked for."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from schedules.capacity.trial import Trial

MISSES_BY, FLAT_WITHIN, IDLE = 0.002, 0.0005, 0.95
"""More machines do not help where the last two doublings changed the share by less than FLAT_WITHIN, it misses the goal by
more than MISSES_BY, and in no minute more than IDLE of the accelerators' memory was used."""
_GALLOP = 2
_DOUBLINGS = 3


@dataclass(eq=False)
class Line:
    """To the machines of `base` so many of the type `kind` are added, `fewest` at least: fewer cannot attain anything. More
    machines are taken to attain more; where they do not, whoever looks at neighbours will see it. `known` is by number."""

    kind: str
    base: Mapping[str, int]
    fewest: int
    hint: int
    known: dict[int, Trial] = field(default_factory=dict)

    def machines(self, count: int) -> dict[str, int]:
        """Of the cluster with so many more."""
        return {**self.base, self.kind: count}

    def wanted(self, goal: float, most: int, at_once: int) -> list[int]:
        """Up to so many numbers to be tried next, none above `most`; none if nothing more is to be found out."""
        attaining = [count for count, trial in self.known.items() if trial.attained >= goal]
        if not attaining:
            return self._upward(goal, most, min(at_once, _GALLOP))
        high = min(attaining)
        low = max((count for count in self.known if count < high), default=self.fewest - 1)
        between = range(low + 1, min(high, most + 1))
        parts = min(at_once, len(between)) + 1
        return sorted({low + max(1, (high - low) * part // parts) for part in range(1, parts)} & set(between))

    def _upward(self, goal: float, most: int, at_once: int) -> list[int]:
        if most < self.fewest or (self.known and (max(self.known) >= most or self._is_flat(goal))):
            return []
        first = 2 * max(self.known) if self.known else max(self.hint, self.fewest)
        return sorted({min(first << step, most) for step in range(at_once)})

    def _is_flat(self, goal: float) -> bool:
        last = [self.known[count] for count in sorted(self.known)[-_DOUBLINGS:]]
        shares = [trial.attained for trial in last]
        idle = last[-1].usage.device_busiest <= IDLE
        return (
            len(last) == _DOUBLINGS
            and idle
            and max(shares) - min(shares) < FLAT_WITHIN
            and goal - max(shares) > MISSES_BY
        )
