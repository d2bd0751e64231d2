"""What the metadata of a GGUF file says of its model, as a configuration of transformers: all of it, or a refusal by name.

Keys and what llama.cpp computes by them: its src/llama-model.cpp and src/models/; what its converter writes: its
convert_hf_to_gguf.py and conversion/.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from storage_tiers.errors import SourceError, UnsupportedModel

FAMILIES: Mapping[str, str] = {
    "llama": "llama", "mistral": "mistral", "qwen2": "qwen2", "qwen3": "qwen3", "qwen3moe": "qwen3_moe",
    "gemma2": "gemma2", "gemma3": "gemma3_text", "phi3": "phi3",
}  # fmt: skip
"""Architectures by their names in GGUF, and the families of transformers that they are."""
LLAMA3_FACTORS, LONG_FACTORS, SHORT_FACTORS = (
    "rope_freqs.weight",
    "rope_factors_long.weight",
    "rope_factors_short.weight",
)
ROTATIONS = (LLAMA3_FACTORS, LONG_FACTORS, SHORT_FACTORS)
"""Tensors that are no weights: what rotary frequencies are divided by."""

_ANY = "tensor_data_layout", "rope.scaling.finetuned", "pooling_type"
_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "attention.causal": (True,), "attention.clamp_kqv": (0,), "attention.max_alibi_bias": (0,), "attention.scale": (0,),
    "attention.output_scale": (0, 1), "attention.temperature_length": (0,), "attention.temperature_scale": (0,),
    "attention.shared_kv_layers": (0,), "attention.sliding_window": (0,),
    "attn_logit_softcapping": (0,), "final_logit_softcapping": (0,), "logit_scale": (0, 1), "residual_scale": (0, 1),
    "embedding_scale": (0, 1), "use_parallel_residual": (False,), "nextn_predict_layers": (0,),
    "leading_dense_block_count": (0,), "expert_count": (0,), "expert_used_count": (0,), "expert_shared_count": (0,),
    "expert_feed_forward_length": (0,), "expert_shared_feed_forward_length": (0,), "expert_group_count": (0, 1),
    "expert_group_used_count": (0, 1), "expert_weights_scale": (0, 1), "expert_weights_norm": (True,),
    "expert_gating_func": (0, 1), "rope.scaling.alpha": (0,), "rope.scaling.attn_factor": (1,),
    "rope.scaling.yarn_log_multiplier": (0,), "rope.scaling.yarn_ext_factor": (1,), "rope.scaling.yarn_attn_factor": (1,),
}  # fmt: skip
"""Keys that nobody has to carry over while they have one of these values."""


@dataclass(frozen=True)
class _Gemma:
    """What llama.cpp takes where a file says nothing, and the size whose attention it scales otherwise than the others'."""

    full_every: int
    window: int | None
    logit_cap: float
    attention_cap: float
    largest_layers: int


_GEMMAS = {"gemma2": _Gemma(2, 4096, 30.0, 50.0, 46), "gemma3": _Gemma(6, None, 0.0, 0.0, 62)}
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
_CLOSE = 1e-4


def config_of(
    metadata: Mapping[str, Any], rotations: Mapping[str, Sequence[float]], vocabulary: int, *, tied: bool
) -> dict[str, Any]:
    """The configuration of the model. SourceError if it is said wrongly, UnsupportedModel if something cannot be said.

    `metadata` are all keys and values, `rotations` the tensors of ROTATIONS that are there, `vocabulary` the rows of the
    embedding, `tied` whether it is the output matrix too.
    """
    keys = _Keys(metadata)
    config = _shape(keys, vocabulary) | {"tie_word_embeddings": tied}
    if keys.architecture == "qwen3moe":
        config |= _experts(keys, config)
    config |= _windows(keys, config)
    config["rope_parameters"] = _rope(keys, config, rotations)
    keys.finish()
    return config


