"""A few rows of a matrix, read without the unit that it is in: a prompt needs few of an embedding's rows.

Whole blocks are read, each checked by its own crc32c, so rows are as right as their model's index; they are kept nowhere.
"""

import mmap
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass

import crc32c

from storage_tiers.checkpoint import EMBED, Blocks, TensorEntry, UnitIndex
from storage_tiers.errors import Corrupt, StorageError
from storage_tiers.layouts import layout_of
from storage_tiers.tiers.dram import Segment
from storage_tiers.tiers.fallback import Fallback, Pause
from storage_tiers.tiers.tier import Tier

READS_AT_ONCE = 8
GAP_BLOCKS = 2
"""So many blocks that nobody wants are read along rather than asking twice."""
MOST_BYTES = 1 << 20
"""Of one read, unless a block is larger: the others fetch beside it."""


def embedding_of(unit: UnitIndex, family: str) -> TensorEntry | None:
    """The embedding's matrix, if its rows are all that the unit is needed for at a model's entry, and can be read alone.

    None without checksums of blocks, and for families that have more before their first layer: learned positions, say.
    """
    layout = layout_of(family)
    if unit.name != EMBED or unit.blocks is None or layout.positions or layout.entry:
        return None
    found = [tensor for tensor in unit.layout.tensors if tensor.name == layout.embedding_weight]
    return found[0] if found and len(found[0].shape) == 2 and found[0].size_bytes else None


def rows_in(segment: Segment, matrix: TensorEntry, rows: Sequence[int]) -> bytes:
    """The rows of `matrix`, one after the other, of a unit pinned in memory. ValueError for a row that is not there."""
    _check(matrix, rows)
    row_bytes = matrix.size_bytes // matrix.shape[0]
    starts = [matrix.offset_bytes + row * row_bytes for row in rows]
    return b"".join(view for start in starts for view in segment.views(start, row_bytes))


def _check(matrix: TensorEntry, rows: Sequence[int]) -> None:
    if not all(0 <= row < matrix.shape[0] for row in rows):
        raise ValueError(f"{matrix.name} has {matrix.shape[0]} rows")


@dataclass(frozen=True)
class _Run:
    """Neighbouring blocks that are read at once: [first, end), of which `wanted` are checked."""

    first: int
    end: int
    wanted: tuple[int, ...]


class RowReader:
    """Reads rows, a few reads at once, beside whatever else the node fetches. Thread-safe."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(READS_AT_ONCE, thread_name_prefix="rows")
        self._closing = threading.Event()

    def read(
        self, model: str, unit: UnitIndex, matrix: TensorEntry, rows: Sequence[int], sources: Sequence[Tier]
    ) -> bytes:
        """The rows of `matrix`, a tensor of `unit`, one after the other as `rows` names them.

        Each block comes from the first of `sources` that has it right; the last one is the origin. Missing, Corrupt or
        StoreUnavailable if none has; ValueError for a row that is not there, or a unit without checksums of blocks.
        """
        if unit.blocks is None:
            raise ValueError(f"unit {unit.name} of {model} has no checksums of blocks")
        _check(matrix, rows)
        size = unit.blocks.block_bytes
        row_bytes = matrix.size_bytes // matrix.shape[0]
        starts = [matrix.offset_bytes + row * row_bytes for row in rows]
        wanted = {block for start in starts for block in range(start // size, -(-(start + row_bytes) // size))}
        blocks = self._blocks(model, unit, unit.blocks, wanted, sources)
        return b"".join(_cut(blocks, size, start, start + row_bytes) for start in starts)

    def close(self) -> None:
        """Reads that are under way fail after the attempt they are at; when this returns none is."""
        self._closing.set()
        self._pool.shutdown(cancel_futures=True)

    def _blocks(
        self, model: str, unit: UnitIndex, blocks: Blocks, wanted: Iterable[int], sources: Sequence[Tier]
    ) -> dict[int, memoryview]:
        fallback = Fallback(model, unit, sources)
        found: dict[int, memoryview] = {}
        futures: list[Future[dict[int, memoryview]]] = []
        try:
            futures += [
                self._pool.submit(_read_run, model, unit, blocks, run, fallback, self._closing.wait)
                for run in _runs(sorted(wanted), blocks.block_bytes)
            ]
            for future in as_completed(futures):
                found |= future.result()
        except (CancelledError, RuntimeError) as error:  # what a pool says that was shut down
            raise StorageError("the node is shutting down") from error
        finally:
            for future in futures:
                future.cancel()
        return found


def _runs(wanted: Sequence[int], block_bytes: int) -> list[_Run]:
    """Blocks, in order, as few reads: with small gaps between them, and none longer than MOST_BYTES."""
    most, runs = max(1, MOST_BYTES // block_bytes), list[list[int]]()
    for block in wanted:
        if runs and block - runs[-1][-1] - 1 <= GAP_BLOCKS and block - runs[-1][0] < most:
            runs[-1].append(block)
        else:
            runs.append([block])
    return [_Run(run[0], run[-1] + 1, tuple(run)) for run in runs]


def _read_run(
    model: str, unit: UnitIndex, blocks: Blocks, run: _Run, fallback: Fallback, pause: Pause
) -> dict[int, memoryview]:
    size, start = blocks.block_bytes, run.first * blocks.block_bytes
    end = min(run.end * size, unit.size_bytes)
    data = memoryview(mmap.mmap(-1, end - start))  # begins with a page, as direct I/O wants it
    parts = {block: data[(block - run.first) * size : (block - run.first + 1) * size] for block in run.wanted}

    def attempt(source: Tier) -> None:
        source.read(model, unit, start, [data])
        for block, part in parts.items():
            if crc32c.crc32c(part) != blocks.checksum(block):
                raise Corrupt(
                    f"unit {unit.name} of {model} from {source.name}: block {block} has another crc32c than it should"
                )

    fallback.read_again_and_again(attempt, pause)
    return parts


def _cut(blocks: dict[int, memoryview], size: int, start: int, end: int) -> bytes:
    """Bytes [start, end) of the unit, out of the blocks that they are in."""
    pieces = []
    while start < end:
        block, skipped = divmod(start, size)
        piece = blocks[block][skipped : skipped + end - start]
        pieces.append(piece)
        start += len(piece)
    return b"".join(pieces)
