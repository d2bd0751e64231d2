"""The models of the run that is replayed: SmolLM2 and random ones, put into the lab's bucket."""

import contextlib
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.pipeline_models import subjects
from infra.lab.platform import BUCKET, Lab
from storage_tiers.checkpoint import Checkpoint
from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore
from storage_tiers.publishing.publish import publish


@dataclass(frozen=True)
class Shape:
    """Of a random llama in bfloat16; its cold starts have up to `degree` stages."""

    degree: int
    hidden: int = 0
    layers: int = 0


_MEDIUM, _SMALL = (512, 12), (384, 8)
SHAPES = {
    "smollm2": Shape(4),
    **{f"medium-{index}": Shape((4, 2, 4, 1)[index % 4], *_MEDIUM) for index in range(8)},
    **{f"small-{index}": Shape((1, 2, 4)[index % 3], *_SMALL) for index in range(5)},
}
"""By name, the most popular first. The one without a width is the published SmolLM2."""
VOCABULARY = 4096
CONTEXT_TOKENS = 2048


def publish_all(lab: Lab) -> dict[str, Checkpoint]:
    """By name, past the network."""
    store = ModelStore(ObjectStore(f"file://{lab.folder / 'buckets' / BUCKET}"))
    named = {subject.name: subject.checkpoint for subject in subjects(lab, ["smollm2"])}
    for seed, (name, shape) in enumerate(SHAPES.items()):
        if shape.hidden:
            named[name] = publish_random(store, name, shape, seed)
    return {name: named[name] for name in SHAPES}


def publish_random(store: ModelStore, name: str, shape: Shape, seed: int) -> Checkpoint:
    """A llama of that shape whose weights are by chance."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        _save(Path(folder), shape, seed)
        return publish(folder, name, store)


def _save(folder: Path, shape: Shape, seed: int) -> None:
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=shape.hidden, intermediate_size=3 * shape.hidden,
        num_hidden_layers=shape.layers, num_attention_heads=8, num_key_value_heads=4,
        max_position_embeddings=CONTEXT_TOKENS, tie_word_embeddings=False, eos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(seed)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
