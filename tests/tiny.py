"""Tiny random models of every family, saved the way transformers saves them."""

import copy
from pathlib import Path
from typing import Any

SUPPORTED_FAMILIES = (
    "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3", "olmo2", "smollm3",
    "mixtral", "qwen3_moe", "granite", "gpt2", "opt", "gpt_neox", "falcon",
)  # fmt: skip
UNSUPPORTED_FAMILIES = ("bloom", "gpt_bigcode", "gpt_oss")
_WINDOW = 8
_COMMON = {
    "vocab_size": 256, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.3,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
_ALTERNATING = ["sliding_attention", "full_attention"] * 3
_OWN: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": _WINDOW},
    "qwen2": {"num_hidden_layers": 5},
    "qwen3": {"head_dim": 32},
    "gemma": {"head_dim": 16},
    "gemma2": {
        "head_dim": 16, "num_hidden_layers": 6, "sliding_window": _WINDOW, "layer_types": _ALTERNATING,
        "query_pre_attn_scalar": 16,
    },
    "gemma3_text": {
        "head_dim": 16, "num_hidden_layers": 6, "sliding_window": _WINDOW, "layer_types": _ALTERNATING,
        "query_pre_attn_scalar": 16,
    },
    "phi3": {"sliding_window": _WINDOW},
    "smollm3": {"no_rope_layer_interval": 2},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": _WINDOW},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48, "head_dim": 16},
    "granite": {
        "embedding_multiplier": 3.0, "residual_multiplier": 0.7, "attention_multiplier": 0.2, "logits_scaling": 2.0,
    },
    "gpt2": {"num_key_value_heads": None},
    "opt": {"num_key_value_heads": None, "ffn_dim": 96, "init_std": 0.3},
    "gpt_neox": {"num_key_value_heads": None},
    "falcon": {"num_key_value_heads": None, "ffn_hidden_size": 96},
}  # fmt: skip

ROTATION_BORDER = 32
_DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
_LONGROPE = {
    "rope_type": "longrope", "short_factor": [1.0 + i / 30 for i in range(8)], "long_factor": [2.0 + i for i in range(8)],
    "original_max_position_embeddings": ROTATION_BORDER, "rope_theta": 10000.0,
}  # fmt: skip
CHANGING_ROTATIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("llama", {"max_position_embeddings": ROTATION_BORDER, "rope_parameters": _DYNAMIC}),
    ("llama", {"rope_parameters": _LONGROPE}),
    ("phi3", {"original_max_position_embeddings": ROTATION_BORDER, "rope_parameters": _LONGROPE}),
    ("falcon", {"max_position_embeddings": ROTATION_BORDER, "rope_parameters": _DYNAMIC}),
    (
        "gpt_neox",
        {"max_position_embeddings": ROTATION_BORDER, "rope_parameters": {**_DYNAMIC, "partial_rotary_factor": 0.5}},
    ),
    (
        "gemma3_text",
        {
            "max_position_embeddings": ROTATION_BORDER,
            "rope_parameters": {"full_attention": _DYNAMIC, "sliding_attention": {"rope_type": "default"}},
        },
    ),
)
"""Families and options of models whose rotary encodings are others beyond ROTATION_BORDER tokens."""


def _disturb(model: Any, tied: bool) -> None:
    """Norms and biases start as ones and zeros, which hides a mix-up; a tied model would repeat its last token."""
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or "ln_" in name or name.endswith("bias"):
                parameter.add_(torch.randn_like(parameter) * 0.3)
        if tied:
            model.get_input_embeddings().weight.mul_(0.1)


def tiny_config(family: str, **options: Any) -> dict[str, Any]:
    """A configuration as a checkpoint of such a model has it, with what it leaves to transformers left out."""
    return copy.deepcopy({"model_type": family, **_COMMON, **_OWN.get(family, {}), **options})


def make_tiny(
    family: str,
    folder: Path,
    *,
    tied: bool = False,
    seed: int = 0,
    shards: int = 1,
    dtype: str = "float32",
    **overrides: Any,
) -> Path:
    """Save a random model of `family` in `folder` and return the folder. `overrides` go into the configuration.

    Weights are spread widely enough that greedy decoding wanders. `shards` is how many safetensors files at least.
    """
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    values = tiny_config(family, tie_word_embeddings=tied) | overrides
    config = CONFIG_MAPPING[values.pop("model_type")](**values)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
        _disturb(model, tied)
    total = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    model.save_pretrained(folder, max_shard_size=total if shards == 1 else total // shards)
    return folder


def make_overflowing(folder: Path, token: int) -> Path:
    """A model whose weights are numbers, and whose logits are none after any prompt with `token`: its layers' norms sum
    the token's embedding up to infinity."""
    from safetensors.torch import load_file, save_file

    make_tiny("gpt2", folder, seed=3)
    weights = load_file(folder / "model.safetensors")
    weights["transformer.wte.weight"][token] = 3e38
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
