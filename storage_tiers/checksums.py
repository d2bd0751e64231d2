"""What proves that a unit's bytes are right: a digest of its payload and a crc32c of every chunk, kept as they pass by."""

import crc32c
from blake3 import blake3

from storage_tiers.checkpoint import UnitLayout, unit_digest


class Checksums:
    """Takes a unit's data area from front to back, in pieces of any size."""

    def __init__(self, layout: UnitLayout) -> None:
        self._layout = layout
        self._payload = blake3()
        self._running = 0
        self._chunks: list[int] = []
        self.position_bytes = 0

    @property
    def chunk_crc32c(self) -> tuple[int, ...]:
        """Those of the chunks that have passed whole."""
        return tuple(self._chunks)

    @property
    def digest(self) -> str:
        """The unit's identity, once its payload has passed."""
        return unit_digest(self._layout.tensors, self._payload.hexdigest())

    def update(self, data: memoryview) -> None:
        """Take the next bytes."""
        payload_left = max(0, self._layout.payload_bytes - self.position_bytes)
        self._payload.update(data[:payload_left])
        while len(data):
            filled = self.position_bytes % self._layout.chunk_bytes
            piece = data[: self._layout.chunk_bytes - filled]
            self._running = crc32c.crc32c(piece, self._running)
            self.position_bytes += len(piece)
            if filled + len(piece) == self._layout.chunk_bytes:
                self._chunks.append(self._running)
                self._running = 0
            data = data[len(piece) :]
