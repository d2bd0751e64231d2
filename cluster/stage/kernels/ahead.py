"""The kernels of most models, built before it is known for which one."""

import itertools

import torch

from cluster.stage import kernels

_WIDTHS = (128, 1024, 2048, 4096, 8192)
"""Of the rows that are normed: heads and hidden states. One kernel serves all widths up to a power of two."""
_HEADS = (64, 128)
_GROUPS = ((8, 4), (8, 2), (8, 1))
"""KV heads, and how many heads share each."""


def build_common(device: torch.device, dtype: torch.dtype) -> bool:
    """For models of the llama kind. False if they cannot be had.

    Some seconds on a machine that has never built them, later a tenth of one.
    """
    return kernels.build(lambda: _build(device, dtype))


def _build(device: torch.device, dtype: torch.dtype) -> None:
    from cluster.stage.kernels import activation, attention, norm, rotary

    for width in _WIDTHS:
        norm.prepare(norm.Form.ROUNDED, width, device, dtype)
    for dim in _HEADS:
        rotary.prepare(rotary.Form(partial=False, restores=False), dim, dim, device, dtype, dtype)
    activation.prepare(activation.Act.SILU, 1024, device, dtype)
    for dim, (kv_heads, group) in itertools.product(_HEADS, _GROUPS):
        attention.prepare(group * kv_heads, kv_heads, dim, dim, dtype, device)
