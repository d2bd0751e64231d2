"""The settings of firsttoken for machines of a cluster."""

from collections.abc import Mapping, Sequence
from typing import Any

from schedules.capacity.clusters import Cluster, NodeType


def settings_of(cluster: Cluster, types: Sequence[NodeType]) -> Mapping[str, Mapping[str, Any]]:
    """By type of machine, "section.key" to value. Sizes are of one of its nodes."""
    return {kind.name: _settings(cluster, kind) for kind in types if cluster.machines.get(kind.name, 0)}


def _settings(cluster: Cluster, kind: NodeType) -> dict[str, Any]:
    return {
        "cluster.nodes": kind.nodes,
        "node.device_bytes": kind.device_bytes,
        "node.dram_bytes": cluster.dram_budget_bytes.get(kind.name, kind.dram_bytes) // kind.nodes,
        "node.ssd_bytes": cluster.ssd_budget_bytes.get(kind.name, kind.ssd_bytes) // kind.nodes,
    }
