"""Touching every page of tensors, so that what is mapped but not read counts as little as it is worth."""

import mmap
import zlib

import torch


class Fingerprint:
    """Takes tensors in any order; equal for equal names and bytes (as far as one byte a page tells)."""

    def __init__(self) -> None:
        self._sums: dict[str, int] = {}
        self.size_bytes = 0

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Read a byte of every page that the tensor lies on."""
        flat = tensor.reshape(-1).view(torch.uint8).numpy()
        self._sums[name] = int(flat[:: mmap.PAGESIZE].sum()) + int(flat[-1])
        self.size_bytes += len(flat)

    @property
    def value(self) -> int:
        return zlib.crc32(repr(sorted(self._sums.items())).encode())
