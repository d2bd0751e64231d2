"""HydraServe's figures 9, 11 and 13, played: the same trace for each system on test bed (ii)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from benchmarks.papers.beds import HABITS, HALVED, OURS, bed_two, startup
from benchmarks.papers.calibration import Calibration
from benchmarks.papers.hydraserve import HYDRA, HYDRA_CACHE, SLLM, TASKS, VLLM, Spread
from benchmarks.papers.workload import offered
from schedules.simulation.outcomes import Outcomes
from schedules.simulation.play import play
from schedules.simulation.scenario import Scenario
from schedules.systems import SYSTEMS
from schedules.traces.trace import Trace

UNSLICED = f"{HYDRA}, compute not sliced"
"""Its artifact sets cGPU's policy to 1, by which whoever else is idle leaves its share."""
PLAYED: Mapping[str, str] = {
    VLLM: "vllm", SLLM: "serverlessllm", HYDRA: "hydraserve", HYDRA_CACHE: "hydraserve-cache", OURS: "firsttoken",
    UNSLICED: "hydraserve", HALVED: "firsttoken",
}  # fmt: skip
"""Of the systems' names as the papers have them, those in the registry."""
_HABITS = replace(HABITS, tokens_at_once=4)


@dataclass(frozen=True, eq=False)
class Served:
    """What became of a trace under one system."""

    system: str
    trace: Trace
    outcomes: Outcomes

    @property
    def in_time(self) -> NDArray[np.bool_]:
        """By request, whether its first token came within its model's time."""
        ttft_s = np.array([target.ttft_s or np.inf for target in self.trace.targets])
        return self.outcomes.attained(ttft_s, np.full(len(ttft_s), np.inf))

    @property
    def attained(self) -> float:
        return float(self.in_time.mean())

    @property
    def cold(self) -> float:
        """Share of requests that waited for a start."""
        return float(self.outcomes.cold.mean())

    def attained_of(self, task: str) -> float:
        """Of the requests of one task."""
        of_task = np.array([name.split("-")[0] == task for name in self.trace.models])[self.trace.model]
        return float(self.in_time[of_task].mean())

    @property
    def by_task(self) -> dict[str, float]:
        return {task: self.attained_of(task) for task in TASKS}

    @property
    def tpot_s(self) -> NDArray[np.float64]:
        """By model, the mean over its requests of the time per output token; NaN without any."""
        return _mean_by(self.trace.model, self.outcomes.tpot_s, len(self.trace.models))


def serve(system: str, trace: Trace, calibration: Calibration) -> Served:
    """Played."""
    nodes = bed_two(system, calibration)
    gpus = {"a": "A10", "v": "V100"}
    startups = {node.name: startup(system, calibration.costs[gpus[node.name[0]]]) for node in nodes}
    scenario = Scenario(nodes, offered(trace), trace, SYSTEMS[PLAYED[system]], _HABITS, startups)
    return Served(system, trace, play(scenario))


def ratios(served: Served, plain: Served) -> tuple[Spread, Spread]:
    """Over the models that were called: time per output token, and cost, over what they are with plain serving."""
    tpot = _over(served.tpot_s, plain.tpot_s)
    return tpot, _over(served.outcomes.cost_byte_s, plain.outcomes.cost_byte_s)


def _over(ours: NDArray[np.float64], plain: NDArray[np.float64]) -> Spread:
    both = np.isfinite(ours) & np.isfinite(plain) & (plain > 0)
    found = ours[both] / plain[both]
    return Spread(float(found.mean()), float(np.median(found)), float(found.max()))


def _mean_by(group: NDArray[np.int32], values: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    known = np.isfinite(values)
    total = np.bincount(group[known], values[known], count)
    with np.errstate(invalid="ignore"):
        return total / np.bincount(group[known], minlength=count)
