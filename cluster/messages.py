"""The vocabulary on the wire: one frozen dataclass per fact or order, grouped by who says it to whom.

Encoded as msgpack maps with the class's name under "kind"; decoding validates every field. No pickle.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any

import msgpack
from pydantic import StringConstraints, TypeAdapter, ValidationError

from cluster.encryption import Tls
from cluster.errors import ProtocolError
from schedules.facts import Rate
from storage_tiers.checkpoint import DIGEST, UnitIndex
from storage_tiers.memory import Run

Digest = Annotated[str, StringConstraints(pattern=f"^{DIGEST}$")]
"""Of a unit. A node has files that are called so, which is why nothing else may stand for one."""
HANDLER = "firsttoken"
"""The comm handler that takes orders on a node."""
TOPIC = "firsttoken"
"""The Dask event topic that nodes report on."""

TAKE_PROCESS, BUILD_SKELETON = "take process", "build skeleton"
"""The first phase of a stage's forming, at its node, and the last, in its process."""
FIRST_STEP = "first step"
"""The phase in which a stage computes for the first time."""
FIRST_ANSWER = "first token"
"""The phase at the first stage from its first request's arrival until that has its first token."""
FETCH = "fetch "
"""How the names of phases begin in which a unit comes to a node's dram; they end with the unit's name."""
COPY = "copy "
"""How the names of phases begin in which a unit is copied to an accelerator."""

# ---- client -> agent -------------------------------------------------------------------------------------------------


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
    one among them, have the machine's cores between them.
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
class StageUnits:
    """Bring units of a model to a tier of the node ("dram" or "ssd"), `peers` as in FormStage."""

    model: str
    units: tuple[UnitIndex, ...]
    tier: str
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


# ---- agent -> client -------------------------------------------------------------------------------------------------


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
class StageReport:
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
class Phase:
    """A part of a cold start: where it ran, from when to when (unix seconds of that node), and bytes it moved."""

    name: str
    where: str
    start_s: float
    end_s: float
    bytes: int = 0


@dataclass(frozen=True)
class Phases:
    """Phases of one group on one node."""

    phases: tuple[Phase, ...]


@dataclass(frozen=True)
class NodeReport:
    """A node's state, by its own word. `sequence` grows with every report, since they come by two ways.

    `peer_secret` lets other nodes fetch units at `peer_port`, and goes to nobody but them; from `rendezvous_secret` are made
    those of the groups that meet at `rendezvous_port`.
    """

    sequence: int
    name: str
    address: str
    host: str
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
    groups: tuple[str, ...]
    units: Mapping[str, str]
    peer_port: int
    peer_secret: str = field(repr=False)
    rates: Mapping[str, Rate]
    machine: str


@dataclass(frozen=True)
class StageLost:
    """A stage process of the group died or broke; the group is over."""

    group: str
    node: str
    cause: str


# ---- agent <-> zygote ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Imported:
    """The zygote has everything imported: from now on it forks in milliseconds."""


@dataclass(frozen=True)
class Fork:
    """Make a stage process that talks on the descriptor beside this message; one that shall `measure` is ready later.

    The answer has the same `number`.
    """

    number: int
    measure: bool = False


@dataclass(frozen=True)
class Forked:
    """The stage process is there, perhaps dead already; a pidfd of it comes along."""

    number: int
    pid: int


@dataclass(frozen=True)
class NotForked:
    """No stage process was made: the system would not."""

    number: int
    reason: str


# ---- agent <-> stage process -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Idle:
    """The process has everything imported, listens on `port` and waits for a stage. `rates` is what it has measured."""

    pid: int
    port: int
    rates: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Build:
    """Become the stage; its units follow one by one, each with its memory's descriptor.

    With `rows_first` the embedding's rows can be asked for before its unit is there. With `tls` the stage speaks nothing
    else with the front end and at the rendezvous.
    """

    order: FormStage
    secret: str = field(repr=False)
    rows_first: bool = False
    tls: Tls | None = None


@dataclass(frozen=True)
class Taken:
    """The process has its order, and begins."""


@dataclass(frozen=True)
class UnitHere:
    """A unit is complete: it lies at `runs` of the memory whose descriptor travels beside this message."""

    unit: UnitIndex
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class RowsWanted:
    """The first stage lacks rows of the embedding, no more than a step has tokens; it takes them or the whole unit."""

    rows: tuple[int, ...]


@dataclass(frozen=True)
class RowsHere:
    """Rows of the embedding: their bytes, one after the other."""

    rows: tuple[int, ...]
    data: bytes


@dataclass(frozen=True)
class UnitCopied:
    """The stage has the unit on its device; of its memory on the host it needs nothing any more."""

    digest: Digest


@dataclass(frozen=True)
class Formed:
    """The group is joined and the skeleton built."""

    phases: tuple[Phase, ...]


@dataclass(frozen=True)
class PhaseDone:
    """One more phase of the cold start is over."""

    phase: Phase


@dataclass(frozen=True)
class Beat:
    """The stage process is alive. Mean seconds of its steps of one token, and mean seconds a token of its long steps, since
    the last beat and without waiting; 0 where there were none."""

    decode_s: float = 0.0
    prefill_s_per_token: float = 0.0


@dataclass(frozen=True)
class Broken:
    """The stage cannot go on."""

    cause: str


