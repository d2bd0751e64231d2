"""The model that is measured, as each side wants it: published for us, a Hugging Face folder for the peers."""

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save_file

from benchmarks.loading_ours import model_store, tensors_in
from benchmarks.model import published_smollm2
from storage_tiers.checkpoint import Checkpoint
from storage_tiers.tokenizers import open_tokenizer

DTYPES = {"bf16": "bfloat16", "fp32": "float32"}
_TEXT = Path(__file__).resolve().parent.parent / "LICENSE"


@dataclass(frozen=True)
class MeasuredModel:
    """A model in one dtype, and a long text in its tokens to take prompts from."""

    store_url: str
    checkpoint: Checkpoint
    text: tuple[int, ...]

    @property
    def dtype(self) -> str:
        """As torch calls it."""
        return self.checkpoint.dtype

    @property
    def hidden_size(self) -> int:
        return int(self.checkpoint.config["hidden_size"])

    def save(self, folder: Path) -> None:
        """The same weights, bit for bit, as transformers reads them."""
        store = model_store(self.store_url, {})
        tensors = {}
        for unit in self.checkpoint.units:
            data = bytearray(unit.size_bytes)
            store.read_unit_into(self.checkpoint.name, unit, 0, memoryview(data))
            tensors |= tensors_in(unit, data)
        folder.mkdir(parents=True)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        config = {**self.checkpoint.config, "dtype": self.dtype}
        (folder / "config.json").write_text(json.dumps(config))


def measured_model(name: str) -> MeasuredModel:
    """SmolLM2-135M-Instruct, `name` being a key of DTYPES; published once and kept."""
    store_url, checkpoint = published_smollm2(DTYPES[name])
    store = model_store(store_url, {})
    files = {file.name: store.read_file(checkpoint.name, file) for file in checkpoint.files}
    tokens = open_tokenizer(files, checkpoint.config)(_TEXT.read_text())["input_ids"]
    return MeasuredModel(store_url, checkpoint, tuple(tokens))
