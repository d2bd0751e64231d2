"""Reports: what the agent of a node says to its client, as an answer or of its own accord."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from cluster.wire.phases import Phase
from schedules.facts import Rate

TOPIC = "firsttoken"
"""The Dask event topic that nodes report on."""

ORPHANED_S, CUT_OFF_S = 2.0, 10.0
"""A group is without an owner when that has not renewed it for so long, which owners do about every second: the first where
nobody is connected at its door, the second where somebody is, who may be held up, stopped, or behind a cable that is cut."""


@dataclass(frozen=True)
class StageFormed:
    """The stage is in its group and waits for its units; the first stage takes requests at `host`:`port`."""

    group: str
    rank: int
    host: str
    port: int
    secret: str = field(repr=False)


@dataclass(frozen=True)
class NotDone:
    """The order was not carried out; `refused` if deciding again may help."""

    message: str
    refused: bool


@dataclass(frozen=True)
class Done:
    """The order was carried out."""


@dataclass(frozen=True)
class UnitsBrought:
    """Units brought to `tier`: bytes that had to be fetched, bytes that were there."""

    node: str
    tier: str
    units: int
    fetched_bytes: int
    present_bytes: int
    seconds: float


@dataclass(frozen=True)
class Probed:
    """What was measured, by names and in units of schedules.rates; what could not be is absent."""

    values: Mapping[str, float]


@dataclass(frozen=True)
class Phases:
    """Phases of one group on one node, and what that node's clock says now, in unix seconds."""

    phases: tuple[Phase, ...]
    now_s: float


@dataclass(frozen=True)
class Renewed:
    """The groups were renewed, but for those `missing`: the node has no stage of them, or they are another owner's."""

    missing: tuple[str, ...]


@dataclass(frozen=True)
class StageLease:
    """A stage on a node: the one of `rank` among `degree` of its group, formed or not, and whose it is. The owner has not
    renewed it for `unrenewed_s`. The first stage is `attended` if somebody is connected at its door."""

    group: str
    rank: int
    degree: int
    formed: bool
    attended: bool
    owner: str
    unrenewed_s: float

    @property
    def orphaned(self) -> bool:
        """Whether the first stage's owner is gone, and with it the group's."""
        return self.formed and self.unrenewed_s >= (CUT_OFF_S if self.attended else ORPHANED_S)


@dataclass(frozen=True)
class StageFacts:
    """What a stage on a node runs, as its order said: layers [bounds[rank], bounds[rank + 1]) of the model, by names of
    units; `weight_bytes` of the bytes reserved are theirs."""

    group: str
    model: str
    digest: str
    rank: int
    bounds: tuple[int, ...]
    units: tuple[str, ...]
    later: tuple[str, ...]
    weight_bytes: int
    reserve_bytes: int
    kv_tokens: int


@dataclass(frozen=True)
class NodeReport:
    """A node's state, by its own word. `sequence` grows with every report, since they come by two ways.

    The agent names each of its lives anew. `gained` and `lost` say what became of its units between `base` and `version`
    of them; from base 0 they are all units that there are. At `orders_port` it takes orders from who knows
    `orders_secret`. `peer_secret` lets other nodes fetch units at `peer_port`, and goes to nobody but them; from
    `rendezvous_secret` are made those of the groups that meet at `rendezvous_port`. `device_bytes` are what stages may
    reserve; one more has `context_bytes` of them for its process, on the GPU that `gpu` names. One that is `draining`
    takes no more stages, and ends when those that it has are gone, or soon. It is `fetching` while a cold start there waits
    for units that come over the network.
    """

    sequence: int
    life: str
    name: str
    address: str
    host: str
    orders_port: int
    orders_secret: str = field(repr=False)
    rendezvous_port: int
    rendezvous_secret: str = field(repr=False)
    dram_bytes: int
    dram_used_bytes: int
    ssd_bytes: int
    ssd_used_bytes: int
    device_bytes: int
    device_reserved_bytes: int
    idle_stage_processes: int
    busy_stage_processes: int
    stages: tuple[StageLease, ...]
    base: int
    version: int
    gained: Mapping[str, str]
    lost: tuple[str, ...]
    peer_port: int
    peer_secret: str = field(repr=False)
    rates: Mapping[str, Rate]
    machine: str
    gpu: str
    context_bytes: int
    draining: bool
    fetching: bool


@dataclass(frozen=True)
class StageLost:
    """A stage process of the group died or broke; the group is over."""

    group: str
    node: str
    cause: str
