"""What cold starts teach: by how much they were predicted wrong, and what is added to the next predictions for it.

Formulas leave out what nobody measures by itself (the way through the front end, the hand-over of units, cores that
several nodes share). All of it is seconds that do not grow with the model, so it is learned as seconds, per degree; apart
for starts over the network, from ssd and from dram, whose cores have more or less to do. How long the bytes and the forming
of the group took is left out, as predicted and as it was: both are measured by themselves, and a start that met them slow
says nothing of the next.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from statistics import median

from schedules.placing.decision import NETWORK, Corrections

KEPT = 16
BAD_END = 0.9


@dataclass(frozen=True)
class Lesson:
    """A cold start as it was predicted without any correction, and as it was; seconds. Time that it waited is in neither.

    `slowest` is where the slowest of its bytes came from: NETWORK, "ssd" or "dram". The seconds until the group was formed
    and its last byte had come, `ready_predicted_s` and `ready_measured_s`, are parts of the others.
    """

    degree: int
    predicted_s: float
    measured_s: float
    slowest: str = NETWORK
    ready_predicted_s: float = 0.0
    ready_measured_s: float = 0.0

    @property
    def error_s(self) -> float:
        return (self.measured_s - self.ready_measured_s) - (self.predicted_s - self.ready_predicted_s)


def lesson(
    degree: int,
    uncorrected_s: float,
    ttft_s: float,
    slowest: str,
    parts: Mapping[str, float],
    formed_s: float,
    fetched_s: float,
) -> Lesson:
    """From a prediction and its parts, and from how it came out, all in seconds: `formed_s` from the first order to the group
    being formed, `fetched_s` from the arrival to the last byte."""
    waited_s = parts.get("waited", 0.0)
    ready_s = waited_s + max(parts.get("form group", 0.0), parts.get("fetch", 0.0))
    return Lesson(degree, uncorrected_s, ttft_s, slowest, ready_s, max(waited_s + formed_s, fetched_s))


@dataclass(frozen=True)
class Learned:
    """The latest lessons by degree and by where the slowest bytes came from, oldest first, and the latest times of a hop in
    seconds."""

    lessons: Mapping[tuple[int, str], tuple[Lesson, ...]] = field(default_factory=dict)
    hops_s: tuple[float, ...] = ()

    def with_lesson(self, lesson: Lesson) -> "Learned":
        """One more; beyond KEPT the oldest of its kind is forgotten."""
        kind = lesson.degree, lesson.slowest
        kept = (*self.lessons.get(kind, ()), lesson)[-KEPT:]
        return Learned({**self.lessons, kind: kept}, self.hops_s)

    def with_hop(self, hop_s: float) -> "Learned":
        """One more time of a hop."""
        return Learned(self.lessons, (*self.hops_s, hop_s)[-KEPT:])

    @cached_property
    def corrections(self) -> Corrections:
        """Medians, so that one odd start teaches nothing; at the bad end what nine of ten starts stayed below.

        The only start of its kind, often the first ever of its nodes, is believed by half.
        """
        return Corrections(
            {kind: _ends([lesson.error_s for lesson in lessons]) for kind, lessons in self.lessons.items()},
            median(self.hops_s) if self.hops_s else 0.0,
        )


def _ends(errors: list[float]) -> tuple[float, float]:
    ordered = sorted(errors if len(errors) > 1 else [0.0, *errors])
    return median(ordered), ordered[round(BAD_END * (len(ordered) - 1))]
