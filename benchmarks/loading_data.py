"""Checkpoints to load: llamas of random bfloat16 numbers, the same ones at every call, in every form that is measured.

    <folder>/<size>/source/model.safetensors      what peers read, and what is published
    <folder>/<size>/model.pt                      the same tensors, by torch.save
    <folder>/<size>/ssd/                          an ssd tier that holds every unit
    <folder>/buckets/models/llama-<size>/         published; an S3 server on `buckets` has it in the bucket `models`

All of it can be made again, so nothing here is worth keeping.
"""

import json
import os
import shutil
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from benchmarks.loading_ours import fill_ssd, model_store
from benchmarks.touch import Fingerprint
from storage_tiers.checkpoint import FORMAT, Checkpoint
from storage_tiers.publishing.publish import publish

BUCKET = "models"
FORMS = 4
SPARE_BYTES = 1 << 30
_HEAD_DIM = 64
_PIECE_BYTES = 16 << 20
_BELOW_2 = 0xBFFF_BFFF_BFFF_BFFF
"""Of four bfloat16 numbers all bits but the one that makes them great, or no numbers."""


class NoRoom(Exception):
    """The disk cannot hold what is to be measured."""


@dataclass(frozen=True)
class Llama:
    """What decides a llama's shapes."""

    hidden: int
    intermediate: int
    layers: int
    kv_heads: int
    vocabulary: int

    def config(self) -> dict[str, object]:
        """Its Hugging Face configuration."""
        return {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "bfloat16",
            "hidden_size": self.hidden, "intermediate_size": self.intermediate, "num_hidden_layers": self.layers,
            "num_attention_heads": self.hidden // _HEAD_DIM, "num_key_value_heads": self.kv_heads,
            "head_dim": _HEAD_DIM, "vocab_size": self.vocabulary, "tie_word_embeddings": False,
            "rms_norm_eps": 1e-5, "max_position_embeddings": 2048, "hidden_act": "silu",
            "bos_token_id": 1, "eos_token_id": 2,
        }  # fmt: skip

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of its tensors, by name, in load order."""
        wide, kv = self.hidden, self.kv_heads * _HEAD_DIM
        found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocabulary, wide)}
        for layer in range(self.layers):
            below = f"model.layers.{layer}"
            found |= {
                f"{below}.input_layernorm.weight": (wide,),
                f"{below}.self_attn.q_proj.weight": (wide, wide),
                f"{below}.self_attn.k_proj.weight": (kv, wide),
                f"{below}.self_attn.v_proj.weight": (kv, wide),
                f"{below}.self_attn.o_proj.weight": (wide, wide),
                f"{below}.post_attention_layernorm.weight": (wide,),
                f"{below}.mlp.gate_proj.weight": (self.intermediate, wide),
                f"{below}.mlp.up_proj.weight": (self.intermediate, wide),
                f"{below}.mlp.down_proj.weight": (wide, self.intermediate),
            }
        return found | {"model.norm.weight": (wide,), "lm_head.weight": (self.vocabulary, wide)}

    @property
    def size_bytes(self) -> int:
        return sum(2 * int(np.prod(shape)) for shape in self.shapes().values())


SIZES: Mapping[str, Llama] = {
    "100mb": Llama(hidden=512, intermediate=1536, layers=12, kv_heads=4, vocabulary=12_000),
    "1gb": Llama(hidden=1536, intermediate=4096, layers=16, kv_heads=8, vocabulary=32_000),
    "3gb": Llama(hidden=2048, intermediate=8192, layers=22, kv_heads=8, vocabulary=40_960),
}


@dataclass(frozen=True)
class Sample:
    """One checkpoint in all its forms. `fingerprint` is what its tensors' bytes must come to."""

    size: str
    folder: Path
    size_bytes: int
    fingerprint: int

    @property
    def model(self) -> str:
        return f"llama-{self.size}"

    @property
    def safetensors(self) -> Path:
        return self.folder / self.size / "source" / "model.safetensors"

    @property
    def torch_file(self) -> Path:
        return self.folder / self.size / "model.pt"

    @property
    def ssd_dir(self) -> Path:
        return self.folder / self.size / "ssd"

    @property
    def buckets(self) -> Path:
        return self.folder / "buckets"

    @property
    def store_url(self) -> str:
        return (self.buckets / BUCKET).as_uri()

    @cached_property
    def checkpoint(self) -> Checkpoint:
        return model_store(self.store_url, {}).open(self.model)

    @property
    def ssd_files(self) -> list[Path]:
        return [self.ssd_dir / unit.digest for unit in self.checkpoint.units]

    @property
    def objects(self) -> list[Path]:
        return [self.buckets / BUCKET / self.model / unit.key for unit in self.checkpoint.units]


