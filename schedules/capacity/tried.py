"""What was tried of clusters as they are asked for, and what that says so far."""

from collections.abc import Iterable, Mapping

from schedules.capacity.clusters import Cluster, NodeType
from schedules.capacity.machines import price_per_h
from schedules.capacity.trial import Trial

EPSILON = 1e-9
"""Of prices and shares: sums of floats."""
BEATEN_BY = 0.01
"""What attains so much less than something cheaper is on no curve; by less, it may be the luck of one trace."""


class Tried:
    """Trials that attain `goal` or miss it."""

    def __init__(self, goal: float, types: Iterable[NodeType]) -> None:
        self._goal, self._types = goal, tuple(types)
        self._trials: dict[str, Trial] = {}

    def add(self, trial: Trial) -> None:
        """One more."""
        self._trials[trial.name] = trial

    @property
    def all(self) -> tuple[Trial, ...]:
        """The cheapest first."""
        return tuple(sorted(self._trials.values(), key=_by_price))

    def called(self, name: str) -> Trial | None:
        """None if it was not tried."""
        return self._trials.get(name)

    def attains(self, trial: Trial) -> bool:
        """Whether it is good enough."""
        return trial.attained >= self._goal - EPSILON

    @property
    def cheapest(self) -> Trial | None:
        """That attains the goal; of equally cheap ones that of the fewest machines, and of the least dram and ssd."""
        return min(filter(self.attains, self._trials.values()), key=_by_price, default=None)

    def missed_with(self, machines: Mapping[str, int]) -> bool:
        """Whether a cluster missed the goal that had as many machines of each type, or more."""
        return any(
            not self.attains(trial)
            and all(trial.cluster.machines.get(name, 0) >= count for name, count in machines.items())
            for trial in self._trials.values()
        )

    @property
    def furthest(self) -> Trial:
        """That attains the most; of equals the cheapest."""
        return max(self.all, key=lambda trial: trial.attained)

    def price_per_h(self, cluster: Cluster) -> float:
        """Whether or not it was tried."""
        return price_per_h(cluster, self._types)

    def fewer(self, chosen: Trial) -> Trial | None:
        """Of those with one of its machines fewer the one that attains the most; None if none was tried."""
        fewer = [trial for trial in self.all if _is_one_fewer(trial.cluster, chosen.cluster)]
        return max(fewer, key=_by_share, default=None)

    def cheaper(self, chosen: Trial) -> Trial | None:
        """What attains the most of all that is cheaper, or has fewer machines for the same; None if nothing was tried."""
        cost = _by_price(chosen)[:2]
        return max((trial for trial in self.all if _by_price(trial)[:2] < cost), key=_by_share, default=None)

    @property
    def curve(self) -> tuple[Trial, ...]:
        """Cheapest first, what each price buys: the best at it, unless something cheaper is clearly better."""
        found, best = list[Trial](), 0.0
        for trial in sorted(self._trials.values(), key=lambda trial: (trial.price_per_h, -trial.attained, trial.name)):
            dearer = not found or trial.price_per_h > found[-1].price_per_h + EPSILON
            if dearer and trial.attained >= best - BEATEN_BY:
                found.append(trial)
                best = max(best, trial.attained)
        return tuple(found)


def _by_price(trial: Trial) -> tuple[float, int, int, float, str]:
    memory_bytes = sum(trial.cluster.dram_budget_bytes.values()) + sum(trial.cluster.ssd_budget_bytes.values())
    return round(trial.price_per_h, 9), trial.cluster.count, memory_bytes, -trial.attained, trial.name


def _by_share(trial: Trial) -> tuple[float, str]:
    return trial.attained, trial.name


def _is_one_fewer(cluster: Cluster, than: Cluster) -> bool:
    names = cluster.machines.keys() | than.machines.keys()
    fewer = [than.machines.get(name, 0) - cluster.machines.get(name, 0) for name in names]
    return sum(fewer) == 1 and min(fewer) >= 0
