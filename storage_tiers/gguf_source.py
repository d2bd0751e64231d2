"""A GGUF file: quantised weights under llama.cpp's names, dequantised one tensor at a time.

Names, configuration, tokenizer and the undoing of llama.cpp's rearrangements are transformers'; this module only asks
for one tensor at a time where transformers builds the whole model. What transformers would silently get wrong is refused.
"""

import contextlib
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from storage_tiers.checkpoint import TensorSpec
from storage_tiers.errors import SourceError, UnsupportedModel
from storage_tiers.families import Skeleton
from storage_tiers.folders import Folder
from storage_tiers.gguf_header import check_header
from storage_tiers.model_folder import convert_tokenizer
from storage_tiers.remote import ObjectFact
from storage_tiers.sources import Stretch, float_bytes

_CONVERTIBLE = ("llama", "mistral", "qwen2", "qwen3", "qwen3moe", "gemma2", "gemma3", "phi3")
_OWN_ATTENTION_SCALE = {("gemma2", 46), ("gemma3", 62)}


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
        from transformers import AutoConfig

        self._check_metadata()
        try:
            parsed = AutoConfig.from_pretrained(self._file.parent, gguf_file=self._file.name)
        except Exception as error:  # whatever odd metadata makes transformers raise
            raise SourceError(
                f"{self.where}: no configuration can be made of its metadata ({type(error).__name__}: {error})"
            ) from error
        own = {"_name_or_path", "_model_name_or_path", "transformers_version"}
        return {key: value for key, value in parsed.to_dict().items() if key not in own}

    def generation_config(self) -> dict[str, Any]:
        return {}

    def tensor_count(self) -> int:
        return len(self._reader.tensors)

    def tensors(self, skeleton: Skeleton) -> Mapping[str, TensorSpec]:
        from transformers.modeling_gguf_pytorch_utils import (
            TENSOR_PROCESSORS,
            TensorProcessor,
            get_gguf_hf_weights_map,
        )

        make: Any = TENSOR_PROCESSORS.get(self._architecture, TensorProcessor)
        self._processor = make(config=skeleton.module.config.to_dict())
        childless = _Childless(skeleton.module.config, skeleton.module.state_dict())
        self._names = get_gguf_hf_weights_map(childless, self._processor)
        self._stored = {}
        for tensor in self._reader.tensors:
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

    def files(self) -> Mapping[str, bytes]:
        if "tokenizer.ggml.model" not in self._reader.fields:
            return {}
        return convert_tokenizer(self._file.parent, gguf_file=self._file.name)

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

        try:
            check_header(self._file)
            return GGUFReader(self._file)
        except OSError as error:
            raise SourceError(f"cannot read {self.where}: {error}") from error
        except Exception as error:  # a damaged table of contents makes the reader fail in any way
            raise SourceError(
                f"{self.where} is damaged or was cut short; download it again ({type(error).__name__}: {error})"
            ) from error

    @property
    def _architecture(self) -> str:
        return str(self._value("general.architecture"))

    def _value(self, key: str) -> Any:
        field = self._reader.fields.get(key)
        return field.contents() if field is not None else None

    def _check_metadata(self) -> None:
        """Refuse what would be read, but wrongly: transformers does not carry these over."""
        kind = self._architecture
        if kind not in _CONVERTIBLE:
            raise UnsupportedModel(
                f"{self.where}: GGUF files of architecture {kind!r} are not supported; supported are "
                f"{', '.join(_CONVERTIBLE)}. Publish the original safetensors"
            )
        if (self._value("split.count") or 1) > 1:
            raise SourceError(
                f"{self.where} is one of {self._value('split.count')} parts; merge them first (gguf-split)"
            )
        scaling = self._value(f"{kind}.rope.scaling.type")
        if scaling not in (None, "none"):
            raise UnsupportedModel(
                f"{self.where}: scaled rotary embedding ({scaling}) is not carried over from GGUF; "
                "publish the original safetensors"
            )
        layers = self._value(f"{kind}.block_count")
        if type(layers) is int and layers > self.tensor_count():
            raise SourceError(f"{self.where} claims {layers:,} layers and has {self.tensor_count():,} tensors")
        if (kind, layers) in _OWN_ATTENTION_SCALE:
            raise UnsupportedModel(
                f"{self.where}: GGUF does not hold the attention scale of {kind} 27B; publish the original safetensors"
            )

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
