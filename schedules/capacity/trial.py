"""What became of the trace on one cluster."""

from collections.abc import Mapping
from dataclasses import dataclass

from schedules.capacity.clusters import Cluster


@dataclass(frozen=True)
class Usage:
    """How busy what the cluster is made of was, as shares from 0 to 1 of what there is: accelerators' memory reserved, in the
    mean and in the busiest minute, the network cards' and the store's bytes, in the mean and the busiest minute."""

    device: float
    device_busiest: float
    network: float
    network_busiest: float
    store: float | None
    store_busiest: float | None


@dataclass(frozen=True)
class Trial:
    """`attained` is the share of requests that were served within their levels, `by_model` the same by model's name. TTFT and
    TPOT by percentiles ("p50", "p95", "p99"), in seconds, empty where there was none; `cold` is the share that waited for a
    start, `unserved` of those that got no whole answer. `price_per_mtok` is the price of a million tokens of answers."""

    name: str
    cluster: Cluster
    price_per_h: float
    attained: float
    by_model: Mapping[str, float]
    ttft_s: Mapping[str, float]
    cold_ttft_s: Mapping[str, float]
    tpot_s: Mapping[str, float]
    cold: float
    unserved: float
    price_per_mtok: float
    moved_bytes: Mapping[str, int]
    usage: Usage
    requests: int
