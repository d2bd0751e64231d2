"""Models of transformers written as GGUF files, the way llama.cpp's converter writes them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from tests.tiny_gguf import add_key

_ARCHITECTURES = {"qwen3_moe": "qwen3moe", "gemma3_text": "gemma3"}
"""What llama.cpp calls families otherwise."""


def write_gguf(
    file: Path, architecture: str, metadata: Mapping[str, Any], tensors: Mapping[str, np.ndarray[Any, Any]]
) -> Path:
    """Write a file with just these keys, each in the type that its value has, and these tensors as float32."""
    from gguf import GGUFWriter

    writer = GGUFWriter(file, architecture)
    for key, value in metadata.items():
        add_key(writer, key, value)
    for name, values in tensors.items():
        writer.add_tensor(name, np.ascontiguousarray(values, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def export_gguf(model: Any, file: Path, metadata: Mapping[str, Any], **tensors: Sequence[float]) -> Path:
    """Write `model` to `file`. `metadata` are further keys, those of its architecture without its name, None for one that is
    left out; `tensors` further tensors, without .weight."""
    config = model.config
    architecture = _ARCHITECTURES.get(config.model_type, config.model_type)
    values = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "vocab_size": config.vocab_size,
    } | metadata
    named = {
        key if key.startswith(("tokenizer.", "general.")) else f"{architecture}.{key}": value
        for key, value in values.items()
        if value is not None
    }
    extra = {f"{name}.weight": np.array(numbers) for name, numbers in tensors.items()}
    return write_gguf(file, architecture, named, _tensors(model, architecture) | extra)


def _tensors(model: Any, architecture: str) -> dict[str, np.ndarray[Any, Any]]:
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

    processor: Any = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config=model.config.to_dict())
    weights, found = model.state_dict(), {}
    whole_model = SimpleNamespace(config=model.config, state_dict=lambda: weights, named_children=tuple)
    for name, theirs in get_gguf_hf_weights_map(whole_model, processor).items():
        if name == "output.weight" and model.config.tie_word_embeddings:
            continue
        values = weights[theirs].float()
        if architecture == "llama" and ("attn_q" in name or "attn_k" in name):
            heads = model.config.num_attention_heads if "attn_q" in name else model.config.num_key_value_heads
            values = values.reshape(heads, 2, -1, values.shape[-1]).swapaxes(1, 2).reshape(values.shape)
        if architecture.startswith("gemma") and "norm" in name:
            values = values + 1
        if "_exps" in name and "gate_up" in theirs:
            values = values.chunk(2, dim=1)[0 if "gate" in name else 1]
        stored_as = name if name.endswith((".weight", ".bias")) else f"{name}.weight"
        found[stored_as] = values.numpy()
    return found


def logits(model: Any, tokens: Sequence[int]) -> torch.Tensor:
    """What a model makes of a text in one piece."""
    with torch.no_grad():
        found: torch.Tensor = model.eval()(torch.tensor([list(tokens)])).logits[0]
    return found
