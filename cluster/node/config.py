"""What a node is told at its start."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cluster.wire.encryption import Tls


@dataclass(frozen=True)
class NodeConfig:
    """A node's name, addresses, budgets and habits. Bytes are budgets, seconds are intervals.

    `device` is "cpu", "cuda", "cuda:N" or "auto"; `device_bytes` may be 0 for what suits the device.
    """

    name: str
    scheduler_address: str
    store_url: str
    ssd_dir: str
    ssd_bytes: int
    dram_bytes: int
    device_bytes: int
    device: str = "cpu"
    host: str = "127.0.0.1"
    store_options: Mapping[str, Any] = field(default_factory=dict)
    store_reader: str = "auto"
    pool_size: int = 1
    threads: int = 2
    fetch_threads: int = 8
    dram_ready_bytes: int = 256 << 20
    report_interval_s: float = 1.0
    use_peers: bool = True
    tls: Tls | None = None
