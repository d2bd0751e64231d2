"""Types of machines to plan with: examples for a first look, and those of a cluster that is there.

Prices of the examples are rounded on-demand list prices of large clouds in the United States as of about 2025, in dollars:
they differ by region and contract, and fall. Their rates are not measured either, but shares of what data sheets promise (of
memory bandwidth about 0.65, of dense bfloat16 arithmetic 0.4 to 0.5, of cards and ssds 0.8 or so), with starts as a pool of
waiting stage processes has them. Who is to spend money replaces both: prices by offers, rates by measured ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import median
from types import MappingProxyType

from schedules.capacity.clusters import NodeType
from schedules.capacity.errors import BadQuestion
from schedules.estimates import speeds_of
from schedules.facts import Node, Rate
from schedules.rates import BUS, DECODE, NIC, PREFILL, REACH, SSD, STORE, formed

_GB = 1_000_000_000
_CONTEXT_BYTES = 600 << 20
_BAD = 0.8
"""The bad end of an example's speeds, of their means."""
_STARTS = {1: 0.2, 2: 0.25, 4: 0.35, 8: 0.5}
_ALIKE = 0.25
"""Machines are of one type if what they have differs by no more than this share."""


def _example(
    name: str, price_per_h: float, device_gb: float, host: tuple[float, float], rates: tuple[float, ...], nodes: int = 1
) -> NodeType:
    """`host` is GB of dram and ssd for units; `rates` are of card, ssd, bus and weights in GB/s, and of arithmetic in
    TFLOP/s, which for weights of two bytes is bytes of weights times tokens."""
    dram_gb, ssd_gb = host
    nic, ssd, bus, decode, tflops = rates
    speeds = {NIC: nic * _GB, SSD: ssd * _GB, BUS: bus * _GB, DECODE: decode * _GB, PREFILL: tflops * 1e12}
    found = {what: Rate(value, value * _BAD, 1) for what, value in speeds.items()}
    found[REACH] = Rate(0.03, 0.1, 1)
    found |= {formed(degree): Rate(seconds, 2 * seconds, 1) for degree, seconds in _STARTS.items()}
    sizes = (int(device_gb * _GB), int(dram_gb * _GB), int(ssd_gb * _GB))
    return NodeType(name, price_per_h, *sizes, found, nodes, _CONTEXT_BYTES)


EXAMPLES: Mapping[str, NodeType] = MappingProxyType({
    kind.name: kind
    for kind in (
        _example("L4", 1.0, 23.0, (20.0, 400.0), (1.1, 1.5, 20.0, 200.0, 48.0)),
        _example("A10", 1.2, 23.0, (20.0, 400.0), (1.1, 1.5, 20.0, 400.0, 50.0)),
        _example("A100-80", 3.7, 79.0, (180.0, 800.0), (2.2, 2.5, 22.0, 1300.0, 150.0)),
        _example("H100", 7.0, 79.0, (260.0, 3000.0), (4.5, 4.0, 45.0, 2200.0, 400.0)),
        _example("H200", 8.0, 139.0, (200.0, 3500.0), (10.0, 2.5, 45.0, 3200.0, 400.0)),
        _example("8xH200", 63.0, 139.0, (1600.0, 28000.0), (10.0, 20.0, 45.0, 3200.0, 400.0), nodes=8),
    )
})  # fmt: skip
"""By name. The last is a machine of eight accelerators, of which the one before is an eighth; the others have one each."""


def named(name: str, price_per_h: float) -> NodeType:
    """The example of that name, in capitals or not, for another price. BadQuestion if there is none."""
    found = next((kind for known, kind in EXAMPLES.items() if known.lower() == name.lower()), None)
    if found is None:
        raise BadQuestion(f"nothing is known of machines {name!r}: examples are {', '.join(EXAMPLES)}")
    return replace(found, price_per_h=price_per_h)


def of_cluster(nodes: Sequence[Node], price_per_h: float | Mapping[str, float]) -> tuple[NodeType, ...]:
    """The machines of a cluster as types, each with the medians of its nodes' rates: "machine", or "machine-1" and so on from
    the largest. A price is that of a machine, of all or by these names. BadQuestion if nothing was measured, or there is no
    price.

    Machines are alike if they have as many nodes, and about as much memory and as fast cards. The store's rate is none of a
    machine, and left out.
    """
    machines: dict[str, list[Node]] = {}
    for node in sorted(nodes, key=lambda node: node.name):
        if speeds_of(node.rates, bad=False) is not None:
            machines.setdefault(node.shared_with, []).append(node)
    if not machines:
        raise BadQuestion(
            "nothing says how fast the nodes of the cluster are: measure them with `firsttoken calibrate`"
        )
    kinds: list[list[list[Node]]] = []
    for machine in sorted(machines.values(), key=lambda machine: (-_memory(machine), machine[0].name)):
        alike = next((kind for kind in kinds if _are_alike(kind[0], machine)), None)
        if alike is None:
            kinds.append([machine])
        else:
            alike.append(machine)
    names = ["machine"] if len(kinds) == 1 else [f"machine-{place + 1}" for place in range(len(kinds))]
    return tuple(_type(name, kind, _price(name, price_per_h)) for name, kind in zip(names, kinds, strict=True))


def store_of(nodes: Sequence[Node]) -> float | None:
    """What the store gives to all nodes together, in bytes a second; None if it was not seen to limit them."""
    known = [node.rates[STORE].mean for node in nodes if STORE in node.rates]
    return median(known) if known else None


def _price(name: str, price_per_h: float | Mapping[str, float]) -> float:
    if not isinstance(price_per_h, Mapping):
        return price_per_h
    if name not in price_per_h:
        raise BadQuestion(f"nothing says what an hour of {name!r} costs")
    return price_per_h[name]


def _memory(machine: Sequence[Node]) -> int:
    return sum(node.device_bytes for node in machine)


def _are_alike(one: Sequence[Node], other: Sequence[Node]) -> bool:
    def figures(machine: Sequence[Node]) -> tuple[float, ...]:
        whole = (_memory(machine), sum(node.dram_bytes for node in machine), sum(node.ssd_bytes for node in machine))
        return (*whole, machine[0].rates[NIC].mean)

    on_gpus = [BUS in machine[0].rates for machine in (one, other)]
    apart = [abs(a - b) / max(a, b, 1.0) for a, b in zip(figures(one), figures(other), strict=True)]
    return len(one) == len(other) and on_gpus[0] == on_gpus[1] and max(apart) <= _ALIKE


def _type(name: str, machines: Sequence[Sequence[Node]], price_per_h: float) -> NodeType:
    nodes = [node for machine in machines for node in machine]
    count = len(machines[0])
    return NodeType(
        name,
        price_per_h,
        min(node.device_bytes for node in nodes),
        min(sum(node.dram_bytes for node in machine) for machine in machines),
        min(sum(node.ssd_bytes for node in machine) for machine in machines),
        _medians(nodes),
        count,
        max(node.context_bytes for node in nodes),
    )


def _medians(nodes: Sequence[Node]) -> dict[str, Rate]:
    """Of what was measured on any of them."""
    names = sorted({name for node in nodes for name in node.rates} - {STORE})
    found = {}
    for name in names:
        known = [node.rates[name] for node in nodes if name in node.rates]
        found[name] = Rate(
            median(rate.mean for rate in known), median(rate.bad for rate in known), sum(rate.samples for rate in known)
        )
    return found
