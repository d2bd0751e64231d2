"""What a decision may look at: frozen values, the unit in every name."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from schedules.estimates import KnownSpeeds
    from schedules.ledgers.finds import Finds


class ModelKey(NamedTuple):
    """What a version of a model is known by: whose weights, and which."""

    name: str
    digest: str


@dataclass(frozen=True)
class Unit:
    """The smallest part of a model that is fetched, cached and placed."""

    name: str
    digest: str
    size_bytes: int


@dataclass(frozen=True)
class Widths:
    """How many numbers of `number_bytes` each a model makes of one token: what goes from layer to layer, what a layer's
    feed-forward has in its middle (with several experts, of all that a token goes to), queries, keys and values together, and
    its logits. `plain_attention` if flash attention does not know what it attends by."""

    hidden: int
    inner: int
    attention: int
    vocabulary: int
    number_bytes: int
    plain_attention: bool = False


@dataclass(frozen=True)
class Model:
    """A published model, as placement sees it: units in order, embedding first, head last.

    With `tied_embeddings` the last stage needs the embedding unit too, since it holds the output matrix. With
    `rows_first` the first stage can begin with a few of the embedding's rows, long before it has the unit. Without `widths`
    its stages reserve nothing for what they compute.
    """

    name: str
    digest: str
    units: tuple[Unit, ...]
    tied_embeddings: bool
    kv_bytes_per_token: int
    rows_first: bool = False
    widths: Widths | None = None

    @cached_property
    def key(self) -> ModelKey:
        return ModelKey(self.name, self.digest)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Bytes of each of its units."""
        return tuple([unit.size_bytes for unit in self.units])

    @cached_property
    def digests(self) -> tuple[str, ...]:
        """Of each of its units."""
        return tuple([unit.digest for unit in self.units])

    @property
    def layers(self) -> int:
        return len(self.units) - 2

    @cached_property
    def size_bytes(self) -> int:
        return sum(self.sizes)


@dataclass(frozen=True)
class Rate:
    """A measured quantity as decisions use it: its running mean, its bad end (slow for a speed, long for a duration), and
    of how many samples. What it is of and its unit: schedules.rates."""

    mean: float
    bad: float
    samples: int


@dataclass(frozen=True)
class Node:
    """A node as it last reported itself. `units` maps a unit's digest to the fastest tier that holds it.

    At `peer_port` it gives units to other nodes, if it does at all. `rates` has what was measured there, by the names of
    schedules.rates; what was never measured is absent. Nodes of one `machine` share it; "" is one of its own. Those of one
    `box` have one network card, one dram and one ssd among them, and what one of them holds they all hold. `gpu` names the
    GPU in the world on which its stages compute, "" if that is a CPU; each of them has `context_bytes` there beside what it
    loads and computes.
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
    rates: Mapping[str, Rate] = field(default_factory=dict)
    machine: str = ""
    gpu: str = ""
    context_bytes: int = 0
    box: str = ""

    @property
    def card(self) -> str:
        """The same for nodes that have their network card in common: their box, or the node's own name."""
        return self.box or self.name

    @property
    def computes_on(self) -> str:
        """The same for nodes whose stages take turns: their GPU, or the node's own name."""
        return self.gpu or self.name

    @property
    def shared_with(self) -> str:
        """The same for nodes that have cores and ssd in common: their machine, or the node's own name."""
        return self.box or self.machine or self.name

    @property
    def device_free_bytes(self) -> int:
        return self.device_bytes - self.device_reserved_bytes

    @property
    def stage_free_bytes(self) -> int:
        """What one more stage can have there for itself, beside its process's context."""
        return self.device_free_bytes - self.context_bytes


@dataclass(frozen=True)
class Ranks:
    """The nodes of a view by name, and those that may be given stages by (-free bytes, name) and by (-bytes per second of
    the network card, -free bytes, name), each in order, where free is what one more stage can have; what the store gives to
    all nodes together, None if it was not seen to limit them; the speeds of the nodes, as far as anybody asked for them;
    whether any of the nodes computes on a GPU, and whether all do; and what was found of where units lie, as long as it is
    good."""

    by_name: Mapping[str, Node]
    by_memory: Sequence[tuple[int, str]]
    by_network: Sequence[tuple[float, int, str]]
    store_bytes_per_s: float | None
    speeds: "KnownSpeeds"
    gpus: bool
    all_gpus: bool
    finds: "Finds"


@dataclass(frozen=True)
class View:
    """All nodes known, by name order. `holders`, if given, maps a unit's digest to the names of the nodes that hold it;
    `ranks` are kept by whoever hears of many nodes (schedules.ledgers.nodes)."""

    nodes: tuple[Node, ...]
    holders: Mapping[str, Collection[str]] | None = field(default=None, compare=False)
    ranks: Ranks | None = field(default=None, compare=False, repr=False)

    def node(self, name: str) -> Node | None:
        """The node called `name`, None if it is not there."""
        return self._by_name.get(name)

    def holding(self, digest: str) -> Collection[str]:
        """Names of the nodes that hold a unit."""
        if self.holders is None:
            return [node.name for node in self.nodes if digest in node.units]
        return self.holders.get(digest, ())

    @cached_property
    def _by_name(self) -> Mapping[str, Node]:
        if self.ranks is not None:
            return self.ranks.by_name
        return {node.name: node for node in self.nodes}


@dataclass(frozen=True)
class StagePlan:
    """One stage of a placement: `node` runs layers [first_layer, end_layer) and needs `units`, in order of use.

    For each of them `sources` say whence the node asks for it, one after the other until one has it right
    (schedules.placing.sources has their names); without any if the stage runs already. The first token does not wait for
    those that `later` names: they come behind what it waits for, and of these `held_back` are not even asked for before the
    group has answered. On a GPU it reserves `workspace_bytes` for what it computes, and `outside_bytes` for what the driver
    takes beside all that the stage asks for itself (schedules.placing.workspace), its process's context among it.
    """

    node: str
    first_layer: int
    end_layer: int
    units: tuple[str, ...]
    weight_bytes: int
    kv_bytes: int
    later: tuple[str, ...] = ()
    sources: tuple[tuple[str, ...], ...] = ()
    held_back: tuple[str, ...] = ()
    workspace_bytes: int = 0
    outside_bytes: int = 0

    @property
    def reserve_bytes(self) -> int:
        return self.weight_bytes + self.kv_bytes + self.workspace_bytes + self.outside_bytes


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

    @cached_property
    def nodes(self) -> tuple[str, ...]:
        """Of its stages, in their order."""
        return tuple([stage.node for stage in self.stages])

    @cached_property
    def reserved_bytes(self) -> Mapping[str, int]:
        """What it reserves where, by node."""
        return {stage.node: stage.reserve_bytes for stage in self.stages}


@dataclass(frozen=True)
class NoPlacement:
    """The model cannot be placed now; `reason` is one sentence for a person."""

    reason: str
