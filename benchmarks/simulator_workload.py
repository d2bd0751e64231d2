"""What the simulator is measured on: models of seven sizes, nodes of one accelerator each, and a trace for them.

Sizes, layers and KV cache are those of well-known open models in two bytes a weight. Cards, ssds and accelerators are of the
kinds that clouds rent out, and no two nodes are quite alike.
"""

import random
from dataclasses import dataclass

from schedules.facts import Model, Node, Rate, Unit, Widths
from schedules.objectives import Objectives
from schedules.rates import BUS, DECODE, NIC, PREFILL, REACH, SSD, formed
from schedules.simulation.scenario import Offered, Scenario
from schedules.traces.lineup import numbered
from schedules.traces.synthesis import Recipe, synthesise

GB = 10**9
NODES, MODELS, REQUESTS = 500, 1000, 1_000_000
HOUR_S = 3600.0
CV, SKEW = 4.0, 1.0
TASKS = ("chat", "code", "summarisation")
DEVICE_BYTES, CONTEXT_BYTES = 80 * GB, GB // 2
DRAM_BYTES, SSD_BYTES = 200 * GB, 2000 * GB
GIVES_BYTES_PER_S = (2.0 * GB, 3.125 * GB, 6.25 * GB, 12.5 * GB)
"""Network cards of 16, 25, 50 and 100 Gbit/s."""
WANTED = Objectives(
    ttft_s=10.0,
    tpot_s=None,
    min_replicas=0,
    max_replicas=8,
    keep_alive_s=300.0,
    priority=0,
    max_degree=4,
    kv_tokens=32_768,
)


@dataclass(frozen=True)
class Size:
    """Models of it: `share` of all; bytes of a layer and of each end, numbers of a layer in its widths."""

    share: int
    layers: int
    size_bytes: int
    end_bytes: int
    kv_bytes_per_token: int
    hidden: int
    inner: int
    vocabulary: int


SIZES = (
    Size(4, 28, int(3.1 * GB), int(0.47 * GB), 28 << 10, 1536, 8960, 151_936),
    Size(3, 36, int(6.2 * GB), int(0.62 * GB), 36 << 10, 2048, 11_008, 151_936),
    Size(4, 28, int(15.2 * GB), int(1.09 * GB), 56 << 10, 3584, 18_944, 152_064),
    Size(4, 32, int(16.1 * GB), int(1.05 * GB), 128 << 10, 4096, 14_336, 128_256),
    Size(3, 48, int(29.5 * GB), int(1.56 * GB), 192 << 10, 5120, 13_824, 152_064),
    Size(1, 64, int(65.5 * GB), int(1.56 * GB), 256 << 10, 5120, 27_648, 152_064),
    Size(1, 80, int(141.1 * GB), int(2.10 * GB), 320 << 10, 8192, 28_672, 128_256),
)
"""1.5B, 3B, 7B, 8B, 14B, 32B and 70B."""
_SPREAD = [size for size in SIZES for _ in range(size.share)]


def model(name: str, size: Size) -> Model:
    """Of units that no other model has."""
    layer_bytes = (size.size_bytes - 2 * size.end_bytes) // size.layers
    sizes = {"embed": size.end_bytes}
    sizes |= {f"layer.{index:04d}": layer_bytes for index in range(size.layers)}
    sizes["head"] = size.end_bytes
    units = tuple(Unit(unit, f"{name}/{unit}", size_bytes) for unit, size_bytes in sizes.items())
    widths = Widths(size.hidden, size.inner, 3 * size.hidden, size.vocabulary, 2)
    return Model(name, f"{name}-digest", units, False, size.kv_bytes_per_token, widths=widths)


def node(index: int, chance: random.Random) -> Node:
    """An empty one."""
    means = {
        NIC: chance.choice(GIVES_BYTES_PER_S) * 0.9, SSD: chance.uniform(2.0, 6.0) * GB, BUS: 24.0 * GB,
        DECODE: chance.uniform(1.2, 1.6) * 1000 * GB, PREFILL: chance.uniform(2.0, 3.0) * 1e14, REACH: 0.02,
        formed(1): 1.0, formed(2): 1.1, formed(4): 1.3,
    }  # fmt: skip
    durations = {REACH, formed(1), formed(2), formed(4)}
    rates = {name: Rate(mean, mean * (1.25 if name in durations else 0.8), 32) for name, mean in means.items()}
    name = f"node-{index:04d}"
    return Node(
        name=name, address="", host="", rendezvous_port=0, dram_bytes=DRAM_BYTES, dram_used_bytes=0,
        ssd_bytes=SSD_BYTES, ssd_used_bytes=0, device_bytes=DEVICE_BYTES, device_reserved_bytes=0,
        idle_stage_processes=1, busy_stage_processes=0, peer_port=1, rates=rates, gpu=f"gpu-{index:04d}",
        context_bytes=CONTEXT_BYTES,
    )  # fmt: skip


def workload(nodes: int, models: int, requests: int, duration_s: float, seed: int) -> Scenario:
    """Requests by Zipf's law, each model's in bursts of its own; sizes do not go by how much a model is asked for."""
    chance = random.Random(seed)
    lineup = numbered(models, TASKS)
    trace = synthesise(Recipe(lineup, requests / duration_s, duration_s, cv=CV, skew=SKEW), seed)
    sizes = [_SPREAD[index % len(_SPREAD)] for index in range(models)]
    chance.shuffle(sizes)
    offered = tuple(Offered(model(served.name, size), WANTED) for served, size in zip(lineup, sizes, strict=True))
    made = tuple(node(index, chance) for index in range(nodes))
    return Scenario(made, offered, trace, seed=seed)
