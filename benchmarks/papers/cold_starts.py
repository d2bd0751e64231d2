"""HydraServe's figure 7, played: one request for a model that is nowhere, or in the memory of its node."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, median

import numpy as np

from benchmarks.papers.beds import HABITS, OURS, bed_one, startup
from benchmarks.papers.calibration import MODELS, POINTS, Calibration, Point, calibrate, rounded
from benchmarks.papers.hydraserve import DEGREES, FIGURE7_PROMPT_TOKENS, HYDRA_1, HYDRA_4, KV_BYTES, SLLM_CACHED
from benchmarks.papers.models import model
from schedules.facts import Model
from schedules.objectives import Objectives
from schedules.placing.policies.fixed import Fixed
from schedules.simulation.play import play
from schedules.simulation.scenario import Offered, Scenario
from schedules.systems.system import Keeps, System
from schedules.traces.trace import Provenance, Trace

HYDRASERVE = (HYDRA_1, HYDRA_4)


def _fixed(_seed: int) -> Fixed:
    return Fixed()


FORCED = System("forced", _fixed, consolidate=False, keeps=Keeps(dram=True, ssd=False))
"""So many stages as the figure's system is made to have."""


@dataclass(frozen=True)
class Compared:
    """Theirs and ours, in seconds."""

    point: Point
    published_s: float
    played_s: float

    @property
    def error(self) -> float:
        return self.played_s / self.published_s - 1


def cold_start_s(point: Point, calibration: Calibration, system: System = FORCED, degree: int | None = None) -> float:
    """Time to first token, played on four nodes of the point's GPU."""
    known = model(point.model)
    there = dict.fromkeys(known.digests, "dram") if point.system == SLLM_CACHED else None
    nodes = bed_one(point.gpu, point.system, calibration, there)
    began = startup(point.system, calibration.costs[point.gpu])
    played = play(
        Scenario(
            nodes,
            (Offered(known, _wanted(known, degree or DEGREES[point.system])),),
            _one(known.name),
            system,
            HABITS,
            {node.name: began for node in nodes},
        )
    )
    return float(played.ttft_s[0])


def played(points: Sequence[Point], calibration: Calibration) -> list[Compared]:
    """All of them."""
    return [Compared(point, point.published_s, cold_start_s(point, calibration)) for point in points]


def left_out(parts: Callable[[str], int]) -> list[Compared]:
    """Points of models that were not fitted to: those of each part by what is fitted to the others."""
    found = list[Compared]()
    for part in sorted({parts(name) for name in MODELS}):
        calibration = rounded(calibrate([point for point in POINTS if parts(point.model) != part]))
        found += played([point for point in POINTS if parts(point.model) == part], calibration)
    return found


def halves(name: str) -> int:
    """Every other model by size, so that either half has smaller ones and larger ones."""
    return sorted(MODELS, key=lambda each: model(each).size_bytes).index(name) % 2


def alone(name: str) -> int:
    """Each model is a part of its own."""
    return MODELS.index(name)


def errors(compared: Sequence[Compared]) -> tuple[float, float, float]:
    """Largest, mean and median of the relative errors."""
    found = [abs(each.error) for each in compared]
    return max(found), fmean(found), median(found)


def of_systems(compared: Sequence[Compared], systems: Sequence[str]) -> list[Compared]:
    """Those alone."""
    return [each for each in compared if each.point.system in systems]


def _wanted(known: Model, degree: int) -> Objectives:
    tokens = KV_BYTES // max(known.kv_bytes_per_token, 1)
    return Objectives(None, None, 0, 1, keep_alive_s=30.0, priority=0, max_degree=degree, kv_tokens=min(tokens, 16384))


def _one(name: str) -> Trace:
    one = np.ones(1, np.int32)
    return Trace(
        np.zeros(1), 0 * one, FIGURE7_PROMPT_TOKENS * one, one, one, (name,), 1.0, Provenance("one request")
    )  # fmt: skip


def ours_s(gpu: str, name: str, calibration: Calibration, system: System) -> float:
    """Our own decision, with HydraServe's costs."""
    return cold_start_s(Point(gpu, OURS, name), calibration, system, degree=4)
