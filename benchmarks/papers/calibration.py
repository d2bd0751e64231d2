"""What a GPU's cold starts cost in each of figure 7's systems: a few constants, fitted to its points.

The formulas are here for the fit alone; what is compared with the figure is played. By GPU seven constants: what a card
gives, what goes over the bus, how fast vLLM loads what has come, the runtimes of the three systems, and what HydraServe
does after both bytes and runtime are there. One of the test bed: what the store gives to all nodes together.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from benchmarks.papers.hydraserve import FIGURE7_TTFT_S, HYDRA_1, HYDRA_4, SLLM, SLLM_CACHED, VLLM
from benchmarks.papers.models import model

DECODE_BYTES_PER_S: Mapping[str, float] = {"A10": 523e9, "V100": 785e9}
STEP_S = 0.0248
"""A token of 7B takes 42 ms and one of 13B 58 ms by what HydraServe's service levels are twice of (WARM_TPOT_S). Where that
was measured is not said. Taken for a V100's, the two give 785 GB/s, of the 900 that its memory has, and 24.8 ms a step that
go by no bytes, as an engine without graphs needs them to launch its kernels. An A10's memory has 600 GB/s."""


class Point(NamedTuple):
    """Of figure 7."""

    gpu: str
    system: str
    model: str

    @property
    def published_s(self) -> float:
        return FIGURE7_TTFT_S[self.gpu][self.system][self.model]


POINTS = tuple(
    Point(gpu, system, name)
    for gpu, systems in FIGURE7_TTFT_S.items()
    for system, models in systems.items()
    for name in models
)
MODELS = tuple(dict.fromkeys(point.model for point in POINTS))


@dataclass(frozen=True)
class Costs:
    """Of one kind of GPU. Runtimes end where bytes can go on: vLLM's and ServerlessLLM's before anything is fetched."""

    nic_bytes_per_s: float
    bus_bytes_per_s: float
    load_bytes_per_s: float
    vllm_s: float
    serverlessllm_s: float
    hydraserve_s: float
    tail_s: float


class Calibration(NamedTuple):
    """Of the test bed; `costs` by GPU."""

    store_bytes_per_s: float
    costs: Mapping[str, Costs]

    @property
    def constants(self) -> int:
        return 1 + 7 * len(self.costs)


def calibrate(points: Sequence[Point] = POINTS) -> Calibration:
    """The constants with which the squares of the relative errors at these points are least."""
    gpus = tuple(dict.fromkeys(point.gpu for point in points))
    start = [3.5e9, *[1.7e9, 5e9, 2e9, 8.0, 8.0, 4.0, 2.0] * len(gpus)]

    def made(values: Sequence[float]) -> Calibration:
        return Calibration(
            values[0], {gpu: Costs(*values[1 + 7 * i : 8 + 7 * i]) for i, gpu in enumerate(gpus)}
        )  # fmt: skip

    sizes = {name: model(name).size_bytes for name in {point.model for point in points}}

    def loss(values: Sequence[float]) -> float:
        calibration = made(values)
        return sum((formula_s(p, calibration, sizes[p.model]) / p.published_s - 1) ** 2 for p in points)

    return made(_least(loss, start))


def formula_s(point: Point, calibration: Calibration, size_bytes: float) -> float:
    """What a start takes by these constants."""
    costs = calibration.costs[point.gpu]
    wire_s, bus_s = size_bytes / costs.nic_bytes_per_s, size_bytes / costs.bus_bytes_per_s
    step_s = size_bytes / DECODE_BYTES_PER_S[point.gpu] + STEP_S
    match point.system:
        case s if s == VLLM:
            return costs.vllm_s + wire_s + size_bytes / costs.load_bytes_per_s + step_s
        case s if s == SLLM:
            return costs.serverlessllm_s + max(wire_s, bus_s) + step_s
        case s if s == SLLM_CACHED:
            return costs.serverlessllm_s + bus_s + step_s
        case s if s == HYDRA_1:
            return max(costs.hydraserve_s, wire_s, bus_s) + costs.tail_s + step_s
        case s if s == HYDRA_4:
            fetched_s = max(wire_s / 4, size_bytes / calibration.store_bytes_per_s)
            return max(costs.hydraserve_s, fetched_s, bus_s / 4) + costs.tail_s + step_s
        case _:
            raise ValueError(point.system)


def _least(loss: Callable[[Sequence[float]], float], start: Iterable[float], rounds: int = 400) -> list[float]:
    """Where `loss` is least, all values positive: one value after the other, by smaller and smaller shares of itself."""
    best = list(start)
    least, share = loss(best), 0.3
    for _ in range(rounds):
        before = least
        for place in range(len(best)):
            for factor in (1 + share, 1 / (1 + share)):
                tried = [*best[:place], best[place] * factor, *best[place + 1 :]]
                if (found := loss(tried)) < least:
                    best, least = tried, found
        if least == before:
            share /= 2
        if share < 1e-5:
            break
    return best


def rounded(calibration: Calibration) -> Calibration:
    """To three digits, as constants are told."""
    costs = {
        gpu: replace(each, **{name: float(f"{value:.3g}") for name, value in vars(each).items()})
        for gpu, each in calibration.costs.items()
    }
    return Calibration(float(f"{calibration.store_bytes_per_s:.3g}"), costs)
