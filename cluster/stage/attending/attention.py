"""Attention over a stage's KV cache, in the place where transformers' models call theirs.

A step is a row of tokens (1, T, ...) of several requests; which token attends to what stands in the cache's plan, so no
padding is computed and no mask is made by the model.
"""

import importlib
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention as sdpa
from transformers import AttentionInterface

from cluster.errors import StageFailed
from cluster.stage.attending.paged import PagedPlan
from cluster.stage.attending.paged_attention import PagedAttention, Rule
from cluster.stage.attending.slabs import Decode, Prefill, StepPlan

NAME = "firsttoken"
"""The implementation's name in a transformers configuration."""
_ADAPTERS = {"falcon": "cluster.stage.attending.falcon"}
_UNKNOWN = ("s_aux", "position_bias", "alibi")


class Attention:
    """What the attention modules of a stage share: its first layer's number and the plan of the step under way."""

    def __init__(self, first_layer: int) -> None:
        self.first_layer = first_layer
        self.plan: StepPlan | PagedPlan | None = None
        self.paged = PagedAttention()

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, window: int | None,
        softcap: float | None,
    ) -> torch.Tensor:  # fmt: skip
        """Queries (1, heads, T, dim), keys and values (1, KV heads, T, dim) of the step's tokens: (1, T, heads, dim)."""
        plan = self.plan
        assert plan is not None
        if isinstance(plan, PagedPlan):
            return self.paged.attend(plan, layer, query, key, value, Rule(scale, window, softcap))
        for write in plan.writes:
            keys, values = write.slab.tensors(layer, key, value)
            rows_k, rows_v = key[0].transpose(0, 1), value[0].transpose(0, 1)
            if write.take is not None:
                rows_k, rows_v = rows_k[write.take], rows_v[write.take]
            keys.index_copy_(0, write.to, rows_k)
            values.index_copy_(0, write.to, rows_v)
        heads, kv_heads = query.shape[1], key.shape[1]
        rule = _Rule(plan, scale, window, softcap, heads, kv_heads)
        if len(plan.decodes) == 1 and not plan.prefills:
            decode = plan.decodes[0]
            out = rule.decode(decode, layer, query[0].transpose(0, 1), key, value)
            if decode.take is None:
                return out[None]
            return torch.empty_like(out).index_copy_(0, decode.take, out)[None]
        return self._mixed(rule, plan, layer, query, key, value)

    def _mixed(
        self, rule: "_Rule", plan: StepPlan, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        rows = query[0].transpose(0, 1)
        out = rows.new_empty(plan.tokens, rows.shape[1], value.shape[-1])
        for decode in plan.decodes:
            assert decode.take is not None
            out.index_copy_(0, decode.take, rule.decode(decode, layer, rows, key, value))
        for prefill in plan.prefills:
            end = prefill.start + prefill.tokens
            out[prefill.start : end] = rule.prefill(prefill, layer, query, key, value)
        return out[None]


class _Rule:
    """How one layer attends: scale, sliding window, soft cap and heads."""

    def __init__(
        self, plan: StepPlan, scale: float, window: int | None, softcap: float | None, heads: int, kv_heads: int
    ) -> None:
        self._plan, self._scale, self._window, self._softcap = plan, scale, window, softcap
        self._heads, self._kv_heads, self._group = heads, kv_heads, heads // kv_heads

    def decode(
        self, decode: Decode, layer: int, rows: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        """One token of each request: (requests, heads, dim). The heads of a group stand as queries of their KV head.

        Nothing is repeated then as in transformers' own way, which costs 5 ms a token with SmolLM2 on two cores. In
        bfloat16 the last bit may differ from it.
        """
        slab, first, end = decode.slab, decode.first_row, decode.end_row
        queries = rows if decode.take is None else rows[decode.take]
        queries = queries.reshape(-1, self._kv_heads, self._group, queries.shape[-1])
        if decode.rows is not None:
            all_rows = queries.new_zeros(end - first, *queries.shape[1:])
            queries = all_rows.index_copy_(0, decode.rows, queries)
        keys, values = (
            t.view(slab.rows, slab.room, self._kv_heads, -1)[first:end, : decode.longest].transpose(1, 2)
            for t in slab.tensors(layer, key, value)
        )
        out = self._attend(queries, keys, values, self._decode_mask(decode))
        if decode.rows is not None:
            out = out[decode.rows]
        return out.reshape(len(out), self._heads, -1)

    def prefill(
        self, prefill: Prefill, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        """A piece of one prompt: (tokens, heads, dim)."""
        slab, start, end = prefill.slab, prefill.start, prefill.start + prefill.tokens
        queries = query[:, :, start:end]
        if prefill.position == 0:
            keys, values = key[:, :, start:end], value[:, :, start:end]
        else:
            first = prefill.row * slab.room
            keys, values = (
                t[first : first + prefill.position + prefill.tokens].transpose(0, 1)[None]
                for t in slab.tensors(layer, key, value)
            )
        if self._group > 1:
            keys, values = (t.repeat_interleave(self._group, 1) for t in (keys, values))
        whole = self._window is None or prefill.position + prefill.tokens <= self._window
        if prefill.position == 0 and whole and self._softcap is None:
            out = sdpa(queries, keys, values, is_causal=True, scale=self._scale)
        else:
            out = self._attend(queries, keys, values, self._prefill_mask(prefill))
        return out[0].transpose(0, 1)

    def _attend(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        if self._softcap is None:
            return sdpa(queries, keys, values, attn_mask=mask, scale=self._scale)
        scores = torch.matmul(queries, keys.transpose(2, 3)) * self._scale
        scores = torch.tanh(scores / self._softcap) * self._softcap
        if mask is not None:
            scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        return torch.matmul(torch.softmax(scores, -1, dtype=torch.float32).to(queries.dtype), values)

    def _decode_mask(self, decode: Decode) -> torch.Tensor | None:
        """(rows, 1, 1, longest), True where to attend; None where every row attends to everything."""
        windowed = self._window is not None and decode.longest > self._window
        if decode.even and not windowed:
            return None
        cached = self._plan.masks.get((id(decode), self._window))
        if cached is None:
            steps = torch.arange(decode.longest, device=decode.lengths.device)
            cached = steps < decode.lengths[:, None]
            if self._window is not None:
                cached &= steps >= decode.lengths[:, None] - self._window
            cached = self._plan.masks[id(decode), self._window] = cached[:, None, None]
        return cached

    def _prefill_mask(self, prefill: Prefill) -> torch.Tensor:
        """(tokens, tokens before and in the piece), True where to attend."""
        cached = self._plan.masks.get((id(prefill), self._window))
        if cached is None:
            device = self._plan.positions.device
            reached = torch.arange(prefill.position, prefill.position + prefill.tokens, device=device)[:, None]
            steps = torch.arange(prefill.position + prefill.tokens, device=device)
            cached = steps <= reached
            if self._window is not None:
                cached &= steps > reached - self._window
            self._plan.masks[id(prefill), self._window] = cached
        return cached


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """The signature that transformers calls. StageFailed for what this attention does not know."""
    unknown = [name for name in _UNKNOWN if others.get(name) is not None]
    if unknown:
        raise StageFailed(f"{type(module).__name__} needs {', '.join(unknown)}, which is not supported")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    shared: Attention = module.firsttoken_attention  # type: ignore[assignment]
    layer = int(module.layer_idx) - shared.first_layer  # type: ignore[arg-type]
    return shared.attend(layer, query, key, value, scale, sliding_window, softcap), None


def adapt(family: str) -> None:
    """Make a family that computes attention itself, past transformers' interface, use ours; nothing for the others."""
    if family in _ADAPTERS:
        importlib.import_module(_ADAPTERS[family])


AttentionInterface.register(NAME, attend)
