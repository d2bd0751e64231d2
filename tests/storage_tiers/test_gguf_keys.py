"""What a GGUF file says of its model is what is published, with logits as the judge, or it is refused by name."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from storage_tiers.checkpoint import Checkpoint
from storage_tiers.errors import SourceError, UnsupportedModel
from storage_tiers.model_store import ModelStore
from storage_tiers.publishing.publish import publish
from tests.gguf_export import export_gguf, logits
from tests.published import tensors_by_store
from tests.tiny import make_tiny
from tests.tiny_gguf import make_tiny_gguf

_TOKENS = [(i * 37 + 11) % 256 for i in range(48)]
_SHORT = [1.0 + i / 16 for i in range(8)]
_LONG = [2.0 + i / 4 for i in range(8)]


def _llama3_factors(theta: float, head: int, factor: float) -> list[float]:
    """Those that llama.cpp's converter writes for a Llama 3.1."""
    found = []
    for frequency in (theta ** (-i / head) for i in range(0, head, 2)):
        wave = 2 * math.pi / frequency
        smooth = (8192 / wave - 1.0) / (4.0 - 1.0)
        found.append(
            1.0 if wave < 8192 / 4 else factor if wave > 8192 else 1 / ((1 - smooth) / factor + smooth)
        )  # fmt: skip
    return found


_LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192, "rope_theta": 500000.0,
}  # fmt: skip
_YARN = {
    "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 10000.0,
}  # fmt: skip
_LONGROPE = {
    "rope_type": "longrope", "short_factor": _SHORT, "long_factor": _LONG, "original_max_position_embeddings": 32,
    "attention_factor": 1.25, "rope_theta": 10000.0,
}  # fmt: skip
_YARN_KEYS = {
    "rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 64,
    "rope.scaling.finetuned": True,
}  # fmt: skip
_LINEAR = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}


@pytest.mark.parametrize(
    ("family", "options", "metadata", "tensors"),
    [
        pytest.param("llama", {}, {"rope.dimension_count": 16, "rope.freq_base": 10000.0}, {}, id="llama"),
        pytest.param("llama", {"tied": True}, {}, {}, id="llama that says nothing of its rope"),
        pytest.param(
            "llama", {"head_dim": 32}, {"attention.key_length": 32, "attention.value_length": 32}, {}, id="llama, wide heads"
        ),
        pytest.param(
            "llama", {"rope_parameters": _LINEAR}, {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}, {},
            id="llama linear",
        ),
        pytest.param("llama", {"rope_parameters": _LINEAR}, {"rope.scaling.factor": 4.0}, {}, id="llama of no type"),
        pytest.param("llama", {"rope_parameters": _LINEAR}, {"rope.scale_linear": 4.0}, {}, id="llama of old"),
        pytest.param("llama", {}, {"rope.scaling.type": "none", "rope.scaling.factor": 4.0}, {}, id="llama not scaled"),
        pytest.param("llama", {"rope_parameters": _YARN}, _YARN_KEYS, {}, id="llama yarn"),
        pytest.param(
            "llama", {"head_dim": 64, "rope_parameters": _LLAMA3, "max_position_embeddings": 16384},
            {"attention.key_length": 64, "attention.value_length": 64, "rope.freq_base": 500000.0},
            {"rope_freqs": _llama3_factors(500000.0, 64, 8.0)}, id="llama 3.1",
        ),
        pytest.param("llama", {}, {}, {"rope_freqs": [1.0] * 8}, id="llama with factors that are all one"),
        pytest.param("qwen2", {"rope_parameters": _YARN}, _YARN_KEYS, {}, id="qwen2 yarn"),
        pytest.param("qwen3", {}, {"attention.key_length": 32, "attention.value_length": 32}, {}, id="qwen3"),
        pytest.param(
            "qwen3_moe", {"norm_topk_prob": True},
            {"attention.key_length": 16, "expert_count": 4, "expert_used_count": 2, "expert_feed_forward_length": 48,
             "expert_gating_func": 1},
            {}, id="qwen3moe",
        ),
        pytest.param(
            "gemma2", {"attn_logit_softcapping": 20.0, "final_logit_softcapping": 10.0, "tied": True},
            {"attention.key_length": 16, "attention.sliding_window": 8, "attn_logit_softcapping": 20.0,
             "final_logit_softcapping": 10.0},
            {}, id="gemma2",
        ),
        pytest.param(
            "gemma3_text", {
                "layer_types": None, "tied": True, "rope_parameters": {
                    "full_attention": {**_LINEAR, "rope_theta": 1000000.0},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
                },
            },
            {"attention.key_length": 16, "attention.sliding_window": 8, "rope.freq_base": 1000000.0,
             "rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
            {}, id="gemma3",
        ),
        pytest.param(
            "phi3", {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.75}},
            {"rope.dimension_count": 12, "attention.sliding_window": 8}, {}, id="phi3",
        ),
        pytest.param(
            "phi3", {"sliding_window": None, "original_max_position_embeddings": 32, "rope_parameters": _LONGROPE},
            {"rope.scaling.original_context_length": 32, "rope.scaling.attn_factor": 1.25, "attention.sliding_window": 0},
            {"rope_factors_long": _LONG, "rope_factors_short": _SHORT}, id="phi3 long",
        ),
    ],
)  # fmt: skip
def test_a_model_is_the_same_after_the_way_through_gguf(
    family: str,
    options: dict[str, Any],
    metadata: dict[str, Any],
    tensors: dict[str, Sequence[float]],
    tmp_path: Path,
    store: ModelStore,
) -> None:
    """transformers passes over most keys without a word: scaled rotations, windows and caps became wrong numbers."""
    folder = make_tiny(family, tmp_path / "source", **options)
    source = AutoModelForCausalLM.from_pretrained(folder)
    file = export_gguf(source, tmp_path / "model.gguf", metadata, **tensors)
    checkpoint = publish(str(file), "model", store, dtype="float32")
    torch.testing.assert_close(logits(_loaded(store, checkpoint), _TOKENS), logits(source, _TOKENS))


