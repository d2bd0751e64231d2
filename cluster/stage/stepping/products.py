"""Products of linear modules that take the same input, as one product where their weights lie one after the other."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn

Multiply = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]
"""x (..., inputs), weight (outputs, inputs), bias (outputs,) or None: (..., outputs)."""


class Product:
    """One product in the place of those of `linears`, which are in the order of their weights in memory.

    Which of them is called first computes for all; the others take their parts if they are called once with the very same
    tensor. A module whose weight has been exchanged since computes for itself.
    """

    def __init__(
        self, linears: Sequence[nn.Linear], weight: torch.Tensor, bias: torch.Tensor | None, multiply: Multiply
    ) -> None:
        self.linears, self.weight, self.bias, self._multiply = tuple(linears), weight, bias, multiply
        self._own = [linear.weight for linear in linears]
        self._sizes = [linear.out_features for linear in linears]
        self._input: torch.Tensor | None = None
        self._parts: list[torch.Tensor | None] = [None] * len(linears)
        for place, linear in enumerate(linears):
            linear.forward = partial(self._part, place)

    def undo(self) -> None:
        """Have each module compute for itself again."""
        for linear in self.linears:
            linear.__dict__.pop("forward", None)

    def _part(self, place: int, x: torch.Tensor) -> torch.Tensor:
        linear = self.linears[place]
        if any(module.weight is not own for module, own in zip(self.linears, self._own, strict=True)):
            return self._multiply(x, linear.weight, linear.bias)
        part = self._parts[place] if x is self._input else None
        if part is None:
            self._input, self._parts = x, list(self._multiply(x, self.weight, self.bias).split(self._sizes, dim=-1))
            part = self._parts[place]
            assert part is not None
        self._parts[place] = None
        if not any(other is not None for other in self._parts):
            self._input = None  # what was computed from is not kept longer than needed
        return part


def join(linears: Sequence[nn.Linear], multiply: Multiply) -> Product | None:
    """One product of these modules; None if their weights, or their biases, do not lie so that they can be read as one."""
    ordered = sorted(linears, key=lambda linear: 0 if linear.weight.is_meta else linear.weight.data_ptr())
    weight = _as_one([linear.weight for linear in ordered])
    biases = [linear.bias for linear in ordered if linear.bias is not None]
    bias = _as_one(biases) if biases else None
    if weight is None or (biases and (bias is None or len(biases) < len(ordered))):
        return None
    return Product(ordered, weight, bias, multiply)


def _as_one(tensors: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """A view of tensors that lie in this order without a gap in one memory, one below the other."""
    first = tensors[0].detach()
    if first.is_meta:
        return None
    at = first.data_ptr()
    for tensor in tensors:
        same = tensor.shape[1:] == first.shape[1:] and tensor.dtype == first.dtype and tensor.device == first.device
        if not same or tensor.is_meta or not tensor.is_contiguous() or tensor.data_ptr() != at:
            return None
        if tensor.untyped_storage().data_ptr() != first.untyped_storage().data_ptr():
            return None
        at += tensor.numel() * tensor.element_size()
    rows = sum(len(tensor) for tensor in tensors)
    return first.as_strided((rows, *first.shape[1:]), first.stride())
