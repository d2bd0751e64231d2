"""A GGUF file: quantised weights under llama.cpp's names, dequantised one tensor at a time.

Names and the undoing of llama.cpp's rearrangements are transformers'; this module only asks for one tensor at a time where
transformers builds the whole model. What the metadata says is read by gguf_keys and gguf_tokens.
"""

import contextlib
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from storage_tiers.checkpoint import TensorSpec
from storage_tiers.errors import SourceError, UnsupportedModel
from storage_tiers.object_store import ObjectFact
from storage_tiers.pooling import Pooling
from storage_tiers.publishing.families import Skeleton
from storage_tiers.publishing.sources.folders import Folder
from storage_tiers.publishing.sources.gguf_header import check_header
from storage_tiers.publishing.sources.gguf_keys import ROTATIONS, config_of
from storage_tiers.publishing.sources.gguf_tokens import GgufTokens
from storage_tiers.publishing.sources.pointers import check_pointer_file
from storage_tiers.publishing.sources.pooling import gguf_pooling
from storage_tiers.publishing.sources.source import Stretch
from storage_tiers.publishing.sources.tensor_bytes import float_bytes
from storage_tiers.tokenizers import plain_tokenizer, settled

_EMBEDDING = "token_embd.weight"
_CONFIGURED = {"bos": "bos", "eos": "eos", "pad": "padding"}


