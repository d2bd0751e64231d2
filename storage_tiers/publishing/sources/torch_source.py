"""Weights that torch.save wrote: pytorch_model.bin, or several with an index, in a Hugging Face folder.

Such files are pickles. They are read by torch's restricted unpickler, which builds tensors and runs no code; a file that
asks for more is refused. Tensors stay in the mapped file until they are read.
"""

import threading
from collections.abc import Iterator, Mapping
from pickle import UnpicklingError
from typing import Any

from storage_tiers.checkpoint import TensorSpec
from storage_tiers.errors import SourceError
from storage_tiers.object_store import ObjectFact
from storage_tiers.pooling import Pooling
from storage_tiers.publishing.families import Skeleton, is_recomputed
from storage_tiers.publishing.sources.assemble import StoredTensor, assemble
from storage_tiers.publishing.sources.folders import Folder
from storage_tiers.publishing.sources.model_folder import ModelFolder
from storage_tiers.publishing.sources.pointers import check_pointer_file
from storage_tiers.publishing.sources.source import Stretch
from storage_tiers.publishing.sources.tensor_bytes import float_bytes
from storage_tiers.publishing.sources.torch_archive import check_archive

SINGLE, INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
_OPEN_FILES = 2
_MOST_VIEWS = 4


class TorchSource:
    """Maps a file or two at a time. Those of a remote folder are copied to this machine's temporary folder, one by one,
    and their room is given back as soon as other files are read."""

    default_dtype = None

    def __init__(self, folder: Folder, named: str | None = None) -> None:
        self._folder = folder
        self._model = ModelFolder(folder, SINGLE, INDEX, named)
        self._stored: dict[str, tuple[StoredTensor, ...]] = {}
        self._open: dict[str, Mapping[str, Any]] = {}
        self._lock = threading.Lock()

    @property
    def where(self) -> str:
        return self._folder.where

    @property
    def workers_at_most(self) -> int | None:
        return None if self._folder.is_local else 1

    def parts(self) -> Mapping[str, ObjectFact]:
        return self._model.parts()

    def config(self) -> dict[str, Any]:
        return self._model.config()

    def generation_config(self) -> dict[str, Any]:
        return self._model.generation_config()

    def pooling(self, config: Mapping[str, Any]) -> Pooling | None:
        return self._model.pooling(config)

    def tensor_count(self) -> int:
        return sum(len(self._tensors_of(file)) for file in self._model.weight_files())

    def tensors(self, skeleton: Skeleton) -> Mapping[str, TensorSpec]:
        stored: dict[str, StoredTensor] = {}
        for file in self._model.weight_files():
            for name, tensor in self._tensors_of(file).items():
                if name in stored:
                    raise SourceError(f"tensor {name} is both in {stored[name].file} and in {file}")
                dtype = str(tensor.dtype).removeprefix("torch.")
                stored[name] = StoredTensor(TensorSpec(name, dtype, tuple(tensor.shape)), file)
        self._model.check_index({name: tensor.file for name, tensor in stored.items()})
        self._check_total(stored)
        wanted = {name: tensor for name, tensor in stored.items() if not is_recomputed(name)}
        specs, self._stored = assemble(skeleton, wanted)
        return specs

    def read(self, name: str, dtype: str) -> Iterator[memoryview]:
        for stored in self._stored[name]:
            tensor = self._tensors_of(stored.file).get(stored.spec.name)
            if tensor is None or tuple(tensor.shape) != stored.spec.shape:
                raise SourceError(f"{self.where}/{stored.file} was changed while it was read")
            yield from float_bytes(stored.spec.name, tensor, dtype)

    def stretches(self, name: str) -> tuple[Stretch, ...]:
        raise SourceError(f"{self.where} holds pickled weights, which cannot be served in place; publish a copy")

    def files(self, config: Mapping[str, Any]) -> Mapping[str, bytes]:
        return self._model.tokenizer(config)

    def close(self) -> None:
        """Let go of the mapped files."""
        self._open.clear()

    def _check_total(self, stored: Mapping[str, StoredTensor]) -> None:
        """Tensors may be views of the same bytes, as tied ones are; a model is not made of many such."""
        facts = self._folder.files()
        held_bytes = sum(facts[file].size_bytes for file in self._model.weight_files())
        total_bytes = sum(tensor.spec.size_bytes for tensor in stored.values())
        if total_bytes > _MOST_VIEWS * held_bytes:
            raise SourceError(f"{self.where} has {total_bytes:,} bytes of tensors in files of {held_bytes:,}")

    def _tensors_of(self, file: str) -> Mapping[str, Any]:
        with self._lock:
            if file not in self._open:
                while len(self._open) >= _OPEN_FILES:
                    del self._open[next(iter(self._open))]
                self._open[file] = self._load(file)
            return self._open[file]

    def _load(self, file: str) -> Mapping[str, Any]:
        """The file's tensors, mapped: its copy, if it is one, is unlinked at once and goes with the last of them."""
        import torch

        shown = f"{self.where}/{file}"
        check_pointer_file(self._folder, file)
        with self._folder.local([file]) as path:
            try:
                check_archive(path / file)
                found = torch.load(path / file, map_location="cpu", weights_only=True, mmap=True)
            except UnpicklingError as error:
                raise SourceError(
                    f"{shown} is refused: unpickling it would run code or make other things than tensors. "
                    f"Convert it to safetensors where you trust it ({_first_line(error)})"
                ) from error
            except Exception as error:  # a damaged archive makes torch raise in any way
                hint = "saved by an old torch? Save it again, or convert it to safetensors"
                raise SourceError(
                    f"cannot read {shown}: damaged, cut short, or {hint} ({_first_line(error)})"
                ) from error
        if not isinstance(found, Mapping) or not all(isinstance(value, torch.Tensor) for value in found.values()):
            raise SourceError(f"{shown} holds other things than tensors by name; it is no state_dict")
        if any(tensor.nbytes > tensor.untyped_storage().nbytes() for tensor in found.values()):
            raise SourceError(f"{shown} has a tensor that is larger than the bytes it is made of")
        return found


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
