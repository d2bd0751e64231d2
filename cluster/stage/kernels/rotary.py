"""Rotary positions of queries and keys as one kernel: halves rotated, dimensions beyond the factors' passed on."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
import triton
import triton.language as tl

Apply = Callable[..., tuple[torch.Tensor, torch.Tensor]]
_HEADS = 4
_WARPS = 2
_PROBE_TOKENS, _PROBE_DIM = 5, 8


@dataclass(frozen=True)
class Form:
    """What a family's `apply_rotary_pos_emb` does beyond rotating halves of whole heads by factors of their dtype.

    `partial`: factors of fewer dimensions than a head has rotate its first ones. `restores`: factors in float32 give
    outputs of the inputs' dtype, and nothing is rounded before.
    """

    partial: bool
    restores: bool


def formula(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the kernel computes: heads (1, heads, T, dim), factors (1, T, dim or less)."""
    rotated = cos.shape[-1]

    def turn(x: torch.Tensor) -> torch.Tensor:
        head, rest = x[..., :rotated], x[..., rotated:]
        left, right = head.chunk(2, dim=-1)
        turned = head * cos[:, None] + torch.cat((-right, left), dim=-1) * sin[:, None]
        return torch.cat((turned.to(x.dtype), rest), dim=-1)

    return turn(q), turn(k)


@functools.cache
def form_of(apply: Apply) -> Form | None:
    """The form of a family's function, if it gives the very bits that the formula gives; None if it does not."""
    chance = torch.Generator().manual_seed(0)

    def draw(heads: int, dim: int) -> torch.Tensor:
        return torch.randn(1, heads, _PROBE_TOKENS, dim, generator=chance).bfloat16()

    def equal(dim: int, dtype: torch.dtype) -> bool:
        q, k = draw(4, dim), draw(2, dim)
        cos, sin = (draw(1, _PROBE_DIM)[0].to(dtype) for _ in range(2))
        try:
            given = apply(q, k, cos, sin)
        except RuntimeError:  # it takes no factors of fewer dimensions
            return False
        wanted = formula(q, k, cos, sin)
        return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(given, wanted, strict=True))

    if not equal(_PROBE_DIM, torch.bfloat16):
        return None
    return Form(equal(_PROBE_DIM + 6, torch.bfloat16), equal(_PROBE_DIM, torch.float32))


