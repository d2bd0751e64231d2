"""One unit on its way into dram: chunks from the first source that has them right, a watermark, and who waits."""

import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from enum import IntEnum

import crc32c

from storage_tiers.checkpoint import UnitIndex
from storage_tiers.checksums import Proof
from storage_tiers.errors import Corrupt, Faltering, StorageError
from storage_tiers.passing import exhausted
from storage_tiers.retries import again_after_s
from storage_tiers.tiers.dram import Segment
from storage_tiers.tiers.fallback import Fallback
from storage_tiers.tiers.jobs import Rank
from storage_tiers.tiers.tier import Tier

_log = logging.getLogger(__name__)
_EARLY_S = 0.001
"""Clocks are read one after the other: a chunk is not too early by less."""


class Priority(IntEnum):
    """Who goes first on the wires: the least number. What no first token waits for leaves them to what one does."""

    COLD_START = 0
    AFTER_FIRST_TOKEN = 5
    MOVE = 7
    PREWARM = 10
    WRITE_BEHIND = 20


@dataclass(frozen=True)
class Loaded:
    """A unit in dram, pinned for the caller; `source` names the tier it came from, times are the stack's clock."""

    unit: UnitIndex
    segment: Segment
    source: str
    started_s: float
    ended_s: float


@dataclass(frozen=True, eq=False)
class Wanted:
    """A unit that somebody waits for: `peers` are asked for it in order, before the origin or, if `peers_last`, after it.

    Until `until_s` of the monotonic clock what fails for a reason that passes is tried again. It is written to ssd behind if
    `keep` says so. If it is for prewarming it has no room of what was used after `since`.
    """

    future: Future[Loaded]
    model: str
    unit: UnitIndex
    priority: int
    peers: tuple[Tier, ...]
    turn: int = 0
    peers_last: bool = False
    until_s: float = 0.0
    keep: bool = True
    since: int = 0