def _loaded(store: ModelStore, checkpoint: Checkpoint) -> Any:
    """The published model as transformers computes it."""
    config = CONFIG_MAPPING[checkpoint.config["model_type"]].from_dict(dict(checkpoint.config))
    model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(tensors_by_store(store, checkpoint), strict=not checkpoint.tied_embeddings)
    model.tie_weights()
    return model


@pytest.mark.parametrize("layers", [46, 62])
def test_the_largest_gemmas_scale_attention_by_another_number(layers: int, tmp_path: Path, store: ModelStore) -> None:
    """GGUF does not say so; llama.cpp knows them by the count of their layers."""
    family = {46: "gemma2", 62: "gemma3_text"}[layers]
    folder = make_tiny(family, tmp_path / "source", tied=True, num_hidden_layers=layers, layer_types=None, head_dim=32)
    source = AutoModelForCausalLM.from_pretrained(folder)
    metadata = {"attention.key_length": 32, "attention.sliding_window": 8}
    checkpoint = publish(str(export_gguf(source, tmp_path / "model.gguf", metadata)), "model", store)
    assert checkpoint.config["query_pre_attn_scalar"] == 64 // 4


@pytest.mark.parametrize(
    ("architecture", "key", "value"),
    [
        ("llama", "rope.scaling.type", "nonsense"),
        ("llama", "rope.scaling.yarn_log_multiplier", 0.1),
        ("llama", "rope.scaling.attn_factor", 1.5),
        ("llama", "rope.dimension_sections", [2, 2, 4, 0]),
        ("llama", "rope.freq_base_swa", 20000.0),
        ("llama", "attention.sliding_window", 8),
        ("llama", "attention.value_length", 8),
        ("llama", "attention.causal", False),
        ("llama", "attention.clamp_kqv", 8.0),
        ("llama", "attention.scale", 0.5),
        ("llama", "logit_scale", 0.5),
        ("llama", "expert_count", 8),
        ("llama", "vocab_size", 300),
        ("llama", "something_new", 1),
        ("qwen2", "rope.dimension_count", 8),
        ("qwen2", "final_logit_softcapping", 30.0),
        ("gemma3", "rope.scaling.type", "yarn"),
    ],
)
def test_a_key_that_cannot_be_carried_over_is_refused_by_its_name(
    architecture: str, key: str, value: object, tmp_path: Path, store: ModelStore
) -> None:
    """Whatever nobody reads may change the numbers: it is refused, also when it is newer than this code."""
    family = {"gemma3": "gemma3_text"}.get(architecture, architecture)
    options = {"layer_types": None} if architecture == "gemma3" else {}
    source = AutoModelForCausalLM.from_pretrained(make_tiny(family, tmp_path / "source", **options))
    usual = {"attention.sliding_window": 8, "attention.key_length": 16} if architecture == "gemma3" else {}
    scaled = {"rope.scaling.factor": 4.0} if key == "rope.scaling.type" else {}
    file = export_gguf(source, tmp_path / "model.gguf", usual | scaled | {key: value})
    with pytest.raises(UnsupportedModel, match=f"{architecture}.{key}.*cannot be carried over.*original safetensors"):
        publish(str(file), "model", store)
    assert store.list() == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rope.scaling.attn_factor", 1.0), ("attention.causal", True), ("expert_count", 0), ("logit_scale", 0.0),
        ("tensor_data_layout", "Meta AI original pth"), ("attention.sliding_window", 0), ("rope.scaling.factor", 0.0),
        ("use_parallel_residual", False), ("nextn_predict_layers", 0), ("rope.freq_base_swa", 10000.0),
    ],
)  # fmt: skip
def test_a_key_that_says_nothing_new_does_not_matter(
    key: str, value: object, tmp_path: Path, store: ModelStore
) -> None:
    source = AutoModelForCausalLM.from_pretrained(make_tiny("llama", tmp_path / "source"))
    plain = publish(str(export_gguf(source, tmp_path / "plain.gguf", {})), "plain", store)
    file = export_gguf(source, tmp_path / "model.gguf", {key: value})
    assert publish(str(file), "model", store).digest == plain.digest


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("block_count", 0), ("attention.head_count", [4, 4]), ("context_length", "512"), ("feed_forward_length", None),
        ("attention.layer_norm_rms_epsilon", float("nan")), ("attention.head_count_kv", True),
        ("rope.freq_base", float("inf")),
    ],
)  # fmt: skip
def test_a_key_that_is_no_number_is_refused_by_its_name(
    key: str, value: object, tmp_path: Path, store: ModelStore
) -> None:
    source = AutoModelForCausalLM.from_pretrained(make_tiny("llama", tmp_path / "source"))
    file = export_gguf(source, tmp_path / "model.gguf", {key: value})
    with pytest.raises(SourceError, match=f"llama.{key} is .* where a number"):
        publish(str(file), "model", store)


