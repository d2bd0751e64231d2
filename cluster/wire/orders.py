"""Orders: what a client says to the agent of a node."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import StringConstraints

from schedules.rates import DECODE, NIC, PREFILL, REACH, SSD, STREAM, formed
from storage_tiers.checkpoint import DIGEST, UnitIndex

Digest = Annotated[str, StringConstraints(pattern=f"^{DIGEST}$")]
"""Of a unit. A node has files that are called so, which is why nothing else may stand for one."""
HANDLER = "firsttoken"
"""The comm handler of a node's Dask worker that answers with a report, and what is said at the door where it takes orders."""
OF_STORE = (REACH, STREAM, NIC)
OF_COMPUTE = (DECODE, PREFILL, formed(1))
OF_NODE = (SSD, *OF_COMPUTE)
"""What does not need the store."""
STORE_S = 0.5
"""Seconds in which the store shows how fast it is."""


@dataclass(frozen=True)
class Peer:
    """Another node, which gives units to whoever knows its secret."""

    name: str
    host: str
    port: int
    secret: str = field(repr=False)


@dataclass(frozen=True)
class FormStage:
    """Run layers [bounds[rank], bounds[rank + 1]) of a model as stage `rank` of a group.

    Whence each unit is asked for, and in what order, `sources` say by its digest, in words of schedules.placing.sources; the
    others that they name are `peers`, without those that are gone. The first token does not wait for those that `later`
    names, and those of `held_back` are not even asked for before the group has answered. `sharing` stages of the group,
    this one among them, have the machine's cores between them. Of `reserve_bytes` the stage itself asks for all but
    `outside_bytes`, which are its process's context and what the driver keeps for it. One that comes `behind` makes way for
    all others' starts, in its units and in its process. Whoever gives the order waits for `timeout_s`.
    """

    group: str
    model: str
    rank: int
    config_json: str
    dtype: str
    bounds: tuple[int, ...]
    units: tuple[UnitIndex, ...]
    rendezvous_host: str
    rendezvous_port: int
    rendezvous_secret: str = field(repr=False)
    reserve_bytes: int
    kv_tokens: int
    timeout_s: float
    lease_s: float
    peers: tuple[Peer, ...] = ()
    sources: Mapping[Digest, tuple[str, ...]] = field(default_factory=dict)
    later: tuple[str, ...] = ()
    held_back: tuple[str, ...] = ()
    sharing: int = 1
    digest: str = ""
    """The model's."""
    owner: str = ""
    """The client whose group it is, by the name that it gives itself."""
    outside_bytes: int = 0
    behind: bool = False

    @property
    def degree(self) -> int:
        return len(self.bounds) - 1


@dataclass(frozen=True)
class AwaitUnits:
    """Say when the stage of the group that runs here has all its units, within `timeout_s`."""

    group: str
    timeout_s: float


@dataclass(frozen=True)
class Dissolve:
    """End this node's stage of the group, at once. It is refused if the stage is another owner's; "" is anybody."""

    group: str
    owner: str = ""


@dataclass(frozen=True)
class Renew:
    """`owner` still wants these groups; those of its own that it does not renew end with their lease."""

    owner: str
    groups: tuple[str, ...]
    lease_s: float


@dataclass(frozen=True)
class AskStage:
    """What stage of the group runs here?"""

    group: str


@dataclass(frozen=True)
class Adopt:
    """The group is `owner`'s from now on. The node of its first stage refuses while whose it was still renews it."""

    owner: str
    group: str
    lease_s: float


@dataclass(frozen=True)
class AskReport:
    """How does the node stand? The caller has heard of its units up to `version` of the node's `life`; 0 of any: nothing."""

    life: str
    version: int


@dataclass(frozen=True)
class BringUnits:
    """Bring units of a model to a tier of the node ("dram" or "ssd") within `timeout_s`; `sources` and `peers` are as in
    FormStage."""

    model: str
    units: tuple[UnitIndex, ...]
    tier: str
    timeout_s: float
    peers: tuple[Peer, ...] = ()
    sources: Mapping[Digest, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Evict:
    """Drop units, by digest, from both tiers of the node; what is in use stays in dram."""

    digests: tuple[Digest, ...]


@dataclass(frozen=True)
class Probe:
    """Measure the quantities called `what`, which are names of schedules.rates; the store for about `seconds`.

    With `keep` they count among what the node has measured.
    """

    what: tuple[str, ...]
    seconds: float
    keep: bool


@dataclass(frozen=True)
class LimitStore:
    """The store gives so much to all nodes together, in bytes/s; None: it was not seen to limit them."""

    bytes_per_s: float | None


@dataclass(frozen=True)
class AskPhases:
    """What did this node do for the group, and when?"""

    group: str
