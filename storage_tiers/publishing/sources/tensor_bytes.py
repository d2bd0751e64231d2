"""A tensor's bytes on their way into a checkpoint: of the type that is wanted, and numbers all of them."""

import math
from collections.abc import Iterable, Iterator
from typing import Any

from storage_tiers.errors import SourceError

READ_BYTES = 1 << 20


def float_bytes(name: str, tensor: Any, dtype: str) -> Iterator[memoryview]:
    """A torch tensor's bytes in type `dtype`, in pieces of READ_BYTES at most; converts a piece at a time.

    SourceError, with the tensor's `name`, if the type has no room for one of its numbers.
    """
    import torch

    flat = tensor.detach().reshape(-1)
    target: torch.dtype = getattr(torch, dtype)
    step = READ_BYTES // max(flat.element_size(), target.itemsize)
    for start in range(0, flat.numel(), step):
        piece = flat[start : start + step]
        converted = piece.to(target).contiguous()
        if piece.dtype != target and not is_finite(converted) and is_finite(piece):
            own = str(piece.dtype).removeprefix("torch.")
            raise SourceError(
                f"tensor {name} holds numbers that are too great for {dtype}: publish in {own}, as it is, or in another type"
            )
        yield memoryview(converted.view(torch.uint8).numpy())


def finite_bytes(name: str, dtype: str, pieces: Iterable[memoryview]) -> Iterator[memoryview]:
    """A tensor's bytes as they come. SourceError, with its `name`, at a piece that holds what is no number."""
    import torch

    for piece in pieces:
        if not is_finite(torch.frombuffer(piece, dtype=getattr(torch, dtype))):
            raise SourceError(f"tensor {name} holds NaN or infinite numbers: the weights are damaged, get them anew")
        yield piece


def is_finite(tensor: Any) -> bool:
    """Whether all of a tensor's values are numbers; reads it once, at the memory's speed."""
    least, greatest = tensor.aminmax()  # of a NaN both are NaN
    return math.isfinite(least) and math.isfinite(greatest)
