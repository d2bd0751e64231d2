"""What decisions and requests must know of a checkpoint, read off its configuration. Does not import torch."""

from collections.abc import Mapping
from typing import Any

from transformers import AutoConfig, PretrainedConfig

from schedules.facts import Model, Unit
from storage_tiers.checkpoint import DTYPE_BYTES, EMBED, Checkpoint
from storage_tiers.rows import embedding_of


def model_config(config: Mapping[str, Any]) -> PretrainedConfig:
    """transformers' configuration from a checkpoint's, without running code that came with it."""
    fields = dict(config)
    family = fields.pop("model_type")
    return AutoConfig.for_model(family, **fields)


def facts_of(checkpoint: Checkpoint) -> Model:
    """The model as placement sees it."""
    units = tuple(Unit(unit.name, unit.digest, unit.size_bytes) for unit in checkpoint.units)
    kv_bytes = kv_bytes_per_token(model_config(checkpoint.config), checkpoint.dtype)
    rows_first = embedding_of(checkpoint.unit(EMBED), checkpoint.config["model_type"]) is not None
    return Model(checkpoint.name, checkpoint.digest, units, checkpoint.tied_embeddings, kv_bytes, rows_first)


def kv_bytes_per_token(config: PretrainedConfig, dtype: str) -> int:
    """Bytes of KV cache that one token takes over all layers: keys and values of every KV head."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * head_dim * DTYPE_BYTES[dtype])


def context_tokens(config: PretrainedConfig) -> int:
    """Longest sequence, prompt and answer, that the model was made for."""
    return int(config.max_position_embeddings)


def encodes_by_longest(config: PretrainedConfig) -> bool:
    """Whether a batch's longest sequence changes how the positions of all of it are encoded."""
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [rope, *(kind for kind in rope.values() if isinstance(kind, dict))]
    return any(kind.get("rope_type") in ("dynamic", "longrope") for kind in kinds)
