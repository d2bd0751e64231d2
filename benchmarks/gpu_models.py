"""Models of random weights in the shapes of real ones, made on the device and saved as transformers saves them.

    python -m benchmarks.gpu_models DEVICE  <- a list of [a shape's fields, a folder] as JSON on stdin

A process of its own makes them, so that nothing of it stays on the device. Nothing is downloaded.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
_DEADLINE_S = 300.0
_COMMON = {"max_position_embeddings": 8192, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


@dataclass(frozen=True)
class Shape:
    """A configuration by its family; weights are normal with this spread, norms are ones."""

    name: str
    family: str
    dtype: str
    spread: float
    config: Mapping[str, int]

    @property
    def vocabulary(self) -> int:
        """Tokens that it knows."""
        return self.config["vocab_size"]

    @property
    def size_bytes(self) -> int:
        """Of its weights, but for those of norms."""
        c = self.config
        head_dim = c.get("head_dim", c["hidden_size"] // c["num_attention_heads"])
        attention = 2 * c["hidden_size"] * head_dim * (c["num_attention_heads"] + c["num_key_value_heads"])
        layer = attention + 3 * c["hidden_size"] * c["intermediate_size"]
        embedding = c["vocab_size"] * c["hidden_size"] * (1 if c["tie_word_embeddings"] else 2)
        return (c["num_hidden_layers"] * layer + embedding) * (4 if self.dtype == "float32" else 2)


_LLAMA_8B = {
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": False,
}  # fmt: skip
_QWEN3_06B = {
    "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16,
    "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "tie_word_embeddings": True,
}  # fmt: skip
_TINY = {
    "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8,
    "num_key_value_heads": 4, "vocab_size": 1024, "tie_word_embeddings": False,
}  # fmt: skip
SIZES = {
    "full": (
        Shape("llama-8b", "llama", "bfloat16", 0.02, _LLAMA_8B),
        Shape("qwen3-0.6b", "qwen3", "bfloat16", 0.02, _QWEN3_06B),
    ),
    "tiny": (
        Shape("llama-tiny", "llama", "bfloat16", 0.2, _TINY),
        Shape("qwen3-tiny", "qwen3", "bfloat16", 0.2, {**_TINY, "head_dim": 32, "tie_word_embeddings": True}),
    ),
}
"""A large model and a small one."""
EXACT = Shape("llama-exact", "llama", "float32", 0.2, _TINY)
"""In float32 nothing is near a tie: what is greedy is the same however sums are rounded."""


def make(device: str, wanted: Sequence[tuple[Shape, Path]]) -> None:
    """Save each in its folder. CalledProcessError if one cannot be made."""
    told = json.dumps([[asdict(shape), str(folder)] for shape, folder in wanted])
    command = [sys.executable, "-m", "benchmarks.gpu_models", device]
    subprocess.run(command, input=told, text=True, check=True, cwd=_ROOT, stdout=sys.stderr, timeout=_DEADLINE_S)


def _save(shape: Shape, folder: str, device: str) -> None:
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    config = CONFIG_MAPPING[shape.family](**_COMMON, **shape.config)
    torch.manual_seed(7)
    with torch.device(device), no_init_weights():
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, shape.dtype))
    model.tie_weights()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0) if "norm" in name else parameter.normal_(0.0, shape.spread)
    model.save_pretrained(folder, max_shard_size="4GB")


def main() -> None:
    for fields, folder in json.load(sys.stdin):
        _save(Shape(**fields), folder, sys.argv[1])


if __name__ == "__main__":
    main()
