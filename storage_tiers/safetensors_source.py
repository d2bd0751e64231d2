"""A Hugging Face folder: config.json, one safetensors file or several with an index, tokenizer files."""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage_tiers.checkpoint import DTYPE_BYTES, TensorSpec
from storage_tiers.errors import SourceError, UnsupportedModel
from storage_tiers.families import Skeleton, is_recomputed
from storage_tiers.sources import READ_BYTES, TOKENIZER_FILES, float_bytes

_INDEX = "model.safetensors.index.json"
_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "I8": "int8", "U8": "uint8", "I16": "int16", "I32": "int32", "I64": "int64", "BOOL": "bool",
}  # fmt: skip
_SLOW_TOKENIZERS = ("tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
_HEADER_LIMIT_BYTES = 100_000_000


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor's bytes lie: `offset_bytes` from the start of `file`."""

    spec: TensorSpec
    file: Path
    offset_bytes: int


class SafetensorsSource:
    """Reads ranges of the files and holds one piece at a time; nothing is mapped or loaded whole."""

    default_dtype = None

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stored: dict[str, tuple[StoredTensor, ...]] = {}

    @property
    def parts(self) -> tuple[Path, ...]:
        beside = ("config.json", "generation_config.json", "merges.txt", "added_tokens.json", _INDEX)
        names = (*beside, *TOKENIZER_FILES, *_SLOW_TOKENIZERS)
        present = [path for name in names if (path := self._folder / name).exists()]
        return tuple(sorted({*present, *self._weight_files()}))

    def config(self) -> dict[str, Any]:
        path = self._folder / "config.json"
        if not path.exists():
            raise SourceError(f"{self._folder} has no config.json")
        config = _read_json(path)
        config.pop("auto_map", None)
        return config

    def generation_config(self) -> dict[str, Any]:
        path = self._folder / "generation_config.json"
        return _read_json(path) if path.exists() else {}

    def tensors(self, skeleton: Skeleton) -> Mapping[str, TensorSpec]:
        stored: dict[str, StoredTensor] = {}
        for file in self._weight_files():
            for name, tensor in read_header(file).items():
                if name in stored:
                    raise SourceError(f"tensor {name} is both in {stored[name].file.name} and in {file.name}")
                stored[name] = tensor
        self._check_index(stored)
        wanted = {name: tensor for name, tensor in stored.items() if not is_recomputed(name)}
        specs, self._stored = _assemble(skeleton, wanted)
        return specs

    def read(self, name: str, dtype: str) -> Iterator[memoryview]:
        for tensor in self._stored[name]:
            yield from _read_tensor(tensor, dtype)

    def files(self) -> Mapping[str, bytes]:
        if not (self._folder / "tokenizer.json").exists() and any(
            (self._folder / name).exists() for name in _SLOW_TOKENIZERS
        ):
            return convert_tokenizer(self._folder)
        return read_files(self._folder)

    def _weight_files(self) -> list[Path]:
        if (self._folder / _INDEX).exists():
            names = set(self._weight_map().values())
        else:
            names = {path.name for path in self._folder.glob("*.safetensors")}
            if "model.safetensors" in names:
                names = {"model.safetensors"}
            if len(names) > 1:
                raise SourceError(
                    f"{self._folder} holds {len(names)} safetensors files but no {_INDEX} that joins them"
                )
        absent = sorted(name for name in names if not (self._folder / name).is_file())
        if absent:
            raise SourceError(f"{_INDEX} names {', '.join(absent[:5])}, which {self._folder} does not hold")
        return [self._folder / name for name in sorted(names)]

    def _weight_map(self) -> dict[str, str]:
        weights = _read_json(self._folder / _INDEX).get("weight_map")
        if not isinstance(weights, dict) or not weights or not all(map(_is_file_name, weights.values())):
            raise SourceError(f"{self._folder / _INDEX} has no weight_map from tensors to files beside it")
        return weights

    def _check_index(self, stored: Mapping[str, StoredTensor]) -> None:
        if not (self._folder / _INDEX).exists():
            return
        for name, file in self._weight_map().items():
            if name not in stored or stored[name].file.name != file:
                raise SourceError(f"{_INDEX} says that {file} holds {name}, but it does not")


def read_header(file: Path) -> dict[str, StoredTensor]:
    """The tensors of one safetensors file. SourceError if it is cut short or damaged."""
    broken = f"{file} is damaged or was cut short; download it again"
    try:
        with open(file, "rb") as opened:
            total = os.fstat(opened.fileno()).st_size
            length = int.from_bytes(opened.read(8), "little")
            if total < 8 or length > min(total - 8, _HEADER_LIMIT_BYTES):
                raise SourceError(f"{broken} (header)")
            header = json.loads(opened.read(length))
        found = {
            name: _stored_tensor(name, entry, file, 8 + length)
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except OSError as error:
        raise SourceError(f"cannot read {file}: {error}") from error
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


def _stored_tensor(name: str, entry: Mapping[str, Any], file: Path, data_start: int) -> StoredTensor:
    if entry["dtype"] not in _DTYPES:
        raise UnsupportedModel(f"tensor {name} in {file.name} has type {entry['dtype']}, which is not supported")
    shape, (begin, end) = entry["shape"], entry["data_offsets"]
    if not isinstance(shape, list) or not all(isinstance(n, int) and n >= 0 for n in (*shape, begin, end)):
        raise ValueError(f"tensor {name} has neither a shape nor a place")
    spec = TensorSpec(name, _DTYPES[entry["dtype"]], tuple(shape))
    if end - begin != spec.size_bytes:
        raise ValueError(f"tensor {name} has {end - begin} bytes, its shape needs {spec.size_bytes}")
    return StoredTensor(spec, file, data_start + begin)


def _read_tensor(tensor: StoredTensor, dtype: str) -> Iterator[memoryview]:
    import torch

    own = tensor.spec.dtype
    left = tensor.spec.size_bytes
    step = READ_BYTES * DTYPE_BYTES[own] // max(DTYPE_BYTES[own], DTYPE_BYTES[dtype])
    try:
        with open(tensor.file, "rb") as file:
            file.seek(tensor.offset_bytes)
            while left:
                piece = bytearray(min(step, left))
                if file.readinto(piece) != len(piece):
                    raise SourceError(f"{tensor.file} ended early while it was read; was it changed?")
                left -= len(piece)
                if own == dtype:
                    yield memoryview(piece)
                else:
                    yield from float_bytes(torch.frombuffer(piece, dtype=getattr(torch, own)), dtype)
    except OSError as error:
        raise SourceError(f"cannot read {tensor.file}: {error}") from error


def _assemble(
    skeleton: Skeleton, stored: Mapping[str, StoredTensor]
) -> tuple[dict[str, TensorSpec], dict[str, tuple[StoredTensor, ...]]]:
    """Stored tensors under the model's names, by transformers' own mapping: experts stored one by one are used as one.

    The bytes of a joined tensor are those of its parts in a row, so nothing is held to join them.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

    transforms = get_model_conversion_mapping(skeleton.module)
    converters = [t for t in transforms if isinstance(t, WeightConverter)]
    renamings = [t for t in transforms if isinstance(t, WeightRenaming)]
    by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    names = skeleton.module.state_dict()
    groups: dict[str, dict[str | None, list[StoredTensor]]] = {}
    for own in sorted(stored, key=dot_natural_key):
        name, pattern = rename_source_key(own, renamings, converters, skeleton.module.base_model_prefix, names)
        groups.setdefault(name, {}).setdefault(pattern, []).append(stored[own])
    specs, parts = {}, {}
    for name, group in groups.items():
        if None in group:
            if len(group) > 1 or len(group[None]) > 1:
                raise SourceError(f"several stored tensors claim to be {name}")
            parts[name], shape = tuple(group[None]), group[None][0].spec.shape
        else:
            converter = by_pattern[next(pattern for pattern in group if pattern is not None)]
            parts[name], shape = _join(
                name, [group.get(p, []) for p in converter.source_patterns], converter.operations
            )
        specs[name] = TensorSpec(name, parts[name][0].spec.dtype, shape)
    return specs, parts


def _join(
    name: str, lists: Sequence[Sequence[StoredTensor]], operations: Sequence[Any]
) -> tuple[tuple[StoredTensor, ...], tuple[int, ...]]:
    """Parts and shape of ``cat([stack(l) for l in lists], dim=1)``."""
    from transformers.core_model_loading import Concatenate, MergeModulelist

    stacks = [op for op in operations if isinstance(op, MergeModulelist) and op.dim == 0]
    joins = [op for op in operations if isinstance(op, Concatenate) and op.dim == 1]
    if len(stacks) != 1 or len(joins) != len(lists) - 1 or len(stacks) + len(joins) != len(operations):
        raise UnsupportedModel(f"{name} is stored in a form that is not supported ({operations})")
    if len({len(stack) for stack in lists}) != 1:
        raise SourceError(
            f"a part of {name} is missing: there are {[len(stack) for stack in lists]} parts of each kind"
        )
    if len({(t.spec.shape[1:], t.spec.dtype) for stack in lists for t in stack}) != 1 or any(
        len({t.spec.shape for t in stack}) != 1 for stack in lists
    ):
        raise SourceError(f"the parts of {name} differ in shape or type")
    first = lists[0][0].spec.shape
    rows = sum(stack[0].spec.shape[0] for stack in lists)
    return tuple(t for expert in zip(*lists, strict=True) for t in expert), (len(lists[0]), rows, *first[1:])


def read_files(folder: Path) -> dict[str, bytes]:
    """The tokenizer files in `folder`, by name."""
    try:
        return {name: path.read_bytes() for name in TOKENIZER_FILES if (path := folder / name).exists()}
    except OSError as error:
        raise SourceError(f"cannot read the tokenizer in {folder}: {error}") from error


def convert_tokenizer(folder: Path, **options: str) -> dict[str, bytes]:
    """The tokenizer that transformers finds in `folder`, saved again as a fast one."""
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory(prefix="tokenizer-") as converted:
        try:
            AutoTokenizer.from_pretrained(folder, trust_remote_code=False, **options).save_pretrained(converted)
        except Exception as error:  # whatever a damaged or unknown tokenizer makes transformers raise
            raise SourceError(
                f"cannot convert the tokenizer in {folder} ({type(error).__name__}: {error}); "
                "save it with transformers' save_pretrained, so that there is a tokenizer.json"
            ) from error
        return read_files(Path(converted))


def _is_file_name(value: object) -> bool:
    return isinstance(value, str) and value not in ("", ".", "..") and "/" not in value and os.sep not in value


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise SourceError(f"cannot read {path}: {error}") from error
    if not isinstance(value, dict):
        raise SourceError(f"cannot read {path}: it is not a JSON object")
    return value
