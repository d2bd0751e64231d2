"""What a node is told at its start."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cluster.wire.encryption import Tls


@dataclass(frozen=True)
class NodeConfig:
    """A node's name, addresses, budgets and habits. Bytes are budgets, seconds are intervals.

    `device` is "cpu", "cuda", "cuda:N" or "auto"; `device_bytes` may be 0 for what suits the device. `gpu` is what the GPU is
    called in the world, once it is known which it is; "" on a CPU. `sharing` nodes of the machine have that GPU. One that is
    asked to end waits for its stages to be gone, for up to `grace_s`. What it takes in over the network is held to
    `network_bytes_per_s` in software; 0 sets no limit.
    """

    name: str
    scheduler_address: str
    store_url: str
    ssd_dir: str
    ssd_bytes: int
    dram_bytes: int
    device_bytes: int
    device: str
    host: str
    store_options: Mapping[str, Any]
    store_reader: str
    pool_size: int
    threads: int
    fetch_threads: int
    network_bytes_per_s: int
    dram_ready_bytes: int
    report_interval_s: float
    use_peers: bool
    tls: Tls | None
    gpu: str
    sharing: int
    grace_s: float