class Transfer:
    """A unit's chunks and their state. Which thread reads which chunk when is the stack's business.

    A chunk is read by whoever claims it first, from the first of the sources that has it right. Bytes that do not match
    their checksum are never counted.

    The checksums are those of an index that may be a lie, and what is loaded is given to all who ask for its digest: bytes
    of the origin are proven by the digest. That is taken from front to back as chunks come, by whoever has just read one.
    """

    def __init__(
        self, model: str, unit: UnitIndex, segment: Segment, sources: Sequence[Tier], started_s: float
    ) -> None:
        self.model, self.unit, self.segment = model, unit, segment
        self.started_s = started_s
        self.waiters: list[Wanted] = []
        self.successors: list[Wanted] = []
        self.rank: Rank | None = None
        self.error: StorageError | None = None
        self.stopped = False
        self._fallback = Fallback(model, unit, sources)
        self._condition = threading.Condition()
        self._claimed: set[int] = set()
        self._tries: dict[int, int] = {}
        self._not_before_s: dict[int, float] = {}
        self._filled: dict[int, int] = {}
        self._right: set[int] = set()
        self._settled = 0
        self._came_from: dict[str, None] = {}
        self._proof = Proof(unit.layout)
        self._proven = 0
        self._proving = self._unproven = False

    def serves(self, wanted: Wanted) -> bool:
        """Whether these are the bytes that are wanted. Of one digest another index may be a lie, or this one."""
        unit, other = self.unit, wanted.unit
        return unit is other or (unit.layout == other.layout and unit.chunk_crc32c == other.chunk_crc32c)

    def fails(self, wanted: Wanted) -> bool:
        """Whether what fails here would fail for this one, too: another model may have the same unit, whole."""
        return wanted.model == self.model and wanted.unit == self.unit

    @property
    def source(self) -> str:
        """The tier that the chunks came from; several, if one failed half-way."""
        with self._condition:
            return " and ".join(self._came_from)

    def claim(self, chunk: int) -> bool:
        """Whether the caller is the one to read the chunk, now."""
        with self._condition:
            if chunk in self._claimed or (self.error is None and self._delay_s(chunk) > _EARLY_S):
                return False
            self._claimed.add(chunk)
            return True

    def unclaimed(self) -> list[int]:
        """Chunks that nobody reads yet, in order of use."""
        with self._condition:
            return [chunk for chunk in range(self.unit.layout.chunks) if chunk not in self._claimed]

    def delay_s(self, chunk: int) -> float:
        """How long the chunk is to be left alone: it was put off. 0 for a transfer that has failed."""
        with self._condition:
            return self._delay_s(chunk) if self.error is None else 0.0

    def put_off(self, chunk: int, error: StorageError, left_s: float) -> bool:
        """Let go of a chunk that has failed with `error`; False if it is not to be read again in the `left_s` seconds that
        there are."""
        with self._condition:
            tries = self._tries[chunk] = self._tries.get(chunk, 0) + 1
            after_s = again_after_s(error, tries, left_s)
            if after_s is None or self.error is not None:
                return False
            self._not_before_s[chunk] = time.monotonic() + after_s
            self._claimed.discard(chunk)
            return True

    def stop(self, error: StorageError) -> None:
        """Read nothing more: it has failed with `error`, unless it had before."""
        with self._condition:
            self.stopped = True
            self.error = self.error or error
            self._condition.notify_all()

    def settle(self, chunk: int, error: StorageError | None) -> bool:
        """The chunk was read, or failed with `error`; whether it was the last one. By then the whole is proven, or failed."""
        with self._condition:
            self._settled += 1
            if error is not None and self.error is None:
                self.error = error
            last = self._settled == self.unit.layout.chunks
            if last and self.error is None and self._needs_proof and not self._proof.holds(self.unit.digest):
                self.error = Corrupt(
                    f"unit {self.unit.name} of {self.model} is not what its digest says: it is not kept"
                )
                _log.warning("%s", self.error)
            self._condition.notify_all()
        if last and self.error is None:
            self._fallback.blame()
        return last

    @property
    def watermark_bytes(self) -> int:
        """How many bytes from the unit's start are there and right."""
        with self._condition:
            return self._watermark()

    def wait_for(self, size_bytes: int, timeout_s: float) -> None:
        """Until the watermark reaches `size_bytes`. The transfer's error if it fails, TimeoutError if it takes too long."""
        with self._condition:
            reached = self._condition.wait_for(
                lambda: self.error is not None or self._watermark() >= size_bytes, timeout_s
            )
            if self.error is not None:
                raise self.error
            if not reached:
                raise TimeoutError(f"unit {self.unit.name} is at {self._watermark():,} of {size_bytes:,} bytes")

    def read_part(self, chunk: int, size_bytes: int) -> bool:
        """Fill so many more bytes of the chunk, unchecked, and let go of it; False if `read` should do the rest."""
        at = self._filled.get(chunk, 0)
        if at + size_bytes >= self.unit.layout.chunk_bytes:
            return False
        source = self._fallback.first()
        try:
            self._fill(source, chunk, at, size_bytes)
        except Exception:  # whatever a tier did, reading the whole chunk finds out which it was, and tells
            self._filled.pop(chunk, None)
            return False
        with self._condition:
            self._came_from[source.name] = None
            self._filled[chunk] = at + size_bytes
            self._claimed.discard(chunk)
        return True

    def read(self, chunk: int) -> StorageError | None:
        """Fill the chunk, or the rest of it, from the first source that has it right; what went wrong, if anything did."""
        try:
            self._read(chunk)
        except StorageError as error:
            return error
        except Exception as error:  # whatever a tier did wrong, those who wait must hear of it
            text = f"unit {self.unit.name} of {self.model}: {error!r}"
            if exhausted(error):
                return Faltering(text)
            _log.exception("unit %s of %s", self.unit.name, self.model)
            return StorageError(text)
        return None

    def _read(self, chunk: int) -> None:
        at = self._filled.pop(chunk, 0)
        source = self._fallback.first()
        if not at or not self._read_rest(source, chunk, at):
            source = self._fallback.read(lambda source: self._read_checked(source, chunk, 0))
        with self._condition:
            self._came_from[source.name] = None
            self._right.add(chunk)
            self._condition.notify_all()
        self._prove_on()

    def _read_rest(self, source: Tier, chunk: int, at: int) -> bool:
        try:
            self._read_checked(source, chunk, at)
        except StorageError:
            return False
        return True

    def _fill(self, source: Tier, chunk: int, at: int, size_bytes: int) -> None:
        offset_bytes = chunk * self.unit.layout.chunk_bytes + at
        if source.name == self._fallback.origin.name:
            self._unproven = True
        source.read(self.model, self.unit, offset_bytes, self.segment.views(offset_bytes, size_bytes))

    def _read_checked(self, source: Tier, chunk: int, at: int) -> None:
        size = self.unit.layout.chunk_bytes
        self._fill(source, chunk, at, size - at)
        views = self.segment.views(chunk * size, size)
        checksum = 0
        for view in views:
            checksum = crc32c.crc32c(view, checksum)
        if checksum != self.unit.chunk_crc32c[chunk]:  # which it is nobody is told: it may be that of any file
            raise Corrupt(
                f"unit {self.unit.name} of {self.model} from {source.name}: chunk {chunk} has another crc32c than it should"
            )

    @property
    def _needs_proof(self) -> bool:
        return self._unproven or self._fallback.doubted

    def _prove_on(self) -> None:
        """Take the digest on over the chunks that are right, unless somebody is at it, who then does this one, too."""
        size = self.unit.layout.chunk_bytes
        while True:
            with self._condition:
                if self._proving or self._proven not in self._right or not self._needs_proof:
                    return
                self._proving, at = True, self._proven * size
            try:
                for view in self.segment.views(at, size):
                    self._proof.update(view)
            finally:
                with self._condition:
                    self._proving, self._proven = False, self._proven + 1

    def _delay_s(self, chunk: int) -> float:
        return max(0.0, self._not_before_s.get(chunk, 0.0) - time.monotonic())

    def _watermark(self) -> int:
        chunk = 0
        while chunk in self._right:
            chunk += 1
        return chunk * self.unit.layout.chunk_bytes
