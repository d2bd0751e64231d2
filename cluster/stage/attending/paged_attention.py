"""Attention over a paged cache: decodes by a kernel that reads pages, or in plain torch; prompts all at once, or in pieces.

Nothing beyond a request's own tokens is ever read into a result, whatever stands in a page from before.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention as sdpa

from cluster.stage.attending.paged import PAGE_TOKENS, PagedPlan, Piece, Prompts, Rows

_MOST_SCORES = 1 << 26
"""Scores of a soft-capped piece that stand in memory at once."""
_FLASH_DIM = 256


@dataclass(frozen=True)
class Rule:
    """How one layer attends: the factor of scores, a sliding window in tokens, a soft cap of scores."""

    scale: float
    window: int | None = None
    softcap: float | None = None


@dataclass(frozen=True)
class Kind:
    """What a kernel is compiled for: heads and dimensions of a layer, its dtype and rule."""

    heads: int
    kv_heads: int
    dim: int
    value_dim: int
    dtype: torch.dtype
    rule: Rule


Flash = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, int, int, float, int | None], torch.Tensor
]
"""Queries, keys and values (tokens, heads, dim) of pieces in a row, where each begins among queries and among keys, the
longest of both, scale and window: (tokens, heads, dim). The last query of a piece stands at its last key."""


@dataclass
class PagedAttention:
    """`kernels` is cluster.stage.kernels.attention once its kernels are compiled for this model, None before.

    `flash` computes all prompts of a step at once where it can; None where it is not there.
    """

    kernels: Any = None
    flash: Flash | None = None
    flash_dtypes: frozenset[torch.dtype] = frozenset((torch.float16, torch.bfloat16))
    kinds: set["Kind"] = field(default_factory=set)

    def attend(
        self, plan: PagedPlan, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rule: Rule
    ) -> torch.Tensor:
        """Queries (1, heads, T, dim), keys and values (1, KV heads, T, dim) of the step's tokens: (1, T, heads, dim)."""
        keys, values = plan.arena.tensors(layer, key, value)
        self.kinds.add(Kind(query.shape[1], key.shape[1], key.shape[3], value.shape[3], key.dtype, rule))
        new_k, new_v = key[0].transpose(0, 1), value[0].transpose(0, 1)
        if self.kernels is not None:
            self.kernels.write(new_k, new_v, keys, values, plan.to)
        else:
            keys.index_copy_(0, plan.to, new_k)
            values.index_copy_(0, plan.to, new_v)
        rows = query[0].transpose(0, 1)
        decode = plan.decode
        if decode is not None and decode.take is None:
            return self._decode(plan, decode, rows, keys, values, rule)[None]
        out = rows.new_empty(plan.tokens, rows.shape[1], value.shape[-1])
        if decode is not None:
            assert decode.take is not None
            out.index_copy_(0, decode.take, self._decode(plan, decode, rows[decode.take], keys, values, rule))
        if plan.prompts is not None and self.flash is not None and self._suits(query, value, rule):
            return self._prompts(plan.prompts, self.flash, rows, (new_k, new_v), (keys, values), rule, out)[None]
        for piece in plan.pieces:
            end = piece.start + piece.tokens
            out[piece.start : end] = _prompt(plan, piece, query, key, value, keys, values, rule)
        return out[None]

    def _suits(self, query: torch.Tensor, value: torch.Tensor, rule: Rule) -> bool:
        """Whether flash attention knows this."""
        dim = query.shape[-1]
        fits = dim == value.shape[-1] and dim % 8 == 0 and dim <= _FLASH_DIM
        return fits and rule.softcap is None and query.dtype in self.flash_dtypes

    def _prompts(
        self, prompts: Prompts, flash: Flash, rows: torch.Tensor, new: tuple[torch.Tensor, torch.Tensor],
        had: tuple[torch.Tensor, torch.Tensor], rule: Rule, out: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        """All pieces in one call, into `out` (T, heads, value dim)."""
        take, at = prompts.take, prompts.at
        queries = rows if take is None else rows[take]
        if at is not None:
            keys, values = (t[at] for t in had)
        else:
            keys, values = (t if take is None else t[take] for t in new)
        found = flash(
            queries, keys, values, prompts.starts_q, prompts.starts_k, prompts.longest_q, prompts.longest_k,
            rule.scale, rule.window,
        )  # fmt: skip
        return found if take is None else out.index_copy_(0, take, found)

    def _decode(
        self, plan: PagedPlan, decode: Rows, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, rule: Rule
    ) -> torch.Tensor:
        """(B, heads, dim) to (B, heads, value dim)."""
        if self.kernels is not None:
            found: torch.Tensor = self.kernels.decode(
                queries, keys, values, decode.rows, decode.lengths, decode.table, PAGE_TOKENS,
                rule.scale, rule.window, rule.softcap,
            )  # fmt: skip
            return found
        return _decode_plainly(plan, decode, queries, keys, values, rule)


def flash_attention(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, starts_q: torch.Tensor, starts_k: torch.Tensor,
    longest_q: int, longest_k: int, scale: float, window: int | None,
) -> torch.Tensor:  # fmt: skip
    """torch's own, on CUDA. Groups of heads share a KV head without a copy."""
    left = None if window is None else window - 1
    found: torch.Tensor = torch.ops.aten._flash_attention_forward(
        queries, keys, values, starts_q, starts_k, longest_q, longest_k, 0.0, True, False,
        scale=scale, window_size_left=left, window_size_right=None if window is None else 0,
    )[0]  # fmt: skip
    return found


def _decode_plainly(
    plan: PagedPlan, decode: Rows, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, rule: Rule
) -> torch.Tensor:
    """What the kernel does, for all rows up to `reach`; no more rows at a time than there are tokens in the cache."""
    pages = decode.table[decode.rows, : -(-decode.reach // PAGE_TOKENS)].long()
    at = (pages[:, :, None] * PAGE_TOKENS + torch.arange(PAGE_TOKENS, device=pages.device)).flatten(1)
    mask = _reached(plan, decode, rule.window, at.shape[1])
    band = max(1, plan.arena.tokens // at.shape[1])
    found = [
        _decode_rows(
            queries[first : first + band], keys, values, at[first : first + band], mask[first : first + band], rule
        )
        for first in range(0, len(queries), band)
    ]
    return torch.cat(found) if len(found) > 1 else found[0]


def _decode_rows(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, at: torch.Tensor, mask: torch.Tensor, rule: Rule
) -> torch.Tensor:
    """Queries (B, heads, dim) over the tokens `at` (B, reach) where `mask` has True. Heads of a group stand as queries of
    their KV head."""
    rows_k, rows_v = keys[at].transpose(1, 2), values[at].transpose(1, 2)
    unread = ~mask[:, None, :, None]
    rows_k, rows_v = rows_k.masked_fill(unread, 0), rows_v.masked_fill(unread, 0)
    grouped = queries.reshape(len(queries), keys.shape[1], -1, queries.shape[-1])
    out = _weigh(grouped, rows_k, rows_v, mask[:, None, None], rule)
    return out.reshape(len(out), queries.shape[1], -1)


def _reached(plan: PagedPlan, decode: Rows, window: int | None, reach: int) -> torch.Tensor:
    """(B, reach), True where a row attends to."""
    cached = plan.masks.get((id(decode), window))
    if cached is None:
        steps = torch.arange(reach, device=decode.lengths.device)
        cached = steps < decode.lengths[:, None]
        if window is not None:
            cached &= steps >= decode.lengths[:, None] - window
        plan.masks[id(decode), window] = cached
    return cached


def _prompt(
    plan: PagedPlan, piece: Piece, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
    keys: torch.Tensor, values: torch.Tensor, rule: Rule,
) -> torch.Tensor:  # fmt: skip
    """A piece of one prompt: (tokens, heads, dim)."""
    end = piece.start + piece.tokens
    queries = query[:, :, piece.start : end]
    if piece.at is None:
        own_k, own_v = key[:, :, piece.start : end], value[:, :, piece.start : end]
    else:
        own_k, own_v = (t[piece.at].transpose(0, 1)[None] for t in (keys, values))
    group = query.shape[1] // own_k.shape[1]
    if group > 1:
        own_k, own_v = (t.repeat_interleave(group, 1) for t in (own_k, own_v))
    had = own_k.shape[2]
    if rule.softcap is not None:
        return _in_bands(queries, own_k, own_v, piece, rule)[0].transpose(0, 1)
    if rule.window is not None and had > rule.window:
        mask = plan.masks.get((id(piece), rule.window))
        if mask is None:
            mask = plan.masks[id(piece), rule.window] = _before(piece.position, piece.tokens, had, rule, queries.device)
        out = sdpa(queries, own_k, own_v, attn_mask=mask, scale=rule.scale)
    elif piece.at is None:
        out = sdpa(queries, own_k, own_v, is_causal=True, scale=rule.scale)
    else:
        out = sdpa(queries, own_k, own_v, attn_mask=causal_lower_right(piece.tokens, had), scale=rule.scale)
    return out[0].transpose(0, 1)


def _in_bands(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, piece: Piece, rule: Rule
) -> torch.Tensor:
    """Soft-capped attention, so many queries at a time that their scores stay small."""
    had = keys.shape[2]
    band = max(1, _MOST_SCORES // (queries.shape[1] * had))
    found = []
    for first in range(0, piece.tokens, band):
        some = queries[:, :, first : first + band]
        mask = _before(piece.position + first, some.shape[2], had, rule, queries.device)
        found.append(_weigh(some, keys, values, mask, rule))
    return torch.cat(found, 2)


def _before(position: int, tokens: int, had: int, rule: Rule, device: torch.device) -> torch.Tensor:
    """(tokens, had), True where a token attends to; the first stands at `position`."""
    reached = torch.arange(position, position + tokens, device=device)[:, None]
    steps = torch.arange(had, device=device)
    mask = steps <= reached
    if rule.window is not None:
        mask &= steps > reached - rule.window
    return mask


def _weigh(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, rule: Rule
) -> torch.Tensor:
    if rule.softcap is None:
        return sdpa(queries, keys, values, attn_mask=mask, scale=rule.scale)
    scores = torch.matmul(queries, keys.transpose(2, 3)) * rule.scale
    scores = torch.tanh(scores / rule.softcap) * rule.softcap
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return torch.matmul(torch.softmax(scores, -1, dtype=torch.float32).to(queries.dtype), values)
