"""What proves that a unit's bytes are right: a digest of its payload and a crc32c of every chunk, kept as they pass by."""

import struct

import crc32c
from blake3 import blake3

from storage_tiers.checkpoint import Blocks, UnitLayout, unit_digest


class _Pieces:
    """A crc32c for every `size_bytes` of what passes."""

    def __init__(self, size_bytes: int) -> None:
        self._size_bytes, self._filled, self._running = size_bytes, 0, 0
        self.whole: list[int] = []

    @property
    def all(self) -> list[int]:
        """Those of the pieces that have passed, and of the begun one, if there is one."""
        return [*self.whole, self._running] if self._filled else self.whole

    def update(self, data: memoryview) -> None:
        at = 0
        while at < len(data):
            piece = data[at : at + self._size_bytes - self._filled]
            self._running = crc32c.crc32c(piece, self._running)
            at += len(piece)
            self._filled += len(piece)
            if self._filled == self._size_bytes:
                self.whole.append(self._running)
                self._filled = self._running = 0


class Proof:
    """Takes a unit's data area from front to back, in pieces of any size, and tells whether it is what a digest names."""

    def __init__(self, layout: UnitLayout) -> None:
        self._layout = layout
        self._payload = blake3()
        self._ends_in_zeros = True
        self.position_bytes = 0

    @property
    def digest(self) -> str:
        """The unit's identity, once its payload has passed."""
        return unit_digest(self._layout.tensors, self._payload.hexdigest())

    def holds(self, digest: str) -> bool:
        """Whether all of it was the unit that `digest` names: it is followed by zeros, which the digest leaves out."""
        return self.position_bytes == self._layout.stored_bytes and self._ends_in_zeros and self.digest == digest

    def update(self, data: memoryview) -> None:
        """Take the next bytes."""
        payload_left = max(0, self._layout.payload_bytes - self.position_bytes)
        self._payload.update(data[:payload_left])
        padding = data[payload_left:]
        if len(padding) and padding.tobytes().count(0) != len(padding):
            self._ends_in_zeros = False
        self.position_bytes += len(data)


class Checksums:
    """Takes a unit's data area from front to back, in pieces of any size; of blocks too, where they have a size."""

    def __init__(self, layout: UnitLayout, block_bytes: int | None = None) -> None:
        self._block_bytes = block_bytes
        self._proof = Proof(layout)
        self._chunks = _Pieces(layout.chunk_bytes)
        self._blocks = _Pieces(block_bytes) if block_bytes else None

    @property
    def position_bytes(self) -> int:
        """How much has passed."""
        return self._proof.position_bytes

    @property
    def chunk_crc32c(self) -> tuple[int, ...]:
        """Those of the chunks that have passed whole."""
        return tuple(self._chunks.whole)

    @property
    def blocks(self) -> Blocks | None:
        """Those of all blocks, once the data area has passed."""
        if self._blocks is None or self._block_bytes is None:
            return None
        sums = self._blocks.all
        return Blocks(self._block_bytes, struct.pack(f"<{len(sums)}I", *sums))

    @property
    def digest(self) -> str:
        """The unit's identity, once its payload has passed."""
        return self._proof.digest

    def holds(self, digest: str) -> bool:
        """Whether all of it was the unit that `digest` names."""
        return self._proof.holds(digest)

    def update(self, data: memoryview) -> None:
        """Take the next bytes."""
        self._proof.update(data)
        self._chunks.update(data)
        if self._blocks is not None:
            self._blocks.update(data)
