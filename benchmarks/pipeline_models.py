"""The models that are started in the lab: as published, and as folders that transformers loads, in the lab's bucket."""

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.generation_model import measured_model
from benchmarks.model import published_smollm2
from infra.lab.platform import BUCKET, Lab
from storage_tiers.checkpoint import Checkpoint
from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore
from storage_tiers.publishing.publish import publish


@dataclass(frozen=True)
class Subject:
    """A model to start: as published, and as a folder that transformers loads, in the bucket under `source`."""

    name: str
    checkpoint: Checkpoint
    source: str

    @property
    def size_bytes(self) -> int:
        return sum(unit.size_bytes for unit in self.checkpoint.units)


def subjects(lab: Lab, names: Sequence[str]) -> list[Subject]:
    """The models called so ("smollm2", "twin", "llama"), put straight into the bucket's folder, past the network."""
    bucket = lab.folder / "buckets" / BUCKET
    store = ModelStore(ObjectStore(f"file://{bucket}"))
    made: list[Subject] = []
    for name in names:
        source = bucket / f"sources-{name}"
        with contextlib.redirect_stdout(sys.stderr):  # libraries greet on it, and with --json it is for one line
            _SAVE[name](source)
        made.append(Subject(name, publish(str(source), name, store), source.name))
    return made


def _save_twin(folder: Path) -> None:
    """A fine-tune of it, so to say: of the same shape and behaviour, but none of its units is equal."""
    import torch
    from safetensors.torch import load_file, save_file

    _save_smollm2(folder)
    path = folder / "model.safetensors"
    changed = {name: (tensor.to(torch.float32) * 1.01).to(tensor.dtype) for name, tensor in load_file(path).items()}
    save_file(changed, path, metadata={"format": "pt"})


def _save_smollm2(folder: Path) -> None:
    """The published model as transformers would have it, in bfloat16."""
    measured_model("bf16").save(folder)
    _save_tokenizer(folder)


def _save_llama(folder: Path) -> None:
    """A random llama of half a gigabyte with untied embeddings; the tokenizer is SmolLM2's."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        hidden_size=768, num_hidden_layers=24, intermediate_size=2048, num_attention_heads=12, num_key_value_heads=4,
        vocab_size=49152, tie_word_embeddings=False, max_position_embeddings=2048,
    )  # fmt: skip
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    _save_tokenizer(folder)


def _save_tokenizer(folder: Path) -> None:
    store_url, checkpoint = published_smollm2()
    store = ModelStore(ObjectStore(store_url))
    for file in checkpoint.files:
        if file.name != "config.json":
            (folder / file.name).write_bytes(store.read_file(checkpoint.name, file))


_SAVE = {"smollm2": _save_smollm2, "twin": _save_twin, "llama": _save_llama}
