"""What decisions and requests must know of a checkpoint, read off its configuration.

transformers, which brings torch unless it is refused, is imported when the first configuration is made.
"""

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from schedules.facts import Model, Unit, Widths
from storage_tiers.checkpoint import DTYPE_BYTES, EMBED, Checkpoint
from storage_tiers.errors import Corrupt
from storage_tiers.layouts import layout_of
from storage_tiers.model_configs import without_code
from storage_tiers.tiers.rows import embedding_of

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_COUNTS = ("num_hidden_layers", "num_attention_heads", "hidden_size", "vocab_size", "max_position_embeddings")
_OTHERS = ("num_key_value_heads", "head_dim")
_INNER = ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size")
"""What families call the width of their feed-forward; where it is not said it is four times that of the model."""
_FLASH_DTYPES, _FLASH_DIM = ("bfloat16", "float16"), 256
_SAID = 400
_importing = threading.Lock()
"""Held while transformers is imported: a second thread would find it half made."""


def model_config(config: Mapping[str, Any]) -> "PretrainedConfig":
    """transformers' configuration from a checkpoint's, without running code that came with it, or that it names.

    Corrupt if transformers cannot make one of it.
    """
    with _importing:
        from transformers import AutoConfig
    fields = without_code(config)
    try:
        return AutoConfig.for_model(fields.pop("model_type"), **fields)
    except Exception as error:  # whatever a wrong value makes transformers raise
        said = f"{type(error).__name__}: {error}"
        raise Corrupt(f"the configuration does not describe a model ({said[:_SAID]})") from error


def facts_of(checkpoint: Checkpoint) -> Model:
    """The model as placement sees it. Corrupt if its configuration, with all that it leaves to defaults, is not its own."""
    config = model_config(checkpoint.config)
    _check(checkpoint, config)
    units = tuple(Unit(unit.name, unit.digest, unit.size_bytes) for unit in checkpoint.units)
    kv_bytes = kv_bytes_per_token(config, checkpoint.dtype)
    rows_first = embedding_of(checkpoint.unit(EMBED), checkpoint.config["model_type"]) is not None
    widths = widths_of(config, checkpoint.dtype)
    return Model(checkpoint.name, checkpoint.digest, units, checkpoint.tied_embeddings, kv_bytes, rows_first, widths)


def _check(checkpoint: Checkpoint, config: "PretrainedConfig") -> None:
    counts = {name: getattr(config, name, None) for name in _COUNTS}
    counts |= {name: value for name in _OTHERS if (value := getattr(config, name, None)) is not None}
    odd = [f"{name} is {str(value)[:40]}" for name, value in counts.items() if type(value) is not int or value < 1]
    if odd:
        raise Corrupt(f"the configuration of {checkpoint.name} does not describe a model: {', '.join(odd)}")
    if config.num_hidden_layers != checkpoint.layers:
        raise Corrupt(f"{checkpoint.name} has {checkpoint.layers} layers, its configuration {config.num_hidden_layers}")
    matrix = layout_of(config.model_type).embedding_weight
    rows = [tensor.shape[:1] for tensor in checkpoint.unit(EMBED).layout.tensors if tensor.name == matrix]
    if rows != [(config.vocab_size,)]:
        raise Corrupt(f"{checkpoint.name} has no embedding of {config.vocab_size} tokens, as its configuration says")
    if config.hidden_size < config.num_attention_heads:
        raise Corrupt(f"{checkpoint.name} has more heads than its configuration's hidden_size")


def kv_bytes_per_token(config: "PretrainedConfig", dtype: str) -> int:
    """Bytes of KV cache that one token takes over all layers: keys and values of every KV head."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * _head_dim(config) * DTYPE_BYTES[dtype])


def widths_of(config: "PretrainedConfig", dtype: str) -> Widths:
    """How many numbers its layers make of one token, and how they attend."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    inner = next((size for name in _INNER if (size := getattr(config, name, None))), 4 * config.hidden_size)
    expert = getattr(config, "moe_intermediate_size", None) or inner
    inner = max(inner, (getattr(config, "num_experts_per_tok", None) or 1) * expert)
    attention = (config.num_attention_heads + 2 * heads) * _head_dim(config)
    dim, capped = _head_dim(config), getattr(config, "attn_logit_softcapping", None) is not None
    plain = capped or dtype not in _FLASH_DTYPES or dim > _FLASH_DIM or dim % 8 != 0
    return Widths(config.hidden_size, inner, attention, config.vocab_size, DTYPE_BYTES[dtype], plain)


def _head_dim(config: "PretrainedConfig") -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def context_tokens(config: "PretrainedConfig") -> int:
    """Longest sequence, prompt and answer, that the model was made for.

    `max_position_embeddings` counts what linear, dynamic and yarn scaling start from, but what longrope and llama3 lead to.
    Yarn names what it starts from itself; Gemma 3's configurations count what is reached whatever the kind (as vLLM has it).
    """
    kind = rope_kinds(config).get(None, {})
    scaling, factor = kind.get("rope_type"), kind.get("factor")
    if scaling not in ("linear", "dynamic", "yarn") or factor is None:
        return int(config.max_position_embeddings)
    return int(
        factor * (kind["original_max_position_embeddings"] if scaling == "yarn" else config.max_position_embeddings)
    )


def learned_positions(config: "PretrainedConfig") -> int | None:
    """How many positions the model has a vector for; None if it computes them, as many as there are."""
    return context_tokens(config) if layout_of(config.model_type).positions else None


def rope_kinds(config: "PretrainedConfig") -> dict[str | None, Mapping[str, Any]]:
    """How positions are rotated, by the type of the layers; under None if it is the same in all. Empty if they are not."""
    parameters = getattr(config, "rope_parameters", None) or {}
    types = config.nested_rope_parameter_keys(parameters)
    kinds = {layers: parameters[layers] for layers in types} if types else {None: parameters}
    return {layers: kind for layers, kind in kinds.items() if kind}


def follows_length(kind: Mapping[str, Any]) -> bool:
    """Whether the factors that positions are rotated by change with the length of the sequence."""
    return kind["rope_type"] in ("dynamic", "longrope")


def rope_border(config: "PretrainedConfig", kind: Mapping[str, Any]) -> int:
    """The longest sequence, in tokens, for which a kind that follows the length has its first factors."""
    own = kind["rope_type"] == "longrope"
    return int(kind["original_max_position_embeddings"] if own else config.max_position_embeddings)


def renewal_border(config: "PretrainedConfig") -> int | None:
    """Tokens beyond which all that is cached of a request is to be computed anew, once; None: nothing ever is.

    Phi 3's `generate` does so where its factors change. In other families the keys keep those that they were made with.
    """
    if config.model_type != "phi3" or not any(follows_length(kind) for kind in rope_kinds(config).values()):
        return None
    return int(config.original_max_position_embeddings)
