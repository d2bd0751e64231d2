"""Orders: what a client says to the agent of a node."""

from dataclasses import dataclass, field
from typing import Annotated

from pydantic import StringConstraints

from storage_tiers.checkpoint import DIGEST, UnitIndex

Digest = Annotated[str, StringConstraints(pattern=f"^{DIGEST}$")]
"""Of a unit. A node has files that are called so, which is why nothing else may stand for one."""
HANDLER = "firsttoken"
"""The comm handler that takes orders on a node."""


@dataclass(frozen=True)
class Peer:
    """Another node, which gives the units called `digests` to whoever knows its secret."""

    name: str
    host: str
    port: int
    secret: str = field(repr=False)
    digests: tuple[Digest, ...] = ()


@dataclass(frozen=True)
class FormStage:
    """Run layers [bounds[rank], bounds[rank + 1]) of a model as stage `rank` of a group.

    Units may be fetched from `peers`, which are tried in their order, before the object store; those whose digests are in
    `store_first` after it. The first token does not wait for those that `later` names. `sharing` stages of the group, this
    one among them, have the machine's cores between them. Whoever gives the order waits for `timeout_s`.
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
    store_first: tuple[Digest, ...] = ()
    later: tuple[str, ...] = ()
    sharing: int = 1

    @property
    def degree(self) -> int:
        return len(self.bounds) - 1


@dataclass(frozen=True)
class Dissolve:
    """End this node's stage of the group, at once."""

    group: str


@dataclass(frozen=True)
class Renew:
    """The caller still wants these groups; those of its own that it does not renew end with their lease."""

    groups: tuple[str, ...]
    lease_s: float


@dataclass(frozen=True)
class BringUnits:
    """Bring units of a model to a tier of the node ("dram" or "ssd") within `timeout_s`, `peers` as in FormStage."""

    model: str
    units: tuple[UnitIndex, ...]
    tier: str
    timeout_s: float
    peers: tuple[Peer, ...] = ()


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
