"""ServerlessLLM's loading table, played: one model from the disks, or from the host's memory, to its GPU."""

from dataclasses import dataclass

import numpy as np

from benchmarks.papers.models import model
from benchmarks.papers.serverlessllm import A5000, A5000_SSD_BYTES_PER_S, FITTED_ON, LOADED, Loaded
from schedules.facts import Node, Rate
from schedules.objectives import Objectives
from schedules.rates import BUS, DECODE, NIC, PREFILL, SSD, formed
from schedules.simulation.play import play
from schedules.simulation.scenario import Offered, Scenario
from schedules.systems.plain import LRU
from schedules.traces.trace import Provenance, Trace

_GB, _AT_ONCE_S = 10**9, 1e-4
_NO_TIME_PER_S = 1e18


@dataclass(frozen=True)
class Row:
    """Theirs and ours."""

    loaded: Loaded
    size_bytes: int
    played_s: float
    fitted: bool

    @property
    def error(self) -> float:
        return self.played_s / self.loaded.serverlessllm_s - 1


def table() -> list[Row]:
    """Every row; those of FITTED_ON gave the rates."""
    return [
        Row(row, model(row.model).size_bytes, load_s(row), row.model == FITTED_ON) for row in LOADED
    ]  # fmt: skip


def load_s(row: Loaded) -> float:
    """Until its first token is there, all but loading taking no time."""
    known, (ssd, bus) = model(row.model), _rates(row.machine)
    speeds = {
        NIC: _GB, SSD: ssd, BUS: bus, DECODE: _NO_TIME_PER_S, PREFILL: _NO_TIME_PER_S, formed(1): _AT_ONCE_S,
    }  # fmt: skip
    node = Node(
        "node", "tcp://node", "node", 1, dram_bytes=1 << 40, dram_used_bytes=0, ssd_bytes=1 << 42, ssd_used_bytes=0,
        device_bytes=80 * _GB, device_reserved_bytes=0, idle_stage_processes=1, busy_stage_processes=0,
        units=dict.fromkeys(known.digests, row.tier), rates={name: Rate(value, value, 9) for name, value in speeds.items()},
    )  # fmt: skip
    wanted = Objectives(None, None, 0, 1, keep_alive_s=1.0, priority=0, max_degree=1, kv_tokens=16)
    one = np.ones(1, np.int32)
    trace = Trace(np.zeros(1), 0 * one, one, one, one, (known.name,), 1.0, Provenance("one request"))
    played = play(Scenario((node,), (Offered(known, wanted),), trace, LRU))
    return float(played.ttft_s[0])


def _rates(machine: str) -> tuple[float, float]:
    """Of its disks and of what is between the host's memory and the GPU."""
    fitted = {row.tier: model(row.model).size_bytes / row.serverlessllm_s for row in LOADED if row.model == FITTED_ON}
    return A5000_SSD_BYTES_PER_S if machine == A5000 else fitted["ssd"], fitted["dram"]
