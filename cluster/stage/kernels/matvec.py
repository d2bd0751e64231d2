"""Products of a weight matrix and a few rows as one kernel that reads each weight once, in order, and sums in float32."""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from cluster.stage.kernels.strides import rows_of

MAX_ROWS = 4


@dataclass(frozen=True)
class Tile:
    """What one program reads at a time: `outputs` rows of the weight, `inputs` of their columns, with `warps` warps.

    `stages`: how many such pieces are under way, in shared memory if there are several.
    """

    outputs: int
    inputs: int
    warps: int
    stages: int = 1


TILE = Tile(4, 1024, 4, 3)
"""The quickest for most matrices of models of 0.6B and 8B parameters, at one row."""


def formula(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """What the kernel computes, up to the order of the sums."""
    product = x.float() @ weight.float().T
    return (product if bias is None else product + bias.float()).to(x.dtype)


def matvec(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, tile: Tile = TILE
) -> torch.Tensor | None:
    """x (..., inputs) times weight (outputs, inputs), by one launch; None if the kernel does not fit these tensors."""
    rows = rows_of(x)
    outputs, inputs = weight.shape
    if rows is None or not rows.evenly or rows.count > MAX_ROWS or x.shape[-1] != inputs:
        return None
    if x.dtype != weight.dtype or not weight.is_contiguous() or (bias is not None and bias.dtype != x.dtype):
        return None
    out = x.new_empty(*x.shape[:-1], outputs)
    _matvec[(triton.cdiv(outputs, tile.outputs),)](
        x, weight, out if bias is None else bias, out, rows.count, outputs, *rows.inner_strides,
        inputs=inputs, biased=bias is not None, even=outputs % tile.outputs == 0 and inputs % tile.inputs == 0,
        row_block=triton.next_power_of_2(rows.count), output_block=tile.outputs, input_block=tile.inputs,
        stages=tile.stages, num_warps=tile.warps,
    )  # fmt: skip
    return out


def prepare(rows: int, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
    """Build the kernels for products of 1 to `rows` rows with a weight of this shape."""
    for count in {triton.next_power_of_2(n) for n in range(1, rows + 1)}:
        matvec(weight.new_ones(count, weight.shape[1]), weight, bias)


@triton.jit(do_not_specialize=["rows"])
def _matvec(  # type: ignore[no-untyped-def]
    x, weight, bias, out, rows, outputs, x_row, inputs: tl.constexpr, biased: tl.constexpr, even: tl.constexpr,
    row_block: tl.constexpr, output_block: tl.constexpr, input_block: tl.constexpr, stages: tl.constexpr,
):  # fmt: skip
    output = tl.program_id(0) * output_block + tl.arange(0, output_block)
    row = tl.arange(0, row_block)
    column = tl.arange(0, input_block)
    of_weight = weight + output.to(tl.int64)[:, None] * inputs + column[None, :]
    of_x = x + row[:, None] * x_row + column[None, :]
    there, wanted = (output < outputs)[:, None], (row < rows)[:, None]
    sums = tl.full((row_block, output_block, input_block), 0.0, dtype=tl.float32)
    for start in tl.range(0, inputs, input_block, num_stages=stages):
        left = (column < inputs - start)[None, :]
        if even:
            w = tl.load(of_weight + start, eviction_policy="evict_first").to(tl.float32)
        else:
            w = tl.load(of_weight + start, mask=there & left, other=0.0, eviction_policy="evict_first").to(tl.float32)
        v = tl.load(of_x + start, mask=wanted & left, other=0.0).to(tl.float32)
        sums += w[None, :, :] * v[:, None, :]
    total = tl.sum(sums, axis=2)
    at = output[None, :]
    if biased:
        total += tl.load(bias + at, mask=at < outputs, other=0.0).to(tl.float32)
    tl.store(out + row[:, None] * outputs + at, total, mask=wanted & (at < outputs))