class _Keys:
    """The keys of the model's architecture. What nobody has asked for in the end is refused."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        self.architecture = str(metadata.get("general.architecture"))
        if self.architecture not in FAMILIES:
            raise UnsupportedModel(
                f"GGUF files of architecture {self.architecture!r} are not supported; supported are "
                f"{', '.join(FAMILIES)}. Publish the original safetensors"
            )
        prefix = f"{self.architecture}."
        self._left = {key.removeprefix(prefix): value for key, value in metadata.items() if key.startswith(prefix)}

    def number(self, name: str, default: float | None = None) -> float:
        """A finite number; SourceError if there is neither it nor a default."""
        value = self._left.pop(name, default)
        if type(value) not in (int, float) or not math.isfinite(value):
            raise SourceError(f"{self.architecture}.{name} is {_short(value)} where a number is needed")
        return float(value)

    def count(self, name: str, default: int | None = None) -> int:
        """A whole number of at least 1; likewise."""
        value = self._left.pop(name, default)
        if type(value) is not int or value < 1:
            raise SourceError(f"{self.architecture}.{name} is {_short(value)} where a number from 1 on is needed")
        return value

    def text(self, name: str) -> str | None:
        """A word, if there is one."""
        value = self._left.pop(name, None)
        return None if value is None else str(value)

    def expect(self, name: str, value: object) -> None:
        """Refuse any other value, if there is one."""
        if (found := self._left.pop(name, value)) != value:
            self.refuse(name, found)

    def finish(self) -> None:
        """Refuse what is left, unless it says nothing."""
        for name, value in self._left.items():
            if name not in _ANY and not any(value == neutral for neutral in _NEUTRAL.get(name, ())):
                self.refuse(name, value)

    def refuse(self, name: str, value: object) -> NoReturn:
        raise UnsupportedModel(
            f"{self.architecture}.{name} ({_short(value)}) cannot be carried over from GGUF; publish the original safetensors"
        )


def _shape(keys: _Keys, vocabulary: int) -> dict[str, Any]:
    hidden, heads = keys.count("embedding_length"), keys.count("attention.head_count")
    head = keys.count("attention.key_length", hidden // heads)
    keys.expect("attention.value_length", head)
    keys.expect("vocab_size", vocabulary)
    return {
        "model_type": FAMILIES[keys.architecture],
        "vocab_size": vocabulary,
        "max_position_embeddings": keys.count("context_length"),
        "num_hidden_layers": keys.count("block_count"),
        "hidden_size": hidden,
        "intermediate_size": keys.count("feed_forward_length"),
        "num_attention_heads": heads,
        "num_key_value_heads": keys.count("attention.head_count_kv", heads),
        "head_dim": head,
        "rms_norm_eps": keys.number("attention.layer_norm_rms_epsilon"),
    }


def _experts(keys: _Keys, config: Mapping[str, Any]) -> dict[str, Any]:
    used = keys.count("expert_used_count")
    return {
        "num_experts": keys.count("expert_count"),
        "num_experts_per_tok": used,
        "moe_intermediate_size": keys.count("expert_feed_forward_length", config["intermediate_size"] // used),
        "norm_topk_prob": True,
    }


def _windows(keys: _Keys, config: Mapping[str, Any]) -> dict[str, Any]:
    """What attention sees, and how its values and the logits are bounded, where families differ in that."""
    kind, layers = keys.architecture, config["num_hidden_layers"]
    if kind in ("mistral", "phi3"):
        return {"sliding_window": int(keys.number("attention.sliding_window", 0)) or None}
    if kind not in _GEMMAS:
        return {}
    gemma = _GEMMAS[kind]
    keys.expect("attention.key_length_swa", config["head_dim"])
    keys.expect("attention.value_length_swa", config["head_dim"])
    every = keys.count("attention.sliding_window_pattern", gemma.full_every)
    share = config["hidden_size"] // config["num_attention_heads"]
    found = {
        "sliding_window": keys.count("attention.sliding_window", gemma.window),
        "layer_types": [
            "sliding_attention" if (layer + 1) % every else "full_attention" for layer in range(layers)
        ],
        "query_pre_attn_scalar": share if layers == gemma.largest_layers else config["head_dim"],
        "final_logit_softcapping": keys.number("final_logit_softcapping", gemma.logit_cap) or None,
    }  # fmt: skip
    if gemma.attention_cap:
        found["attn_logit_softcapping"] = keys.number("attn_logit_softcapping", gemma.attention_cap) or None
    return found


def _rope(keys: _Keys, config: dict[str, Any], rotations: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    head, theta = config["head_dim"], keys.number("rope.freq_base", 10000.0)
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": theta}
    rotary = keys.count("rope.dimension_count", head)
    if keys.architecture == "phi3":
        rope["partial_rotary_factor"] = rotary / head
    if int(head * rope.get("partial_rotary_factor", 1)) != rotary:
        keys.refuse("rope.dimension_count", rotary)
    rope |= _scaling(keys, config, rotations, (theta, rotary))
    if keys.architecture != "gemma3":
        keys.expect("rope.freq_base_swa", theta)
        return rope
    if rope["rope_type"] not in ("default", "linear"):
        keys.refuse("rope.scaling.type", rope["rope_type"])
    sliding = {"rope_type": "default", "rope_theta": keys.number("rope.freq_base_swa", 10000.0)}
    return {"full_attention": rope, "sliding_attention": sliding}


def _scaling(
    keys: _Keys, config: dict[str, Any], rotations: Mapping[str, Sequence[float]], plain: tuple[float, int]
) -> dict[str, Any]:
    """How rotary frequencies are scaled: by a rule, or by tensors that the file brings along."""
    rule = keys.text("rope.scaling.type") or "linear"
    old = keys.number("rope.scale_linear", 1.0)
    given = keys.number("rope.scaling.factor", old)
    factor = 1.0 if rule == "none" else given or 1.0
    trained = keys.count("rope.scaling.original_context_length", config["max_position_embeddings"])
    fast, slow = keys.number("rope.scaling.yarn_beta_fast", 32.0), keys.number("rope.scaling.yarn_beta_slow", 1.0)
    if LONG_FACTORS in rotations or SHORT_FACTORS in rotations or rule == "longrope":
        if factor != 1 or LLAMA3_FACTORS in rotations or not {LONG_FACTORS, SHORT_FACTORS} <= rotations.keys():
            keys.refuse("rope.scaling.type", "longrope, with other tensors than its long and short factors")
        if {len(rotations[LONG_FACTORS]), len(rotations[SHORT_FACTORS])} != {plain[1] // 2}:
            keys.refuse("rope.dimension_count", f"{plain[1]}, for which there are not half as many factors")
        config["original_max_position_embeddings"] = trained
        return {
            "rope_type": "longrope",
            "short_factor": list(rotations[SHORT_FACTORS]),
            "long_factor": list(rotations[LONG_FACTORS]),
            "original_max_position_embeddings": trained,
            "factor": config["max_position_embeddings"] / trained,
            "attention_factor": keys.number("rope.scaling.attn_factor", 1.0),
        }
    if LLAMA3_FACTORS in rotations:
        if factor != 1:
            keys.refuse("rope.scaling.factor", f"{factor}, beside the tensor {LLAMA3_FACTORS}")
        return _llama3(rotations[LLAMA3_FACTORS], *plain)
    if factor == 1:
        return {}
    if rule == "linear":
        return {"rope_type": "linear", "factor": factor}
    if rule != "yarn":
        keys.refuse("rope.scaling.type", rule)
    trained_for = {"original_max_position_embeddings": trained}
    return {"rope_type": "yarn", "factor": factor, **trained_for, "beta_fast": fast, "beta_slow": slow}


def _llama3(factors: Sequence[float], theta: float, rotary: int) -> dict[str, Any]:
    """The rule of Llama 3.1 and later that the factors are made by. UnsupportedModel if they are made otherwise."""
    if all(factor == 1 for factor in factors):
        return {}
    rule = {"rope_type": "llama3", "factor": max(factors), **_LLAMA3}
    expected = []
    for pair in range(rotary // 2):
        turns = _LLAMA3["original_max_position_embeddings"] * theta ** (-2 * pair / rotary) / (2 * math.pi)
        smooth = (turns - _LLAMA3["low_freq_factor"]) / (_LLAMA3["high_freq_factor"] - _LLAMA3["low_freq_factor"])
        expected.append(1 / ((1 - min(max(smooth, 0), 1)) / rule["factor"] + min(max(smooth, 0), 1)))
    if len(factors) != len(expected) or any(
        not math.isclose(found, wanted, rel_tol=_CLOSE) for found, wanted in zip(factors, expected, strict=True)
    ):
        raise UnsupportedModel(
            f"the tensor {LLAMA3_FACTORS} scales rotary frequencies by a rule that is not Llama 3's; "
            "publish the original safetensors"
        )
    return rule


def _short(value: object) -> str:
    return repr(value)[:80]
