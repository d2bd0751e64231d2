"""When each flow runs, as data. It knows no clock and no Prefect; the flow service turns it into deployments."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Cadence:
    """A flow and the seconds between two of its runs; None runs it only when asked."""

    flow: str
    every_s: float | None

    def __post_init__(self) -> None:
        if self.every_s is not None and self.every_s <= 0:
            raise ValueError(f"flow {self.flow!r} cannot run every {self.every_s} s")


PREWARM_EVERY_S = 300.0
CALIBRATE_EVERY_S = 86400.0
PUBLISH = Cadence("publish", None)
PREWARM = Cadence("prewarm", PREWARM_EVERY_S)
CALIBRATE = Cadence("calibrate", None)
CADENCES = (PUBLISH, PREWARM, CALIBRATE)


def with_intervals(cadences: Sequence[Cadence], every_s: Mapping[str, float]) -> tuple[Cadence, ...]:
    """`cadences` with the intervals of the named flows replaced; KeyError for a flow that is not among them."""
    known = {cadence.flow for cadence in cadences}
    for flow in every_s:
        if flow not in known:
            raise KeyError(flow)
    return tuple(replace(c, every_s=every_s.get(c.flow, c.every_s)) for c in cadences)
