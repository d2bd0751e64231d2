"""Orders: what a client says to the agent of a node."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Self

import numpy as np
from pydantic import StringConstraints

from cluster.errors import ProtocolError
from schedules.foresight.retention import Retention
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
MOST_RANKED = 50_000
"""Units whose worth one order tells, for each tier."""
_DIGEST_BYTES = 32


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
class Hurry:
    """Somebody waits for the group, which came behind others: what its stage still lacks makes way no more."""

    group: str


@dataclass(frozen=True)
class Ranked:
    """A Retention in few bytes: digests of 32 bytes one after the other, and the worth of each as a little-endian double."""

    digests: bytes
    worth: bytes
    otherwise: float

    @classmethod
    def of(cls, retention: Retention) -> Self:
        """ValueError if it ranks more than MOST_RANKED units, or one by what is no number."""
        if len(retention.worth) > MOST_RANKED:
            raise ValueError(
                f"{len(retention.worth):,} units are ranked, a node takes at most {MOST_RANKED:,} for a tier"
            )
        worth = np.fromiter(retention.worth.values(), "<f8", len(retention.worth))
        if not np.isfinite(worth).all() or not math.isfinite(retention.otherwise):
            raise ValueError("a unit's worth is not finite")
        return cls(bytes.fromhex("".join(retention.worth)), worth.tobytes(), retention.otherwise)

    def retention(self) -> Retention:
        """As it was. ProtocolError if it is none."""
        worth = np.frombuffer(self.worth, "<f8") if not len(self.worth) % 8 else np.empty(0)
        if len(self.digests) != len(worth) * _DIGEST_BYTES or len(worth) > MOST_RANKED:
            raise ProtocolError(f"{len(self.digests)} bytes of digests and {len(self.worth)} of worth rank no units")
        if not np.isfinite(worth).all() or not math.isfinite(self.otherwise):
            raise ProtocolError("a unit's worth is not finite")
        digests = (self.digests[at : at + _DIGEST_BYTES].hex() for at in range(0, len(self.digests), _DIGEST_BYTES))
        return Retention(dict(zip(digests, worth.tolist(), strict=True)), self.otherwise)


@dataclass(frozen=True)
class Retain:
    """Where a tier needs room, what is worth least there goes first, for `for_s` or until the next such order; then again
    what was used longest ago. A node that is started anew knows nothing of it."""

    dram: Ranked
    ssd: Ranked
    for_s: float


@dataclass(frozen=True)
class HoldStaging:
    """Let what BringUnits brings read nothing over the network for `for_s`, whatever was said before: others wait for it."""

    for_s: float


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
