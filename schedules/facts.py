"""What a decision may look at: frozen values, the unit in every name."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Unit:
    """The smallest part of a model that is fetched, cached and placed."""

    name: str
    digest: str
    size_bytes: int


@dataclass(frozen=True)
class Model:
    """A published model, as placement sees it: units in order, embedding first, head last.

    With `tied_embeddings` the last stage needs the embedding unit too, since it holds the output matrix.
    """

    name: str
    digest: str
    units: tuple[Unit, ...]
    tied_embeddings: bool
    kv_bytes_per_token: int

    @property
    def layers(self) -> int:
        return len(self.units) - 2

    @property
    def size_bytes(self) -> int:
        return sum(unit.size_bytes for unit in self.units)


@dataclass(frozen=True)
class Node:
    """A node as it last reported itself. `units` maps a unit's digest to the fastest tier that holds it.

    At `peer_port` it gives units to other nodes, if it does at all.
    """

    name: str
    address: str
    host: str
    rendezvous_port: int
    dram_bytes: int
    dram_used_bytes: int
    ssd_bytes: int
    ssd_used_bytes: int
    device_bytes: int
    device_reserved_bytes: int
    idle_stage_processes: int
    busy_stage_processes: int
    groups: tuple[str, ...] = ()
    units: Mapping[str, str] = field(default_factory=dict)
    draining: bool = False
    peer_port: int = 0

    @property
    def device_free_bytes(self) -> int:
        return self.device_bytes - self.device_reserved_bytes


@dataclass(frozen=True)
class View:
    """All nodes known, by name order."""

    nodes: tuple[Node, ...]

    def node(self, name: str) -> Node | None:
        """The node called `name`, None if it is not there."""
        return next((node for node in self.nodes if node.name == name), None)


@dataclass(frozen=True)
class StagePlan:
    """One stage of a placement: `node` runs layers [first_layer, end_layer) and needs `units`, in order of use."""

    node: str
    first_layer: int
    end_layer: int
    units: tuple[str, ...]
    weight_bytes: int
    kv_bytes: int

    @property
    def reserve_bytes(self) -> int:
        return self.weight_bytes + self.kv_bytes


@dataclass(frozen=True)
class Placement:
    """Where a group shall run; `reasons` say how it was chosen, in sentences."""

    model: str
    stages: tuple[StagePlan, ...]
    kv_tokens: int
    reasons: tuple[str, ...]

    @property
    def degree(self) -> int:
        return len(self.stages)


@dataclass(frozen=True)
class NoPlacement:
    """The model cannot be placed now; `reason` is one sentence for a person."""

    reason: str