@pytest.mark.parametrize(
    ("tensors", "named"),
    [
        ({"rope_freqs": [1.0] * 7 + [3.0]}, "rope_freqs.weight"),
        ({"rope_freqs": [1.0] * 7 + [float("nan")]}, "rope_freqs.weight"),
        ({"rope_factors_long": _LONG}, "rope.scaling.type"),
        ({"rope_factors_long": _LONG, "rope_factors_short": _SHORT[:-1]}, "rope.dimension_count"),
    ],
)
def test_rotations_by_a_rule_of_their_own_are_refused(
    tensors: dict[str, Sequence[float]], named: str, tmp_path: Path, store: ModelStore
) -> None:
    source = AutoModelForCausalLM.from_pretrained(make_tiny("llama", tmp_path / "source"))
    with pytest.raises(UnsupportedModel, match=f"{named}.*original safetensors"):
        publish(str(export_gguf(source, tmp_path / "model.gguf", {}, **tensors)), "model", store)


def test_what_is_no_model_is_refused_by_its_type(tmp_path: Path, store: ModelStore) -> None:
    file = make_tiny_gguf("llama", tmp_path / "model.gguf", metadata={"general.type": "adapter"})
    with pytest.raises(SourceError, match="no model but of type 'adapter'"):
        publish(str(file), "model", store)
