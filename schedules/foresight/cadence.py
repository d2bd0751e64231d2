"""When each flow runs, as data. It knows no clock and no Prefect; the flow service turns it into deployments."""

from collections.abc import Mapping
from dataclasses import dataclass

from schedules.moving.plan import Kind


@dataclass(frozen=True)
class Cadence:
    """A flow and the seconds between two of its runs; None runs it only when asked."""

    flow: str
    every_s: float | None

    def __post_init__(self) -> None:
        if self.every_s is not None and self.every_s <= 0:
            raise ValueError(f"flow {self.flow!r} cannot run every {self.every_s} s")


PUBLISH, PREWARM, CALIBRATE, PLAN = "publish", "prewarm", "calibrate", "plan_capacity"
FLOWS = (PUBLISH, PREWARM, CALIBRATE, PLAN, *(kind.value for kind in Kind))


def cadences(every_s: Mapping[str, float]) -> tuple[Cadence, ...]:
    """Every flow with its interval; one that `every_s` does not name runs only when asked. KeyError for an unknown flow."""
    for flow in every_s:
        if flow not in FLOWS:
            raise KeyError(flow)
    return tuple(Cadence(flow, every_s.get(flow)) for flow in FLOWS)
