"""What an agent and a stage process say to each other."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from cluster.wire.encryption import Tls
from cluster.wire.orders import Digest, FormStage
from cluster.wire.phases import Phase
from storage_tiers.checkpoint import UnitIndex
from storage_tiers.tiers.shared_memory import Run


@dataclass(frozen=True)
class Idle:
    """The process has everything imported, listens on `port` and waits for a stage. `rates` is what it has measured;
    `context_bytes` is what it takes of its GPU's memory, 0 if it has none or cannot tell."""

    pid: int
    port: int
    rates: Mapping[str, float] = field(default_factory=dict)
    context_bytes: int = 0


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
class PoolHere:
    """For a process with a GPU: the node's memory for units, whose descriptor travels beside this message, in pieces of
    `piece_bytes` that are pinned each at once."""

    piece_bytes: int


@dataclass(frozen=True)
class PoolReal:
    """These pieces of the node's memory, by number, are real, and may be pinned."""

    pieces: tuple[int, ...]


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
class Callers:
    """So many connections there are at the first stage's door."""

    count: int


@dataclass(frozen=True)
class Beat:
    """The stage process is alive. Mean seconds of its steps of one token, and mean seconds a token of its long steps, since
    the last beat and without waiting; 0 where there were none."""

    decode_s: float = 0.0
    prefill_s_per_token: float = 0.0


@dataclass(frozen=True)
class Quiet:
    """The process is at something that lets no other thread run: for `within_s` at most no beat is to be missed."""

    within_s: float


@dataclass(frozen=True)
class Broken:
    """The stage cannot go on."""

    cause: str