class GgufSource:
    """Maps the file; pages come and go as tensors are read, and one dequantised tensor is held at a time.

    A file that is elsewhere is copied to this machine's temporary folder until the source is closed.
    """

    default_dtype = "bfloat16"
    workers_at_most = 1

    def __init__(self, folder: Folder, file: str) -> None:
        self._folder, self._name = folder, file
        self._copies = contextlib.ExitStack()
        self._stored: dict[str, list[Any]] = {}
        self._names: dict[str, str] = {}
        self._processor: Any = None

    @property
    def where(self) -> str:
        return f"{self._folder.where}/{self._name}"

    def parts(self) -> Mapping[str, ObjectFact]:
        facts = self._folder.files()
        if self._name not in facts:
            raise SourceError(f"{self.where} is not there")
        return {self._name: facts[self._name]}

    def config(self) -> dict[str, Any]:
        from transformers import CONFIG_MAPPING

        with self._named():
            values = self._configuration()
        try:
            parsed = CONFIG_MAPPING[values["model_type"]](**values)
        except Exception as error:  # whatever odd metadata makes transformers raise
            raise SourceError(
                f"{self.where}: no configuration can be made of its metadata ({type(error).__name__}: {error})"
            ) from error
        own = {"_name_or_path", "transformers_version"}
        return {key: value for key, value in parsed.to_dict().items() if key not in own}

    def generation_config(self) -> dict[str, Any]:
        with self._named():
            return self._tokens.generation_config()

    def pooling(self, config: Mapping[str, Any]) -> Pooling | None:
        return gguf_pooling(self._metadata.get(f"{self._metadata.get('general.architecture')}.pooling_type"))

    def tensor_count(self) -> int:
        return len(self._reader.tensors)

    def tensors(self, skeleton: Skeleton) -> Mapping[str, TensorSpec]:
        from transformers.modeling_gguf_pytorch_utils import (
            TENSOR_PROCESSORS,
            TensorProcessor,
            get_gguf_hf_weights_map,
        )

        make: Any = TENSOR_PROCESSORS.get(str(self._metadata["general.architecture"]), TensorProcessor)
        self._processor = make(config=skeleton.module.config.to_dict())
        childless = _Childless(skeleton.module.config, skeleton.module.state_dict())
        self._names = get_gguf_hf_weights_map(childless, self._processor)
        self._stored = {}
        for tensor in self._reader.tensors:
            if tensor.name in ROTATIONS:
                continue
            name = self._names.get(tensor.name) or self._names.get(tensor.name.removesuffix(".weight"), tensor.name)
            self._stored.setdefault(name, []).append(tensor)
        self._check_types()
        return {name: TensorSpec(name, "float32", _shape(group)) for name, group in self._stored.items()}

    def read(self, name: str, dtype: str) -> Iterator[memoryview]:
        import numpy
        import torch
        from gguf import dequantize

        joined: dict[str, Any] = {}
        for tensor in self._stored[name]:
            done = self._processor.process(
                weights=dequantize(tensor.data, tensor.tensor_type),
                name=tensor.name,
                tensor_key_mapping=self._names,
                parsed_parameters={"tensors": joined},
            )
            if done.name is not None:
                joined[name] = torch.from_numpy(numpy.copy(done.weights))
        yield from float_bytes(name, joined[name], dtype)

    def files(self, config: Mapping[str, Any]) -> Mapping[str, bytes]:
        if not self._tokens.present:
            return {}
        with self._named():
            files = self._tokens.files(self._file)
        return settled([files], config, plain_tokenizer(files), self.where)

    def stretches(self, name: str) -> tuple[Stretch, ...]:
        raise SourceError(f"{self.where} is quantised, so that it cannot be served in place; publish a copy")

    def close(self) -> None:
        """Remove the copy, if there is one."""
        self._copies.close()

    @functools.cached_property
    def _file(self) -> Path:
        return self._copies.enter_context(self._folder.local([self._name])) / self._name

    @functools.cached_property
    def _reader(self) -> Any:
        from gguf import GGUFReader

        check_pointer_file(self._folder, self._name)
        try:
            check_header(self._file)
            return GGUFReader(self._file)
        except OSError as error:
            raise SourceError(f"cannot read {self.where}: {error}") from error
        except Exception as error:  # a damaged table of contents makes the reader fail in any way
            raise SourceError(
                f"{self.where} is damaged or was cut short; download it again ({type(error).__name__}: {error})"
            ) from error

    @functools.cached_property
    def _metadata(self) -> Mapping[str, Any]:
        try:
            return {key: field.contents() for key, field in self._reader.fields.items()}
        except (ValueError, IndexError) as error:
            raise SourceError(
                f"{self.where} is damaged ({type(error).__name__}: {error}); download it again"
            ) from error

    @functools.cached_property
    def _tokens(self) -> GgufTokens:
        return GgufTokens(self._metadata)

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """What is wrong with the metadata is told with the file's name, as is what keeps it from being read."""
        _ = self._metadata
        try:
            yield
        except SourceError as error:
            raise type(error)(f"{self.where}: {error}") from error

    def _configuration(self) -> dict[str, Any]:
        """What the metadata says, all of it."""
        from gguf import dequantize

        if (parts := self._metadata.get("split.count")) not in (None, 0, 1):
            raise SourceError(f"it is one of {parts} parts; merge them first (gguf-split)")
        if (kind := self._metadata.get("general.type", "model")) != "model":
            raise SourceError(f"it is no model but of type {kind!r}; publish the model that it belongs to")
        layers = self._metadata.get(f"{self._metadata.get('general.architecture')}.block_count")
        if type(layers) is int and layers > self.tensor_count():
            raise SourceError(f"it claims {layers:,} layers and has {self.tensor_count():,} tensors")
        tensors = {tensor.name: tensor for tensor in self._reader.tensors}
        if _EMBEDDING not in tensors:
            raise SourceError(f"it has no {_EMBEDDING}")
        found = {name: tensors[name] for name in ROTATIONS if name in tensors}
        rotations = {name: dequantize(found[name].data, found[name].tensor_type).ravel().tolist() for name in found}
        config = config_of(
            self._metadata, rotations, int(tensors[_EMBEDDING].shape[-1]), tied="output.weight" not in tensors
        )
        return config | {f"{name}_token_id": self._tokens.token(theirs) for name, theirs in _CONFIGURED.items()}

    def _check_types(self) -> None:
        """Try a row of every tensor type, so that an unknown one is found before anything is written."""
        from gguf import dequantize

        first = {tensor.tensor_type: tensor for group in self._stored.values() for tensor in group}
        for kind, tensor in first.items():
            try:
                dequantize(tensor.data[:1] if tensor.data.ndim > 1 else tensor.data, kind)
            except NotImplementedError as error:
                raise UnsupportedModel(
                    f"{self.where}: {tensor.name} has type {kind.name}, which cannot be dequantised; "
                    "publish the file in another quantisation"
                ) from error


class _Childless:
    """A module as the name mapping sees it, without children: it would build its table anew for every one of them."""

    def __init__(self, config: Any, state: Mapping[str, Any]) -> None:
        self.config = config
        self._state = state

    def state_dict(self) -> Mapping[str, Any]:
        return self._state

    def named_children(self) -> tuple[()]:
        return ()


def _shape(group: list[Any]) -> tuple[int, ...]:
    """Shape of what `group` becomes: one tensor, or gate and up of the experts side by side."""
    first = tuple(int(size) for size in reversed(group[0].shape))
    if len(group) == 1:
        return first
    return (first[0], sum(int(list(reversed(tensor.shape))[1]) for tensor in group), *first[2:])
