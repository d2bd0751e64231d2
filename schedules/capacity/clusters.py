"""Machines that can be had, at a price, and clusters of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from schedules.facts import Rate


@dataclass(frozen=True)
class NodeType:
    """A machine, and what an hour of it costs in whatever currency. It has so many `nodes`, one an accelerator, each with
    `device_bytes` and `rates` of its own (names: schedules.rates); its dram and ssd are for all of them together.

    A price and rates are those of the machine as it is; a planner may ask what less or more dram, ssd or network would do.
    """

    name: str
    price_per_h: float
    device_bytes: int
    dram_bytes: int
    ssd_bytes: int
    rates: Mapping[str, Rate]
    nodes: int = 1
    context_bytes: int = 0


@dataclass(frozen=True)
class Cluster:
    """So many machines of each type, by its name, and what the store gives to all of them together; None is no limit.
    `dram_budget_bytes` and `ssd_budget_bytes` are what a machine's nodes are given of them in all, `network` times the rates
    of its cards are as they would be."""

    machines: Mapping[str, int]
    store_bytes_per_s: float | None = None
    dram_budget_bytes: Mapping[str, int] = field(default_factory=dict)
    ssd_budget_bytes: Mapping[str, int] = field(default_factory=dict)
    network: float = 1.0

    @property
    def count(self) -> int:
        """Machines of all types."""
        return sum(self.machines.values())