# ---- front end <-> first stage ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hello:
    """First message on a connection, also to a rendezvous: proves that the caller was told of the group."""

    group: str
    secret: str = field(repr=False)


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen; temperature 0 is greedy. Draws are keyed by (seed, position), never by a running generator."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    min_p: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    logprobs: int | None = None
    """How many of the likeliest tokens to tell with each token; None: no log probabilities at all."""


@dataclass(frozen=True)
class TokenLogprobs:
    """Natural logarithms of the model's own probabilities: of the chosen token, and of the `top` (token, logprob) ones."""

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Submit:
    """Generate after `tokens`, of which the first `prompt_tokens` are the prompt (the rest was generated before).

    None of the `stop_tokens` is chosen before the answer has `min_tokens`, counted from the prompt.
    """

    request: str
    tokens: tuple[int, ...]
    prompt_tokens: int
    max_tokens: int
    stop_tokens: tuple[int, ...]
    sampling: Sampling = field(default_factory=Sampling)
    min_tokens: int = 0


@dataclass(frozen=True)
class Cancel:
    """Nobody wants the request's tokens any more."""

    request: str


@dataclass(frozen=True)
class Tokens:
    """New tokens of a request; `finish` is "stop" or "length" with the last."""

    request: str
    tokens: tuple[int, ...]
    finish: str | None = None
    logprobs: tuple[TokenLogprobs, ...] = ()
    """One for each token, where the request asked for them."""


@dataclass(frozen=True)
class Rejected:
    """The group will not run the request; `message` says why."""

    request: str
    message: str


@dataclass(frozen=True)
class Failed:
    """The model gave no token for the request, which is over: it would not elsewhere either. `message` says why."""

    request: str
    message: str


Event = Tokens | Rejected | Failed
"""What a first stage tells of a request."""


# ---- stage process <-> rendezvous ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StoreSet:
    """Keep a value."""

    key: str
    value: bytes


@dataclass(frozen=True)
class StoreWait:
    """Tell the values of all keys once they are there, or none when that has not come about in time."""

    keys: tuple[str, ...]
    timeout_s: float


@dataclass(frozen=True)
class StoreAdd:
    """Add to a number, which is 0 at first, and tell it."""

    key: str
    amount: int


@dataclass(frozen=True)
class StoreSwap:
    """Put `desired` in place of `expected`, nothing being as good as empty; tell what is kept then."""

    key: str
    expected: bytes
    desired: bytes


@dataclass(frozen=True)
class StoreLook:
    """Are all of them there?"""

    keys: tuple[str, ...]


@dataclass(frozen=True)
class StoreDelete:
    """Forget a value; was it there?"""

    key: str


@dataclass(frozen=True)
class StoreCount:
    """How many values are kept?"""


@dataclass(frozen=True)
class StoreValues:
    """Values, in the order in which they were asked for."""

    values: tuple[bytes, ...]


@dataclass(frozen=True)
class StoreNumber:
    """A number; of what is yes or no, 1 or 0."""

    number: int


@dataclass(frozen=True)
class StoreFault:
    """It was not done."""

    message: str


_VOCABULARY = {
    cls.__name__: cls
    for cls in (
        FormStage, Dissolve, Renew, StageUnits, Evict, Probe, LimitStore, AskPhases, StageFormed, NotDone, Done, StageReport,
        Probed, Phases, NodeReport, StageLost, Imported, Fork, Forked, NotForked, Idle, Build, Taken, UnitHere, RowsWanted,
        RowsHere, UnitCopied, Formed, PhaseDone, Beat, Broken, Hello, Submit, Cancel, Tokens, Rejected, Failed, StoreSet,
        StoreWait, StoreAdd, StoreSwap, StoreLook, StoreDelete, StoreCount, StoreValues, StoreNumber, StoreFault,
    )
}  # fmt: skip


@cache
def _adapter(kind: str) -> TypeAdapter[Any]:
    return TypeAdapter(_VOCABULARY[kind])


def to_wire(message: object) -> dict[str, Any]:
    """`message` as a plain map of plain values."""
    kind = type(message).__name__
    fields: dict[str, Any] = _adapter(kind).dump_python(message)
    return {"kind": kind, **fields}


def from_wire(wire: Mapping[str, Any]) -> Any:
    """The message that `wire` holds; ProtocolError if it is none."""
    try:
        kind = wire["kind"]
        return _adapter(kind).validate_python({key: value for key, value in wire.items() if key != "kind"})
    except ValidationError as error:  # its own text shows the values, and some are secrets
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise ProtocolError(f"not a message: {kind}: {faults}") from None
    except (KeyError, TypeError) as error:
        raise ProtocolError(f"not a message: {error}") from error


def pack(message: object) -> bytes:
    """`message` as msgpack bytes."""
    data: bytes = msgpack.packb(to_wire(message))
    return data


def unpack(data: bytes) -> Any:
    """The message in msgpack bytes; ProtocolError if it is none."""
    try:
        return from_wire(msgpack.unpackb(data, use_list=False))
    except (ValueError, msgpack.UnpackException) as error:
        raise ProtocolError(f"not a message: {error}") from error


def load_vocabulary() -> None:
    """Build every validator now, so that the first message of a kind does not pay for it."""
    for kind in _VOCABULARY:
        _adapter(kind)
