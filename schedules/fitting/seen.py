"""What happened on a cluster, as a front end kept it: the facts that a world is fitted to. All times are unix seconds."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from schedules.traces.happened import Asked

SAME_S = 0.1
"""A cold start and the request that it was for arrive at one time, but for what a wall clock was set by meanwhile."""


@dataclass(frozen=True)
class Fetch:
    """A unit that came into a node's dram; `source` is "remote", "peer", "ssd" or, if it was there, "dram"."""

    node: str
    unit: str
    source: str
    size_bytes: int
    begun_s: float
    ended_s: float


@dataclass(frozen=True)
class FirstStep:
    """A stage's part of the first prefill: how long it computed, the time that it waited for units left out."""

    node: str
    computed_s: float


@dataclass(frozen=True)
class Began:
    """A cold start: the request that it was for came at `arrived_s`, its stages were ordered at `ordered_s` and in their
    group at `formed_s`, if anybody said so. `waited_s` it stood back for room or links. Unless `one_clock`, its machines'
    clocks disagree, and only how long something took is to be believed."""

    model: str
    nodes: tuple[str, ...]
    arrived_s: float
    ordered_s: float
    ttft_s: float
    formed_s: float | None = None
    waited_s: float = 0.0
    predicted_s: float | None = None
    one_clock: bool = True
    fetches: tuple[Fetch, ...] = ()
    steps: tuple[FirstStep, ...] = ()

    @property
    def degree(self) -> int:
        return len(self.nodes)

    @property
    def is_local(self) -> bool:
        """Whether nothing came to its nodes over the network."""
        return not any(fetch.source in ("remote", "peer") for fetch in self.fetches)


@dataclass(frozen=True)
class Happened:
    """Starts and requests from `since_s` to before `until_s`, each by time of arrival."""

    since_s: float
    until_s: float
    starts: tuple[Began, ...]
    asked: tuple[Asked, ...]

    def part(self, since_s: float, until_s: float) -> "Happened":
        """What of it arrived in that time."""
        starts = tuple(start for start in self.starts if since_s <= start.arrived_s < until_s)
        asked = tuple(each for each in self.asked if since_s <= each.at_s < until_s)
        return Happened(since_s, until_s, starts, asked)

    def of(self, models: Mapping[str, object]) -> "Happened":
        """What of it was for these models, and not refused."""
        starts = tuple(start for start in self.starts if start.model in models)
        asked = tuple(each for each in self.asked if each.model in models and not each.refused)
        return replace(self, starts=starts, asked=asked)


def matched(starts: Sequence[Began], asked: Sequence[Asked]) -> dict[int, int]:
    """By a start's place the place of the request that it was for; starts whose request is not there are absent."""
    by_model = dict[str, list[tuple[float, int]]]()
    for place, each in enumerate(asked):
        by_model.setdefault(each.model, []).append((each.at_s, place))
    for arrivals in by_model.values():
        arrivals.sort()
    found = dict[int, int]()
    for place, start in enumerate(starts):
        arrivals = by_model.get(start.model, [])
        after = bisect_left(arrivals, (start.arrived_s, -1))
        near = [(abs(at_s - start.arrived_s), of) for at_s, of in arrivals[max(0, after - 1) : after + 1]]
        apart_s, of = min(near, default=(float("inf"), -1))
        if apart_s <= SAME_S:
            found[place] = of
    return found
