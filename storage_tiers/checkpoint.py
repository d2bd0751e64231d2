"""The checkpoint: one zarr v3 group per model, one sharded 1-D uint8 array per unit.

A unit's array is one shard, hence one object: the tensors' bytes in load order, each aligned to 4 KiB, zero padding up to
a whole number of inner chunks, then the shard's index. Any zarr v3 reader opens it; we read the raw bytes and view them as
tensors in place. The group's metadata is consolidated in the root ``zarr.json``, which is written last: a model whose root
metadata is not there does not exist.

    <model>/zarr.json                          root: config, unit order, digests, consolidated metadata (the commit point)
    <model>/<version>/<unit>/zarr.json, c/0    a unit: "embed", "layer.0000", ..., "head"
    <model>/<version>/files/<file>/...         tokenizer and the like, same layout

Inner chunks carry no codec but ``bytes`` (a checksum codec would break contiguity); their crc32c stand in the attributes.
The embedding has checksums of small blocks beside them, so that a few of its rows can be read and checked alone; a model
that was published without them is read as before.

A unit that is in place has no object of its own: its bytes are ranges of existing files, its *extents*, each with its place
in the same layout as any other unit's, zeros between them. Its array's ``zarr.json`` carries them under the extension field
``firsttoken_extents``, which must be understood: other zarr readers refuse such an array instead of showing zeros. They can
read its tensors through ``<version>/references.json``, one array a tensor, with fsspec's reference file system.

This module holds the values and computes the layout; it does no I/O. What a store says is read by storage_tiers.schema.
A value whose names or places could not be of a checkpoint cannot be made, wherever it comes from (ValueError).
"""

import base64
import json
import math
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import crc32c
from blake3 import blake3

from storage_tiers.errors import StorageError
from storage_tiers.pooling import Pooling

FORMAT = "firsttoken/1"
ROOT = "zarr.json"
EXTENTS = "firsttoken_extents"
ALIGN_BYTES = 4096
CHUNK_TARGET_BYTES = 16 << 20
SMALLEST_BLOCK_BYTES, MOST_BLOCKS = 16 << 10, 1 << 14
EMBED, HEAD = "embed", "head"
_INDEX_ENTRY_BYTES = 16

DTYPE_BYTES: Mapping[str, int] = {
    "float32": 4, "float16": 2, "bfloat16": 2, "float64": 8, "float8_e4m3fn": 1, "float8_e5m2": 1,
    "int8": 1, "uint8": 1, "int16": 2, "int32": 4, "int64": 8, "bool": 1,
}  # fmt: skip
WEIGHT_DTYPES = ("float64", "float32", "bfloat16", "float16")
"""The types that a model's weights may be stored in."""
PLAIN_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}"
"""How units, tensors and files are called: one step of a path at most, and never one that leads elsewhere."""
DIGEST = r"[0-9a-f]{64}"
_UNIT_PATH = re.compile(rf"_[0-9A-Za-z]{{1,64}}(/files)?/({PLAIN_NAME})")
_DIGEST = re.compile(DIGEST)
_URL = re.compile(r"(?:file:///|(?!file:)[a-z][a-z0-9]*://)[^\x00-\x1f\x7f\\?#]{1,4096}")
_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")


def is_model_name(name: str) -> bool:
    """Whether a model may be called so; versions, which begin with ``_``, and metadata may not."""
    return len(name) <= 200 and _MODEL_NAME.fullmatch(name) is not None and ROOT not in name.split("/")


def check_model_name(name: str) -> str:
    """Return `name`, or raise StorageError: letters, digits, ``._-``, and at most one ``/``."""
    if not is_model_name(name):
        raise StorageError(
            f"model name {name!r} will not do: use letters, digits, '.', '_', '-' and at most one '/', up to 200"
        )
    return name


def is_digest(text: str) -> bool:
    """Whether `text` is written as digests are, hence can be a file's name."""
    return _DIGEST.fullmatch(text) is not None


