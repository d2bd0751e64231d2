"""Where the rows of tensors lie in memory."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Rows:
    """`outer` groups of `inner` rows each; by tensor, its strides from one to the next in elements, 0 where there is one."""

    outer: int
    inner: int
    outer_strides: tuple[int, ...]
    inner_strides: tuple[int, ...]

    @property
    def count(self) -> int:
        return self.outer * self.inner

    @property
    def evenly(self) -> bool:
        """Whether one stride leads from each row to the next."""
        return self.outer == 1


def rows_of(*tensors: torch.Tensor) -> Rows | None:
    """The rows of tensors of one shape (..., width), in order. None if some are not whole in memory, if two strides do not
    lead to all, if there is none, or if the shapes differ."""
    shape = tensors[0].shape
    if not shape or shape.numel() == 0 or any(x.shape != shape or x.stride(-1) != 1 for x in tensors):
        return None
    levels: list[tuple[int, tuple[int, ...]]] = []
    for level, size in enumerate(shape[:-1]):
        strides = tuple(x.stride(level) for x in tensors)
        if size == 1:
            continue
        if levels and levels[-1][1] == tuple(size * stride for stride in strides):
            levels[-1] = (levels[-1][0] * size, strides)
        else:
            levels.append((size, strides))
    if len(levels) > 2:
        return None
    none = (1, (0,) * len(tensors))
    (outer, outer_strides), (inner, inner_strides) = [none, none, *levels][-2:]
    return Rows(outer, inner, outer_strides, inner_strides)
