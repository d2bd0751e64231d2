"""A move as it goes on: who makes way, who follows, and which step it is at."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from schedules.moving.plan import Handover, Heir, Plan, Step
from schedules.moving.seats import Seat
from schedules.service import Replica


@dataclass(eq=False)
class Way:
    """One replica makes way for `heirs`. Of its requests that could not go over it is counted how often; those of `later` are
    not tried again yet."""

    old: Replica
    heirs: list[Replica]
    idle_since_s: float | None = None
    stayed: Counter[str] = field(default_factory=Counter)
    later: set[str] = field(default_factory=set)


@dataclass(eq=False)
class Move:
    """`ways` are those that are not over."""

    plan: Plan
    ways: list[Way]
    since_s: float
    step: Step = Step.ORDERED

    @property
    def switching(self) -> bool:
        return self.step is Step.SWITCHING

    @property
    def heirs(self) -> Iterator[Replica]:
        return (heir for way in self.ways for heir in way.heirs)


def handover_of(way: Way) -> Handover:
    """As it is told."""
    assert way.old.placement is not None
    heirs = [Heir(heir.group, heir.placement) for heir in way.heirs if heir.placement is not None]
    return Handover(way.old.group, way.old.service.key, way.old.placement, tuple(heirs))


def predicted_s(seats: Sequence[Seat], switch_s: float | None) -> dict[str, float]:
    """As far as anything is known."""
    found = dict[str, float]()
    if all(seat.ready_s is not None for seat in seats):
        found["ready"] = max([seat.ready_s or 0.0 for seat in seats], default=0.0)
    if switch_s is not None:
        found["switch"] = switch_s
    return found