class Samples:
    """Makes checkpoints below `folder` when they are first asked for; NoRoom if the disk cannot hold one."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self._folder, self._say = folder, say
        self._made: dict[str, Sample] = {}

    def get(self, size: str) -> Sample:
        """The checkpoint of that size, whole in all forms."""
        if size not in self._made:
            self._made[size] = self._find(size) or self._make(size)
        return self._made[size]

    def remove(self) -> None:
        """Give the disk back."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _find(self, size: str) -> Sample | None:
        try:
            kept = json.loads(self._mark(size).read_text())
        except FileNotFoundError:
            return None
        if kept != self._mark_of(size, kept["fingerprint"]):
            return None
        return Sample(size, self._folder, SIZES[size].size_bytes, kept["fingerprint"])

    def _make(self, size: str) -> Sample:
        llama = SIZES[size]
        self._folder.mkdir(parents=True, exist_ok=True)
        needed, free = FORMS * llama.size_bytes + SPARE_BYTES, shutil.disk_usage(self._folder).free
        if free < needed:
            raise NoRoom(f"{needed / 1e9:.1f} GB are needed in {self._folder}, {free / 1e9:.1f} GB are free")
        self._say(f"making a checkpoint of {llama.size_bytes / 1e9:.2f} GB in {FORMS} forms in {self._folder}")
        shutil.rmtree(self._folder / size, ignore_errors=True)
        sample = Sample(size, self._folder, llama.size_bytes, 0)
        sample.safetensors.parent.mkdir(parents=True)
        (sample.safetensors.parent / "config.json").write_text(json.dumps(llama.config()))
        _write_safetensors(sample.safetensors, llama)
        tensors = load_file(sample.safetensors)
        fingerprint = Fingerprint()
        for name, tensor in tensors.items():
            fingerprint.add(name, tensor)
        with open(sample.torch_file, "wb") as file:
            torch.save(tensors, file)
        publish(str(sample.safetensors.parent), sample.model, model_store(sample.store_url, {}))
        fill_ssd(sample.store_url, sample.model, sample.ssd_dir)
        self._mark(size).write_text(json.dumps(self._mark_of(size, fingerprint.value)))
        return Sample(size, self._folder, llama.size_bytes, fingerprint.value)

    def _mark_of(self, size: str, fingerprint: int) -> dict[str, object]:
        return {"format": FORMAT, "llama": asdict(SIZES[size]), "fingerprint": fingerprint}

    def _mark(self, size: str) -> Path:
        """The file that says that all forms are whole; written last."""
        return self._folder / size / "sample.json"


def _write_safetensors(path: Path, llama: Llama) -> None:
    header, end = {}, 0
    for name, shape in llama.shapes().items():
        begin, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb", buffering=0) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for piece in _random_numbers(end):
            file.write(piece)
        os.fsync(file.fileno())


def _random_numbers(size_bytes: int) -> Iterator[memoryview]:
    """The same bytes each time, in pieces: as bfloat16 random, but below 2, for damaged weights are not published."""
    chance = np.random.SFC64(1)
    for start in range(0, size_bytes, _PIECE_BYTES):
        wanted = min(_PIECE_BYTES, size_bytes - start)
        yield (chance.random_raw(-(-wanted // 8)) & _BELOW_2).data.cast("B")[:wanted]