def align(size_bytes: int) -> int:
    """`size_bytes` rounded up to the alignment of direct I/O."""
    return -(-size_bytes // ALIGN_BYTES) * ALIGN_BYTES


def layer_unit(index: int) -> str:
    """Name of the unit that holds decoder layer `index`."""
    return f"layer.{index:04d}"


@dataclass(frozen=True)
class TensorSpec:
    """A tensor before it has a place: full Hugging Face name, torch's dtype name (of DTYPE_BYTES), shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]


@dataclass(frozen=True)
class TensorEntry:
    """A tensor's place in its unit: `offset_bytes` from the unit's start, a multiple of 4 KiB."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset_bytes: int
    size_bytes: int


@dataclass(frozen=True)
class UnitLayout:
    """Where the bytes of a unit lie, known before they are read."""

    tensors: tuple[TensorEntry, ...]
    payload_bytes: int
    chunk_bytes: int
    chunks: int

    def __post_init__(self) -> None:
        if self.chunk_bytes <= 0 or self.chunks != -(-self.payload_bytes // self.chunk_bytes) or self.chunks <= 0:
            raise ValueError(f"{self.chunks} chunks of {self.chunk_bytes} bytes cannot hold {self.payload_bytes} bytes")
        if any(t.offset_bytes < 0 or t.offset_bytes + t.size_bytes > self.payload_bytes for t in self.tensors):
            raise ValueError("a tensor does not fit its unit")

    @property
    def stored_bytes(self) -> int:
        """Length of the data area: payload and zero padding, without the shard's index."""
        return self.chunk_bytes * self.chunks

    @property
    def object_bytes(self) -> int:
        """Length of the object that holds it: data area and shard index."""
        return self.stored_bytes + _INDEX_ENTRY_BYTES * self.chunks + 4


@dataclass(frozen=True)
class Extent:
    """Bytes of a unit that lie in a file elsewhere: `size_bytes` from `offset_bytes` of `url`, at `at_bytes` of the unit."""

    url: str
    offset_bytes: int
    size_bytes: int
    at_bytes: int

    def __post_init__(self) -> None:
        steps = self.url.partition("://")[2].split("/")
        if not _URL.fullmatch(self.url) or "::" in self.url or not {".", ".."}.isdisjoint(steps) or not steps[-1]:
            raise ValueError(f"{self.url[:200]!r} is not the plain URL of a file")
        if self.offset_bytes < 0 or self.size_bytes <= 0 or self.at_bytes < 0:
            raise ValueError(f"an extent of {self.url} has no place: {self}")


@dataclass(frozen=True)
class Blocks:
    """Checksums of a unit's data area, one for every `block_bytes` from its start; the last block is what is left.

    `crc32c` holds them in a row as little-endian u32.
    """

    block_bytes: int
    crc32c: bytes = field(repr=False)

    def checksum(self, block: int) -> int:
        """The crc32c of block number `block`."""
        return int.from_bytes(self.crc32c[4 * block : 4 * block + 4], "little")


@dataclass(frozen=True)
class UnitIndex:
    """All that is needed to fetch, check and view one unit (or one file, whose single tensor is its bytes).

    `extents` is empty unless the unit is in place; then it is in order of place, and what it leaves out is zero.
    `blocks` are there only where parts of the unit are read alone.
    """

    name: str
    path: str
    digest: str
    layout: UnitLayout
    chunk_crc32c: tuple[int, ...]
    extents: tuple[Extent, ...] = ()
    blocks: Blocks | None = None

    def __post_init__(self) -> None:
        """Names are joined to paths and sizes are trusted, so that whoever has one need not look again."""
        path = _UNIT_PATH.fullmatch(self.path)
        if path is None or path[2] != self.name:
            raise ValueError(f"{self.path[:200]!r} is not the path of a unit called {self.name[:200]!r}")
        if not is_digest(self.digest):
            raise ValueError(f"unit {self.name} has the digest {self.digest[:200]!r}, which is none")
        if self.layout.chunks != len(self.chunk_crc32c):
            raise ValueError(f"unit {self.name} has {len(self.chunk_crc32c)} checksums for {self.layout.chunks} chunks")
        _check_extents(self.name, self.layout, self.extents)

    @property
    def key(self) -> str:
        """The object that holds the bytes, relative to the model's group; there is none for a unit in place."""
        return f"{self.path}/c/0"

    @property
    def size_bytes(self) -> int:
        return self.layout.stored_bytes


@dataclass(frozen=True)
class Checkpoint:
    """A published model, as its root metadata describes it."""

    name: str
    version: str
    digest: str
    config: Mapping[str, Any]
    generation_config: Mapping[str, Any]
    dtype: str
    tied_embeddings: bool
    units: tuple[UnitIndex, ...]
    files: tuple[UnitIndex, ...]
    pooling: Pooling | None = None

    @property
    def layers(self) -> int:
        return len(self.units) - 2

    @property
    def size_bytes(self) -> int:
        return sum(unit.size_bytes for unit in self.units)

    def unit(self, name: str) -> UnitIndex:
        """The unit called `name`; KeyError if the model has none."""
        for unit in self.units:
            if unit.name == name:
                return unit
        raise KeyError(name)


def unit_names(layers: int) -> tuple[str, ...]:
    """The units of a model of so many layers, in the order of use."""
    return (EMBED, *map(layer_unit, range(layers)), HEAD)


def _check_extents(unit: str, layout: UnitLayout, extents: Sequence[Extent]) -> None:
    """ValueError unless the extents, if there are any, are the unit's tensors from first to last."""
    if not extents:
        return
    left = list(reversed(extents))
    for tensor in layout.tensors:
        at, end = tensor.offset_bytes, tensor.offset_bytes + tensor.size_bytes
        while at < end and left:
            extent = left.pop()
            if extent.at_bytes != at:
                raise ValueError(f"unit {unit} has an extent that is not where tensor {tensor.name} is")
            at += extent.size_bytes
        if at != end and tensor.size_bytes:
            raise ValueError(f"unit {unit} has extents that are not as long as tensor {tensor.name}")
    if left:
        raise ValueError(f"unit {unit} has more extents than tensors")


def lay_out(tensors: Sequence[TensorSpec]) -> UnitLayout:
    """Place `tensors` in the given order. The inner chunk is sized per unit, so padding is at most 4 KiB a chunk.

    This is the layout of FORMAT: a unit that lies otherwise is of another format.
    """
    entries, offset = [], 0
    for tensor in tensors:
        entries.append(TensorEntry(tensor.name, tensor.dtype, tensor.shape, offset, tensor.size_bytes))
        offset = align(offset + tensor.size_bytes)
    payload = max(offset, ALIGN_BYTES)
    wanted = -(-payload // CHUNK_TARGET_BYTES)
    chunk = align(-(-payload // wanted))
    return UnitLayout(tuple(entries), payload, chunk, -(-payload // chunk))


def block_bytes_of(unit: str, layout: UnitLayout) -> int | None:
    """How large the blocks are that a unit of this name has checksums of; None if it has none."""
    if unit != EMBED:
        return None
    block_bytes = SMALLEST_BLOCK_BYTES
    while block_bytes * MOST_BLOCKS < layout.stored_bytes:
        block_bytes *= 2
    return block_bytes


def shard_index(layout: UnitLayout) -> bytes:
    """What follows the data area: (offset, nbytes) of every inner chunk as little-endian u64, then their crc32c."""
    table = b"".join(struct.pack("<QQ", i * layout.chunk_bytes, layout.chunk_bytes) for i in range(layout.chunks))
    return table + struct.pack("<I", crc32c.crc32c(table))


def unit_digest(tensors: Sequence[TensorEntry], payload_digest: str) -> str:
    """Identity of a unit: its tensors' names, types, shapes and places, and the blake3 of its payload."""
    index = json.dumps([_tensor_json(t) for t in tensors], sort_keys=True)
    return blake3(f"{index}\n{payload_digest}".encode()).hexdigest()


def model_digest(config: Mapping[str, Any], dtype: str, units: Sequence[UnitIndex], files: Sequence[UnitIndex]) -> str:
    """Identity of a model, derived from its units, files and configuration."""
    parts = [json.dumps(config, sort_keys=True), dtype, *(f"{u.name} {u.digest}" for u in (*units, *files))]
    return blake3("\n".join(parts).encode()).hexdigest()


def _tensor_json(entry: TensorEntry) -> dict[str, Any]:
    return {
        "name": entry.name, "dtype": entry.dtype, "shape": list(entry.shape),
        "offset": entry.offset_bytes, "nbytes": entry.size_bytes,
    }  # fmt: skip


def _extent_json(extent: Extent) -> dict[str, Any]:
    return {
        "url": extent.url, "offset": extent.offset_bytes, "nbytes": extent.size_bytes, "at": extent.at_bytes,
    }  # fmt: skip


def _blocks_json(blocks: Blocks | None) -> dict[str, Any]:
    if blocks is None:
        return {}
    return {"blocks": {"block_bytes": blocks.block_bytes, "crc32c": base64.b64encode(blocks.crc32c).decode()}}


def _pooling_json(pooling: Pooling | None) -> dict[str, Any]:
    return {} if pooling is None else {"pooling": asdict(pooling)}


def array_metadata(unit: UnitIndex) -> dict[str, Any]:
    """The ``zarr.json`` of a unit's array."""
    layout = unit.layout
    extension = {EXTENTS: {"must_understand": True, "extents": [_extent_json(e) for e in unit.extents]}}
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [layout.stored_bytes],
        "data_type": "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [layout.stored_bytes]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": [
            {
                "name": "sharding_indexed",
                "configuration": {
                    "chunk_shape": [layout.chunk_bytes],
                    "codecs": [{"name": "bytes"}],
                    "index_codecs": [
                        {"name": "bytes", "configuration": {"endian": "little"}},
                        {"name": "crc32c"},
                    ],
                    "index_location": "end",
                },
            }
        ],
        "attributes": {
            "unit": unit.name,
            "digest": unit.digest,
            "payload": layout.payload_bytes,
            "tensors": [_tensor_json(t) for t in layout.tensors],
            "chunk_crc32c": list(unit.chunk_crc32c),
            **_blocks_json(unit.blocks),
        },
        "storage_transformers": [],
        **(extension if unit.extents else {}),
    }


def group_metadata() -> dict[str, Any]:
    """The ``zarr.json`` of a plain inner group."""
    return {"zarr_format": 3, "node_type": "group", "attributes": {}}


def root_metadata(checkpoint: Checkpoint) -> dict[str, Any]:
    """The root ``zarr.json``: attributes of the model and the metadata of everything below it."""
    nodes: dict[str, Any] = {checkpoint.version: group_metadata(), f"{checkpoint.version}/files": group_metadata()}
    nodes |= {unit.path: array_metadata(unit) for unit in (*checkpoint.units, *checkpoint.files)}
    return {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": {
            "format": FORMAT,
            "name": checkpoint.name,
            "version": checkpoint.version,
            "digest": checkpoint.digest,
            "config": dict(checkpoint.config),
            "generation_config": dict(checkpoint.generation_config),
            "dtype": checkpoint.dtype,
            "tied_embeddings": checkpoint.tied_embeddings,
            "units": [unit.path for unit in checkpoint.units],
            "files": [file.path for file in checkpoint.files],
            **_pooling_json(checkpoint.pooling),
        },
        "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": nodes},
    }
