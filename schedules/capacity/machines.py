"""The nodes of a cluster that nobody has yet."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from schedules.capacity.clusters import Cluster, NodeType
from schedules.capacity.search import Resource
from schedules.facts import Node, Rate
from schedules.rates import BUS, DECODE, NIC, PREFILL, SSD, STORE, is_duration

_FASTER: Mapping[Resource, tuple[str, ...]] = {
    Resource.COMPUTE: (DECODE, PREFILL, BUS),
    Resource.CARDS: (NIC,),
    Resource.STORE: (STORE,),
    Resource.SSD: (SSD,),
}


def price_per_h(cluster: Cluster, types: Iterable[NodeType]) -> float:
    """Of all its machines."""
    return sum(cluster.machines.get(kind.name, 0) * kind.price_per_h for kind in types)


def nodes_of(cluster: Cluster, types: Sequence[NodeType], twice: Resource | None = None) -> tuple[Node, ...]:
    """All nodes of all machines, with nothing in their tiers, in a fixed order; `twice` as much of something, or as fast."""
    return tuple(
        node
        for kind in types
        for number in range(cluster.machines.get(kind.name, 0))
        for node in _machine(kind, f"{kind.name}-{number + 1:04}", cluster, twice)
    )


def _machine(kind: NodeType, name: str, cluster: Cluster, twice: Resource | None) -> Iterator[Node]:
    rates = _rates(kind, cluster, twice)
    dram_bytes = cluster.dram_budget_bytes.get(kind.name, kind.dram_bytes) * (2 if twice is Resource.DRAM else 1)
    for place in range(kind.nodes):
        own = name if kind.nodes == 1 else f"{name}.{place}"
        yield Node(
            name=own,
            address=own,
            host=name,
            rendezvous_port=1,
            dram_bytes=dram_bytes // kind.nodes,
            dram_used_bytes=0,
            ssd_bytes=cluster.ssd_budget_bytes.get(kind.name, kind.ssd_bytes) // kind.nodes,
            ssd_used_bytes=0,
            device_bytes=kind.device_bytes * (2 if twice is Resource.DEVICE else 1),
            device_reserved_bytes=0,
            idle_stage_processes=1,
            busy_stage_processes=0,
            peer_port=1,
            rates=rates,
            machine=name,
            gpu=f"gpu:{own}" if BUS in kind.rates else "",
            context_bytes=kind.context_bytes,
        )


def _rates(kind: NodeType, cluster: Cluster, twice: Resource | None) -> dict[str, Rate]:
    rates = {name: rate for name, rate in kind.rates.items() if name != STORE}
    rates[NIC] = _times(rates[NIC], cluster.network)
    if cluster.store_bytes_per_s is not None:
        store_bytes_per_s = cluster.store_bytes_per_s * cluster.network
        rates[STORE] = Rate(store_bytes_per_s, store_bytes_per_s, 1)
    if twice is Resource.STARTUP:
        return {name: _times(rate, 0.5) if is_duration(name) else rate for name, rate in rates.items()}
    faster = _FASTER.get(twice, ()) if twice is not None else ()
    return {name: _times(rate, 2.0) if name in faster else rate for name, rate in rates.items()}


def _times(rate: Rate, factor: float) -> Rate:
    return Rate(rate.mean * factor, rate.bad * factor, rate.samples)
