"""Tiny random GGUF files under llama.cpp's names; transformers' own loader says what they mean."""

from pathlib import Path
from typing import Any

import numpy as np

_HIDDEN, _INNER, _LAYERS, _HEADS, _KV_HEADS, _HEAD_DIM, _VOCABULARY, _EXPERTS = 64, 96, 2, 4, 2, 16, 256, 4
_EXPERT_INNER = 768  # what transformers assumes, whatever the metadata says


def make_tiny_gguf(
    architecture: str,
    file: Path,
    *,
    quantisation: str = "Q8_0",
    tied: bool = False,
    metadata: dict[str, Any] | None = None,
    leave_out: str = "",
    extra: str = "",
    vocabulary: int = _VOCABULARY,
) -> Path:
    """Write a random model to `file` and return it. Matrices are stored as `quantisation`, vectors as float32."""
    from gguf import GGMLQuantizationType, GGUFWriter, quantize

    writer = GGUFWriter(file, architecture)
    writer.add_block_count(_LAYERS)
    writer.add_context_length(512)
    writer.add_embedding_length(_HIDDEN)
    writer.add_feed_forward_length(_INNER)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(vocabulary)
    writer.add_rope_dimension_count(_HEAD_DIM)
    writer.add_key_length(_HEAD_DIM)
    if "tokenizer.ggml.tokens" not in (metadata or {}):
        writer.add_eos_token_id(2)
    if architecture == "qwen3moe":
        writer.add_expert_count(_EXPERTS)
        writer.add_expert_used_count(2)
    for key, value in (metadata or {}).items():
        add_key(writer, key, value)
    random, kind = np.random.default_rng(0), GGMLQuantizationType[quantisation]
    shapes = _shapes(architecture, tied, vocabulary) | ({extra: (_HIDDEN, _HIDDEN)} if extra else {})
    for name, shape in shapes.items():
        if name == leave_out:
            continue
        values = random.standard_normal(shape).astype(np.float32)
        if len(shape) == 1 or kind == GGMLQuantizationType.F32:
            writer.add_tensor(name, values)
        else:
            writer.add_tensor(name, quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def add_key(writer: Any, key: str, value: object) -> None:
    """Write a key in the type that its value has."""
    kinds = {list: writer.add_array, bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32}
    kinds.get(type(value), writer.add_string)(key, value)


def _shapes(architecture: str, tied: bool, vocabulary: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (vocabulary, _HIDDEN), "output_norm.weight": (_HIDDEN,)}
    if not tied:
        shapes["output.weight"] = (vocabulary, _HIDDEN)
    for layer in range(_LAYERS):
        own = {
            "attn_norm.weight": (_HIDDEN,),
            "ffn_norm.weight": (_HIDDEN,),
            "attn_q.weight": (_HEADS * _HEAD_DIM, _HIDDEN),
            "attn_k.weight": (_KV_HEADS * _HEAD_DIM, _HIDDEN),
            "attn_v.weight": (_KV_HEADS * _HEAD_DIM, _HIDDEN),
            "attn_output.weight": (_HIDDEN, _HEADS * _HEAD_DIM),
            **_feed_forward(architecture),
        }
        if architecture == "qwen2":
            own |= {"attn_q.bias": (64,), "attn_k.bias": (32,), "attn_v.bias": (32,)}
        if architecture in ("qwen3", "qwen3moe"):
            own |= {"attn_q_norm.weight": (_HEAD_DIM,), "attn_k_norm.weight": (_HEAD_DIM,)}
        if architecture == "gemma2":
            own |= {"post_attention_norm.weight": (_HIDDEN,), "post_ffw_norm.weight": (_HIDDEN,)}
        if architecture == "phi3":
            for name in ("attn_q.weight", "attn_k.weight", "attn_v.weight", "ffn_gate.weight"):
                del own[name]
            own |= {
                "attn_qkv.weight": ((_HEADS + 2 * _KV_HEADS) * _HEAD_DIM, _HIDDEN), "ffn_up.weight": (2 * _INNER, _HIDDEN),
            }  # fmt: skip
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in own.items()}
    return shapes


def _feed_forward(architecture: str) -> dict[str, tuple[int, ...]]:
    if architecture == "qwen3moe":
        return {
            "ffn_gate_inp.weight": (_EXPERTS, _HIDDEN),
            "ffn_gate_exps.weight": (_EXPERTS, _EXPERT_INNER, _HIDDEN),
            "ffn_up_exps.weight": (_EXPERTS, _EXPERT_INNER, _HIDDEN),
            "ffn_down_exps.weight": (_EXPERTS, _HIDDEN, _EXPERT_INNER),
        }
    return {
        "ffn_gate.weight": (_INNER, _HIDDEN),
        "ffn_up.weight": (_INNER, _HIDDEN),
        "ffn_down.weight": (_HIDDEN, _INNER),
    }
