"""HydraServe's two test beds as nodes, and how its systems start a stage on them.

A GPU is a node. Those of one machine are in one box: they share its network card, and its memory as a cache. What that
leaves out: stages on one GPU do not slow each other but by slices, a machine's cores and buses are nobody's bottleneck, and
of test bed (ii)'s six storage servers each gives what the cards before it take.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.papers.calibration import DECODE_BYTES_PER_S, STEP_S, Calibration, Costs
from benchmarks.papers.hydraserve import HYDRA, HYDRA_CACHE, SLLM, SLLM_CACHED, VLLM
from schedules.facts import Node, Rate
from schedules.rates import BUS, DECODE, NIC, PREFILL, REACH, SSD, STORE, formed
from schedules.systems.system import Startup
from schedules.world.habits import Habits

GB, GIB = 10**9, 1 << 30
OURS, HALVED = "firsttoken", "firsttoken, half the compute"
"""Stages on one GPU do not slow each other here. Ours are not sliced, so it is also played as if each had half of its GPU."""


@dataclass(frozen=True)
class Machine:
    """Of a cloud: memory of a GPU that is to be had, of the host, and its card in Gbit/s."""

    name: str
    gpu: str
    gpus: int
    gpu_bytes: int
    dram_bytes: int
    card_gbit_per_s: float

    @property
    def cache_bytes(self) -> int:
        """What HydraServe takes of it for models, by the rule of its artifact (model_server_manager.py)."""
        return int(0.9 * self.dram_bytes) - (self.gpu_bytes + 4 * GIB) * self.gpus - 5 * GIB


A10_SMALL = Machine("gn7i-c32g1.8xlarge", "A10", 1, 22 * GIB, 188 * GIB, 16)
A10_LARGE = Machine("gn7i-c32g1.32xlarge", "A10", 4, 22 * GIB, 752 * GIB, 64)
V100 = Machine("gn6e-c12g1.12xlarge", "V100", 4, 32 * GIB, 368 * GIB, 16)

PREFILL_BYTES_TOKENS_PER_S: Mapping[str, float] = {"A10": 7.4e13, "V100": 8.9e13}
"""With which eight prompts of 1,024 tokens take the 1.5 s (7B) and 2.4 s (13B) that HydraServe's service levels are five
times of: what those were measured with it does not say."""
HABITS = Habits(hop_s=0.001, step_s=STEP_S)
BED_GBIT_PER_S = 16
"""Of the cards on which `Costs` were measured: of a faster one the same share is to be had."""
_INSTANT_S, _DISK_BYTES_PER_S = 0.001, 2e9


def startup(system: str, costs: Costs) -> Startup:
    """How a stage of that system comes up."""
    if system == VLLM:
        return Startup(serial=True, streams=False)
    if system in (SLLM, SLLM_CACHED):
        return Startup(serial=True)
    return Startup(tail_s=costs.tail_s, sliced=system in (HYDRA, HYDRA_CACHE))


def node(
    name: str, machine: Machine, system: str, costs: Costs, *, box: str = "", store: float | None = None,
    units: Mapping[str, str] | None = None,
) -> Node:  # fmt: skip
    """One of the machine's GPUs, which forms stages as that system does; ours as HydraServe's."""
    runtime_s = costs.hydraserve_s
    if system in (VLLM, SLLM, SLLM_CACHED):
        runtime_s = costs.vllm_s if system == VLLM else costs.serverlessllm_s
    compute = 0.5 if system == HALVED else 1.0
    speeds = {
        NIC: costs.nic_bytes_per_s * machine.card_gbit_per_s / BED_GBIT_PER_S,
        SSD: _DISK_BYTES_PER_S,
        BUS: costs.load_bytes_per_s if system == VLLM else costs.bus_bytes_per_s,
        DECODE: compute * DECODE_BYTES_PER_S[machine.gpu],
        PREFILL: compute * PREFILL_BYTES_TOKENS_PER_S[machine.gpu],
        REACH: _INSTANT_S,
        formed(1): runtime_s,
    } | ({} if store is None else {STORE: store})
    return Node(
        name, f"tcp://{name}", name, 1, dram_bytes=machine.cache_bytes, dram_used_bytes=0, ssd_bytes=0, ssd_used_bytes=0,
        device_bytes=machine.gpu_bytes, device_reserved_bytes=0, idle_stage_processes=1, busy_stage_processes=0,
        units=units or {}, peer_port=1, rates={key: Rate(value, value, 32) for key, value in speeds.items()}, box=box,
    )  # fmt: skip


def bed_one(
    gpu: str, system: str, calibration: Calibration, units: Mapping[str, str] | None = None
) -> tuple[Node, ...]:
    """Four machines of which each gives one GPU, as in figure 7."""
    machine, costs = A10_SMALL if gpu == "A10" else V100, calibration.costs[gpu]
    store = calibration.store_bytes_per_s
    return tuple(node(f"{gpu}-{i}", machine, system, costs, store=store, units=units) for i in range(4))


def bed_two(system: str, calibration: Calibration) -> tuple[Node, ...]:
    """Two machines with four A10 each, four with as many V100."""
    machines = [(f"a{i}", A10_LARGE) for i in range(2)] + [(f"v{i}", V100) for i in range(4)]
    return tuple(
        node(f"{name}-gpu{place}", machine, system, calibration.costs[machine.gpu], box=name)
        for name, machine in machines
        for place in range(machine.gpus)
    )