def rotate(
    form: Form, q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Queries (1, heads, T, dim) and keys (1, KV heads, T, dim) rotated, by one launch; None if the kernel does not fit.

    Outputs are of the same shapes; in memory all heads of a token lie together.
    """
    if not _fits(form, q, k, cos, sin):
        return None
    tokens, dim, rotated = q.shape[2], q.shape[3], cos.shape[-1]
    q_out, k_out = (x.new_empty(1, tokens, x.shape[1], dim).transpose(1, 2) for x in (q, k))
    q_blocks, k_blocks = (triton.cdiv(x.shape[1], _HEADS) for x in (q, k))
    half, rest = rotated // 2, dim - rotated
    _rotate[(tokens, q_blocks + k_blocks)](
        q, k, cos, sin, q_out, k_out, q.shape[1], k.shape[1], q_blocks,
        q.stride(2), q.stride(1), k.stride(2), k.stride(1),
        half=half, rest=rest, half_block=triton.next_power_of_2(half), rest_block=triton.next_power_of_2(max(rest, 1)),
        head_block=_HEADS, rounds=cos.dtype == q.dtype, num_warps=_WARPS,
    )  # fmt: skip
    return q_out, k_out


def _fits(form: Form, q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> bool:
    if q.dim() != 4 or k.dim() != 4 or q.shape[0] != 1 or q.numel() == 0:
        return False
    tokens, dim = q.shape[2:]
    if k.shape != (1, k.shape[1], tokens, dim) or q.stride(3) != 1 or k.stride(3) != 1 or q.dtype != k.dtype:
        return False
    if cos.shape != (1, tokens, cos.shape[-1]) or cos.shape != sin.shape or cos.dtype != sin.dtype:
        return False
    if not cos.is_contiguous() or not sin.is_contiguous() or cos.shape[-1] % 2:
        return False
    whole = cos.shape[-1] == dim or (form.partial and cos.shape[-1] < dim)
    return whole and (cos.dtype == q.dtype or (form.restores and cos.dtype == torch.float32))


def prepare(form: Form, dim: int, rotated: int, device: torch.device, dtype: torch.dtype, factors: torch.dtype) -> None:
    """Build the kernel for heads of `dim` dimensions, `rotated` of them by factors of the dtype `factors`."""
    heads = torch.ones(1, 2, 2 * _HEADS, dim, device=device, dtype=dtype).transpose(1, 2)
    cos = torch.ones(1, 2, rotated, device=device, dtype=factors)
    rotate(form, heads, heads, cos, cos)


@triton.jit
def _rotate(  # type: ignore[no-untyped-def]
    q, k, cos, sin, q_out, k_out, q_heads, k_heads, q_blocks, q_token, q_head, k_token, k_head,
    half: tl.constexpr, rest: tl.constexpr, half_block: tl.constexpr, rest_block: tl.constexpr, head_block: tl.constexpr,
    rounds: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    dim = 2 * half + rest
    cos += token * 2 * half
    sin += token * 2 * half
    if block < q_blocks:
        _rotate_heads(
            q + token * q_token, q_out + token * q_heads * dim, q_head, block * head_block, q_heads, cos, sin,
            half, rest, half_block, rest_block, head_block, rounds,
        )  # fmt: skip
    else:
        _rotate_heads(
            k + token * k_token, k_out + token * k_heads * dim, k_head, (block - q_blocks) * head_block, k_heads, cos, sin,
            half, rest, half_block, rest_block, head_block, rounds,
        )  # fmt: skip


@triton.jit
def _rotate_heads(  # type: ignore[no-untyped-def]
    source, target, source_head, first, count, cos, sin,
    half: tl.constexpr, rest: tl.constexpr, half_block: tl.constexpr, rest_block: tl.constexpr, head_block: tl.constexpr,
    rounds: tl.constexpr,
):  # fmt: skip
    heads = (first + tl.arange(0, head_block))[:, None]
    dims = tl.arange(0, half_block)[None, :]
    source += heads * source_head
    target += heads * (2 * half + rest)
    factor = dims < half
    there = (heads < count) & factor
    left = tl.load(source + dims, mask=there, other=0.0).to(tl.float32)
    right = tl.load(source + half + dims, mask=there, other=0.0).to(tl.float32)
    cos_left = tl.load(cos + dims, mask=factor, other=0.0).to(tl.float32)
    cos_right = tl.load(cos + half + dims, mask=factor, other=0.0).to(tl.float32)
    sin_left = tl.load(sin + dims, mask=factor, other=0.0).to(tl.float32)
    sin_right = tl.load(sin + half + dims, mask=factor, other=0.0).to(tl.float32)
    left_cos, right_sin = left * cos_left, right * sin_left
    right_cos, left_sin = right * cos_right, left * sin_right
    if rounds:
        kind = target.dtype.element_ty
        left_cos, right_sin = left_cos.to(kind).to(tl.float32), right_sin.to(kind).to(tl.float32)
        right_cos, left_sin = right_cos.to(kind).to(tl.float32), left_sin.to(kind).to(tl.float32)
    tl.store(target + dims, left_cos - right_sin, mask=there)
    tl.store(target + half + dims, right_cos + left_sin, mask=there)
    if rest > 0:
        others = 2 * half + tl.arange(0, rest_block)[None, :]
        passed = (heads < count) & (others < 2 * half + rest)
        tl.store(target + others, tl.load(source + others, mask=passed, other=0.0), mask=passed)
