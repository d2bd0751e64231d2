"""From memory on the host to a CUDA device, beside what the device computes.

Bytes that lie in pinned pieces of the node's pool are copied from there. Others, and all where the driver pins nothing in
place, go through a few pinned buffers, and copying into one overlaps with the transfer of another.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from storage_tiers.tiers.arrange import Arrangement, Move
from storage_tiers.tiers.cuda_driver import Driver, Mark
from storage_tiers.tiers.pinned_pool import PinnedPool
from storage_tiers.tiers.shared_memory import Run

CHUNK_BYTES = 16 << 20
"""Copied at a time: a step's own small copies get their turn between these."""
_BUFFERS = 3


@dataclass(frozen=True)
class Cut:
    """What is copied at once: bytes of one piece of the pool, and where in the unit's room they go."""

    piece: int
    pool_offset_bytes: int
    target_offset_bytes: int
    size_bytes: int


def cuts(moves: Sequence[Move], runs: Sequence[Run], piece_bytes: int, chunk_bytes: int) -> list[Cut]:
    """The moves of a unit that lies at `runs`, each cut at borders of runs and pieces (a copy across two registrations
    fails) and after `chunk_bytes`; in the order of the moves. ValueError if the runs do not reach so far."""
    found: list[Cut] = []
    for move in moves:
        target = move.target_offset_bytes
        for part in _parts(runs, move.source_offset_bytes, move.size_bytes):
            at, end = part.offset_bytes, part.offset_bytes + part.size_bytes
            while at < end:
                piece = at // piece_bytes
                size_bytes = min(end - at, (piece + 1) * piece_bytes - at, chunk_bytes)
                found.append(Cut(piece, at, target, size_bytes))
                at, target = at + size_bytes, target + size_bytes
    return found


def _parts(runs: Sequence[Run], offset_bytes: int, size_bytes: int) -> Iterator[Run]:
    """Where in the pool [offset, offset + size) of a unit lies."""
    for run in runs:
        if size_bytes and offset_bytes < run.size_bytes:
            part_bytes = min(run.size_bytes - offset_bytes, size_bytes)
            yield Run(run.offset_bytes + offset_bytes, part_bytes)
            offset_bytes, size_bytes = offset_bytes + part_bytes, size_bytes - part_bytes
        offset_bytes = max(0, offset_bytes - run.size_bytes)
    if size_bytes:
        raise ValueError(f"a unit's memory ends {size_bytes:,} bytes before the unit")


@dataclass(frozen=True)
class Sent:
    """A unit on its way: `data` is its room on the device."""

    data: torch.Tensor
    _began: Mark
    _done: Mark

    def wait(self) -> float:
        """Until the last byte is there, and any stream may read them; seconds that this unit's own copies took."""
        self._done.synchronize()
        return self._began.elapsed_time(self._done) / 1000.0


class CudaCopy:
    """Copies units to one device, one after the other. Use from one thread; what is sent is waited for in any."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self._buffers: list[tuple[torch.Tensor, Mark | None]] = []
        self._turn = 0

    def warm_up(self) -> None:
        """Make and use once what is slow to make: buffers, the stream, events."""
        room = self.driver.room(1)
        for _ in range(_BUFFERS):
            self._through_buffer(room, torch.zeros(1, dtype=torch.uint8))
        self.driver.mark().synchronize()

    def send(self, pool: PinnedPool, runs: Sequence[Run], arrangement: Arrangement) -> Sent:
        """Queue the copies of the unit at `runs` of the pool, which must stay as they are until all has come.

        torch.OutOfMemoryError (a RuntimeError) if the device has no room.
        """
        data = self.driver.room(arrangement.size_bytes)
        began = self.driver.mark()
        targets: list[torch.Tensor] = []
        sources: list[torch.Tensor] = []
        for cut in cuts(arrangement.moves, runs, pool.piece_bytes, CHUNK_BYTES):
            source = pool.bytes[cut.pool_offset_bytes : cut.pool_offset_bytes + cut.size_bytes]
            target = data[cut.target_offset_bytes : cut.target_offset_bytes + cut.size_bytes]
            if not pool.is_pinned(cut.piece):
                self._queue(targets, sources)  # they are under way while this is waited for
                if not pool.wait(cut.piece):
                    self._through_buffer(target, source)
                    continue
            targets.append(target)
            sources.append(source)
        self._queue(targets, sources)
        return Sent(data, began, self.driver.mark())

    def _queue(self, targets: list[torch.Tensor], sources: list[torch.Tensor]) -> None:
        if targets:
            self.driver.copy(targets, sources)
            targets.clear()
            sources.clear()

    def _through_buffer(self, target: torch.Tensor, source: torch.Tensor) -> None:
        if not self._buffers:
            self._buffers = [(self.driver.pinned(CHUNK_BYTES), None) for _ in range(_BUFFERS)]
        buffer, sent = self._buffers[self._turn]
        if sent is not None:
            sent.synchronize()
        buffer[: len(source)].copy_(source)
        self.driver.copy([target], [buffer[: len(source)]])
        self._buffers[self._turn] = buffer, self.driver.mark()
        self._turn = (self._turn + 1) % _BUFFERS
