"""The models whose answers are moved: SmolLM2-135M-Instruct, and one so small that a step is all handling."""

import contextlib
import sys
import tempfile
from pathlib import Path

from benchmarks.model import published_smollm2
from storage_tiers.checkpoint import Checkpoint
from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore
from storage_tiers.publishing.publish import publish

TINY = "moves-tiny"
PROMPT = [5, 6, 7, 8]
"""Of every model, in its tokens."""


def published() -> tuple[str, dict[str, Checkpoint]]:
    """URL of a store in the home that has them, and their checkpoints by what the benchmark calls them."""
    url, smollm2 = published_smollm2()
    return url, {"smollm2": smollm2, "tiny": publish_tiny(url)}


def publish_tiny(store_url: str, name: str = TINY) -> Checkpoint:
    """A random llama in float32, which two replicas compute alike whatever runs beside; it never ends by itself."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        _save_tiny(Path(folder))
        return publish(folder, name, ModelStore(ObjectStore(store_url)))


def _save_tiny(folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        vocab_size=256, hidden_size=64, intermediate_size=96, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=8192, initializer_range=0.3, eos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(7)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
