"""What a configuration may say before anything is built of it: transformers makes a layer for every one that it names.

Numbers are bounded generously, far beyond any model, and layers by what is there. Whether the rest makes sense is found out
by transformers, when it is asked for the configuration.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from storage_tiers.bounded_json import check_plain
from storage_tiers.checkpoint import WEIGHT_DTYPES
from storage_tiers.errors import SourceError, UnsupportedModel
from storage_tiers.layouts import REFUSED, SUPPORTED

MOST_LAYERS = 4096
MOST_STOPS = 1024
_LAYERS = ("num_hidden_layers", "n_layer")
_MOST: Mapping[str, int] = {
    "hidden_size": 1 << 20, "n_embd": 1 << 20, "word_embed_proj_dim": 1 << 20,
    "intermediate_size": 1 << 24, "moe_intermediate_size": 1 << 24, "ffn_dim": 1 << 24, "ffn_hidden_size": 1 << 24,
    "n_inner": 1 << 24,
    "num_attention_heads": 1 << 16, "n_head": 1 << 16, "num_key_value_heads": 1 << 16, "num_kv_heads": 1 << 16,
    "head_dim": 1 << 16, "vocab_size": 1 << 28,
    "max_position_embeddings": 1 << 31, "n_positions": 1 << 31,
    "num_experts": 1 << 16, "num_local_experts": 1 << 16, "num_labels": 1 << 16,
}  # fmt: skip
"""Options that are counts, where they are given, under every name that a family of ours has for them."""
_CODE = ("auto_map", "attn_implementation", "experts_implementation", "_attn_implementation", "_experts_implementation")


def without_code(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration without what names code to compute with, some of which transformers would fetch from the hub."""
    return {key: value for key, value in config.items() if key not in _CODE}


def check_supported(config: Mapping[str, Any]) -> None:
    """Raise UnsupportedModel, saying why, unless we serve the family and these options of it, unquantised."""
    family = config.get("model_type")
    if family is None:
        raise SourceError("the configuration has no model_type: it does not describe a model of transformers")
    if "text_config" in config:
        raise UnsupportedModel(
            f"family {family!r} wraps a language model and other parts (text_config); publish the text model alone"
        )
    if family not in SUPPORTED:
        raise UnsupportedModel(f"family {family!r} is not supported; supported are {', '.join(SUPPORTED)}")
    for option, what in REFUSED.get(family, {}).items():
        if config.get(option):
            raise UnsupportedModel(f"this model of family {family!r} has {what}: that is not supported")
    if quantised := config.get("quantization_config"):
        method = quantised.get("quant_method", "unknown") if isinstance(quantised, Mapping) else quantised
        raise UnsupportedModel(
            f"the weights are quantised ({method}); publish the original in bfloat16 or the like, or a GGUF file"
        )


def check_sizes(config: Mapping[str, Any], layers: Iterable[int]) -> None:
    """SourceError if the configuration says what no model has; `layers` are the counts of layers that there can be."""
    try:
        check_plain(config)
    except ValueError as error:
        raise SourceError(f"the configuration does not describe a model: {error}") from error
    odd = [name for name in config if name.startswith("__")]
    for name, most in _MOST.items():
        if config.get(name) is not None and not _is_count(config[name], most):
            odd.append(name)
    odd += [name for name in _LAYERS if config.get(name) is not None and not _is_count(config[name], MOST_LAYERS)]
    odd += [name for name in ("dtype", "torch_dtype") if config.get(name) not in (None, *WEIGHT_DTYPES)]
    if odd:
        said = ", ".join(f"{name} is {_short(config[name])}" for name in odd[:5])
        raise SourceError(f"the configuration does not describe a model: {said}")
    wrong = [name for name in _LAYERS if config.get(name) is not None and config[name] not in layers]
    if wrong:
        raise SourceError(f"the configuration has {config[wrong[0]]} layers ({wrong[0]}), which are not there")


def check_stops(generation_config: Mapping[str, Any]) -> None:
    """SourceError unless the tokens that end an answer are tokens."""
    given = generation_config.get("eos_token_id")
    stops = given if isinstance(given, list) else [] if given is None else [given]
    if len(stops) > MOST_STOPS or any(type(token) is not int or not 0 <= token < 1 << 31 for token in stops):
        raise SourceError(f"the generation configuration has no tokens as eos_token_id: {_short(given)}")
    try:
        check_plain(generation_config)
    except ValueError as error:
        raise SourceError(f"the generation configuration cannot be used: {error}") from error


def _is_count(value: object, most: int) -> bool:
    return type(value) is int and 1 <= value <= most


def _short(value: object) -> str:
    text = str(value) if type(value) is not int or -(1 << 64) < value < 1 << 64 else "a number beyond all bounds"
    return text[:80]
