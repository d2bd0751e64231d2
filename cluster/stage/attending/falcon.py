"""Falcon's attention over our KV cache: the family computes attention itself and not through transformers' interface."""

from typing import Any

import torch
from transformers.models.falcon.modeling_falcon import (
    FALCON_ATTENTION_CLASSES,
    FalconAttention,
    apply_rotary_pos_emb,
)

from cluster.stage.attending.attention import NAME, attend


class _Attention(FalconAttention):
    """The same weights. Keys and values are not repeated for every query, as the family's own code does: that many heads
    would be cached."""

    def forward(
        self, hidden_states: torch.Tensor, position_embeddings: tuple[torch.Tensor, torch.Tensor], **_others: Any
    ) -> tuple[torch.Tensor, None]:
        """Hidden states (1, T, hidden); cosines and sines of the tokens' positions."""
        group = self.num_heads // self.num_kv_heads
        fused = self.query_key_value(hidden_states).unflatten(-1, (self.num_kv_heads, group + 2, self.head_dim))
        query, key, value = fused[..., :-2, :].flatten(2, 3), fused[..., -2, :], fused[..., -1, :]
        query, key, value = (heads.transpose(1, 2) for heads in (query, key, value))
        query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        attended, _ = attend(self, query, key, value, None)
        return self.dense(attended.flatten(2)), None


FALCON_ATTENTION_CLASSES[NAME] = _Attention
