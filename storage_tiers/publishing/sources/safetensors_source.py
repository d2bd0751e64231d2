"""A Hugging Face folder: config.json, one safetensors file or several with an index, tokenizer files."""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

from storage_tiers.bounded_json import parse_json
from storage_tiers.checkpoint import TensorSpec
from storage_tiers.errors import SourceError, UnsupportedModel
from storage_tiers.object_store import ObjectFact
from storage_tiers.pooling import Pooling
from storage_tiers.publishing.families import Skeleton, is_recomputed
from storage_tiers.publishing.sources.assemble import StoredTensor, assemble
from storage_tiers.publishing.sources.folders import Folder
from storage_tiers.publishing.sources.model_folder import ModelFolder
from storage_tiers.publishing.sources.pointers import check_pointer_file
from storage_tiers.publishing.sources.source import Stretch
from storage_tiers.publishing.sources.tensor_bytes import float_bytes

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "I8": "int8", "U8": "uint8", "I16": "int16", "I32": "int32", "I64": "int64", "BOOL": "bool",
}  # fmt: skip
_HEADER_LIMIT_BYTES = 32 << 20
_MOST_RANK, _MOST_SIZE = 8, 1 << 50


class SafetensorsSource:
    """Reads ranges of the files and holds one piece at a time; nothing is mapped, loaded or copied whole."""

    default_dtype = None
    workers_at_most = None

    def __init__(self, folder: Folder, named: str | None = None) -> None:
        self._folder = folder
        self._model = ModelFolder(folder, SINGLE, INDEX, named)
        self._stored: dict[str, tuple[StoredTensor, ...]] = {}

    @property
    def where(self) -> str:
        return self._folder.where

    def parts(self) -> Mapping[str, ObjectFact]:
        return self._model.parts()

    def config(self) -> dict[str, Any]:
        return self._model.config()

    def generation_config(self) -> dict[str, Any]:
        return self._model.generation_config()

    def pooling(self, config: Mapping[str, Any]) -> Pooling | None:
        return self._model.pooling(config)

    def tensor_count(self) -> int:
        return len(self._headers)

    def tensors(self, skeleton: Skeleton) -> Mapping[str, TensorSpec]:
        stored = self._headers
        self._model.check_index({name: tensor.file for name, tensor in stored.items()})
        wanted = {name: tensor for name, tensor in stored.items() if not is_recomputed(name)}
        specs, self._stored = assemble(skeleton, wanted)
        return specs

    def read(self, name: str, dtype: str) -> Iterator[memoryview]:
        for tensor in self._stored[name]:
            yield from self._read_tensor(tensor, dtype)

    def stretches(self, name: str) -> tuple[Stretch, ...]:
        return tuple(
            Stretch(self._folder.url(tensor.file), tensor.offset_bytes, tensor.spec.size_bytes)
            for tensor in self._stored[name]
            if tensor.spec.size_bytes
        )

    def files(self, config: Mapping[str, Any]) -> Mapping[str, bytes]:
        return self._model.tokenizer(config)

    def close(self) -> None:
        """Nothing is open."""

    @functools.cached_property
    def _headers(self) -> Mapping[str, StoredTensor]:
        stored: dict[str, StoredTensor] = {}
        for file in self._model.weight_files():
            for name, tensor in read_header(self._folder, file).items():
                if name in stored:
                    raise SourceError(f"tensor {name} is both in {stored[name].file} and in {file}")
                stored[name] = tensor
        return stored

    def _read_tensor(self, tensor: StoredTensor, dtype: str) -> Iterator[memoryview]:
        import torch

        own = tensor.spec.dtype
        step = self._folder.piece_bytes
        buffer = memoryview(bytearray(min(step, tensor.spec.size_bytes)))
        for start in range(0, tensor.spec.size_bytes, step):
            piece = buffer[: min(step, tensor.spec.size_bytes - start)]
            self._folder.read_into(tensor.file, tensor.offset_bytes + start, piece)
            if own == dtype:
                yield piece
            else:
                yield from float_bytes(tensor.spec.name, torch.frombuffer(piece, dtype=getattr(torch, own)), dtype)


def read_header(folder: Folder, file: str) -> dict[str, StoredTensor]:
    """The tensors of one safetensors file. SourceError if it is cut short or damaged."""
    broken = f"{folder.where}/{file} is damaged or was cut short; download it again"
    facts = folder.files()
    if file not in facts:
        raise SourceError(f"cannot read {folder.where}/{file}: it is not there")
    total = facts[file].size_bytes
    length = int.from_bytes(_range(folder, file, 0, 8), "little") if total >= 8 else total
    if length > min(total - 8, _HEADER_LIMIT_BYTES):
        check_pointer_file(folder, file)
        raise SourceError(f"{broken} (header)")
    try:
        header = parse_json(_range(folder, file, 8, length))
        found = {
            name: _stored_tensor(name, entry, file, 8 + length)
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SourceError(f"{broken} ({error})") from error
    end = 8 + length
    for tensor in sorted(found.values(), key=lambda t: (t.offset_bytes, t.spec.size_bytes)):
        if tensor.offset_bytes != end:
            raise SourceError(f"{broken} (tensor {tensor.spec.name} is not where it should be)")
        end += tensor.spec.size_bytes
    if end != total:
        raise SourceError(f"{broken} ({total} bytes, expected {end})")
    return found


def _range(folder: Folder, file: str, offset_bytes: int, size_bytes: int) -> bytes:
    buffer = bytearray(size_bytes)
    folder.read_into(file, offset_bytes, memoryview(buffer))
    return bytes(buffer)


def _stored_tensor(name: str, entry: Mapping[str, Any], file: str, data_start: int) -> StoredTensor:
    if entry["dtype"] not in _DTYPES:
        raise UnsupportedModel(f"tensor {name} in {file} has type {entry['dtype']}, which is not supported")
    shape, (begin, end) = entry["shape"], entry["data_offsets"]
    numbers = (*shape, begin, end) if isinstance(shape, list) and len(shape) <= _MOST_RANK else (None,)
    if not all(type(n) is int and 0 <= n <= _MOST_SIZE for n in numbers):
        raise ValueError(f"tensor {name} has neither a shape nor a place")
    spec = TensorSpec(name, _DTYPES[entry["dtype"]], tuple(shape))
    if end - begin != spec.size_bytes:
        raise ValueError(f"tensor {name} has {end - begin} bytes, its shape needs {spec.size_bytes}")
    return StoredTensor(spec, file, data_start + begin)
