"""The vocabulary on the wire: one frozen dataclass per fact or order, in a module for each two that speak to each other.

Encoded as msgpack maps with the class's name under "kind"; decoding validates every field. No pickle.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

import msgpack
from pydantic import TypeAdapter, ValidationError

from cluster.errors import ProtocolError
from cluster.wire.forks import Fork, Forked, Imported, NotForked
from cluster.wire.hello import Hello
from cluster.wire.kv import AskKv, DropKv, KvHead, KvPulled, PullKv
from cluster.wire.meetings import (
    StoreAdd,
    StoreCount,
    StoreDelete,
    StoreFault,
    StoreLook,
    StoreNumber,
    StoreSet,
    StoreSwap,
    StoreValues,
    StoreWait,
)
from cluster.wire.orders import (
    Adopt,
    AskPhases,
    AskReport,
    AskStage,
    AwaitUnits,
    BringUnits,
    Dissolve,
    Evict,
    FormStage,
    HoldStaging,
    Hurry,
    LimitStore,
    Probe,
    Renew,
    Retain,
)
from cluster.wire.reports import (
    Done,
    NodeReport,
    NotDone,
    Phases,
    Probed,
    Renewed,
    StageFacts,
    StageFormed,
    StageLost,
    UnitsBrought,
)
from cluster.wire.requests import (
    AskPlace,
    Cancel,
    Caught,
    Embedded,
    Failed,
    Follow,
    GoOn,
    More,
    Placed,
    Rejected,
    Submit,
    Tokens,
    Words,
    Yield,
    Yielded,
)
from cluster.wire.stages import (
    Beat,
    Broken,
    Build,
    Callers,
    Formed,
    Idle,
    PhaseDone,
    PoolHere,
    PoolReal,
    Quiet,
    RowsHere,
    RowsWanted,
    Taken,
    UnitCopied,
    UnitHere,
)

_VOCABULARY = {
    cls.__name__: cls
    for cls in (
        FormStage, AwaitUnits, Dissolve, Renew, AskStage, Adopt, AskReport, BringUnits, Evict, Hurry, Retain, HoldStaging,
        Probe, LimitStore, AskPhases, StageFormed, NotDone, Done, UnitsBrought, Probed, Phases, Renewed, StageFacts,
        NodeReport, StageLost, Imported, Fork, Forked, NotForked, Idle, Build, PoolHere, PoolReal, Taken, UnitHere,
        RowsWanted, RowsHere, UnitCopied, Formed, PhaseDone, Callers, Beat, Quiet, Broken, Hello, Submit, Cancel, Tokens,
        Embedded, Rejected, Failed, Follow, More, GoOn, Yield, AskPlace, Caught, Yielded, Placed, PullKv, KvPulled, DropKv,
        AskKv, KvHead, StoreSet, StoreWait, StoreAdd, StoreSwap, StoreLook, StoreDelete, StoreCount, StoreValues, StoreNumber,
        StoreFault, Words,
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
