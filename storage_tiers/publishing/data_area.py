"""A unit's bytes on their way out: tensors at their places, zeros between them, checksums of it all."""

from collections.abc import Callable, Iterable, Iterator

from storage_tiers.checkpoint import Extent, TensorEntry, UnitIndex, UnitLayout, shard_index
from storage_tiers.checksums import Checksums
from storage_tiers.errors import SourceError

_ZEROS = memoryview(bytes(1 << 20))


class DataArea:
    """Gives a unit's object to `append`, from front to back."""

    def __init__(
        self, append: Callable[[memoryview], None], layout: UnitLayout, block_bytes: int | None = None
    ) -> None:
        self._append_to_object = append
        self._layout = layout
        self._checksums = Checksums(layout, block_bytes)

    def tensor(self, entry: TensorEntry, pieces: Iterable[memoryview]) -> Iterator[int]:
        """Write a tensor at its place, yielding the position after every piece. SourceError if it is not as long."""
        end = entry.offset_bytes + entry.size_bytes
        self._fill(entry.offset_bytes)
        for piece in pieces:
            self._append(piece)
            yield self._checksums.position_bytes
        if self._checksums.position_bytes != end:
            raise SourceError(f"tensor {entry.name} is not as long as its shape says; was the source changed?")

    def finish(self, unit: str, path: str, extents: tuple[Extent, ...] = ()) -> UnitIndex:
        """Pad the rest, append the shard's index, and describe what was written."""
        self._fill(self._layout.stored_bytes)
        self._append_to_object(memoryview(shard_index(self._layout)))
        sums = self._checksums
        return UnitIndex(unit, path, sums.digest, self._layout, sums.chunk_crc32c, extents, sums.blocks)

    def _fill(self, end_bytes: int) -> None:
        while (missing := end_bytes - self._checksums.position_bytes) > 0:
            self._append(_ZEROS[:missing])

    def _append(self, data: memoryview) -> None:
        self._append_to_object(data)
        self._checksums.update(data)
