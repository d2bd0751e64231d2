"""The strict reading of what a store says of a model. Whoever can write to a store can write anything there: here it becomes
a checkpoint that is safe to compute with, or Corrupt.

Types are what JSON says they are, every number is bounded, every name is plain, and every path and place is the one that
publishing would have chosen. Whether the objects are as long as is claimed here: storage_tiers.presence; whether their bytes
are right is told by their digests as they come in.
"""

import base64
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, FailFast, Field, StringConstraints, ValidationError

from storage_tiers.bounded_json import parse_json
from storage_tiers.checkpoint import (
    ALIGN_BYTES,
    DIGEST,
    DTYPE_BYTES,
    FORMAT,
    PLAIN_NAME,
    Blocks,
    Checkpoint,
    Extent,
    TensorEntry,
    TensorSpec,
    UnitIndex,
    UnitLayout,
    lay_out,
    model_digest,
    unit_names,
)
from storage_tiers.errors import Corrupt, SourceError
from storage_tiers.model_configs import MOST_LAYERS, check_sizes, check_stops, check_supported
from storage_tiers.pooling import Mode, Pooling

ROOT_LIMIT_BYTES = 16 << 20
"""A model of a terabyte in a thousand layers has a root of a tenth of this."""
FILES_LIMIT_BYTES = 256 << 20
"""Of all files that travel with a model; tokenizers have tens of MB."""
MOST_FILES = 64
MOST_FOLDERS = 16
"""That a model is in place in: each is opened, and listed, by whoever reads the model."""
_MOST_SIZE, _MOST_RANK, _MOST_TENSORS = 1 << 50, 8, 1 << 16
_SAID = 400

_Name = Annotated[str, StringConstraints(pattern=f"^{PLAIN_NAME}$")]
_Digest = Annotated[str, StringConstraints(pattern=f"^{DIGEST}$")]
_Size = Annotated[int, Field(ge=0, le=_MOST_SIZE)]
_Crc = Annotated[int, Field(ge=0, lt=1 << 32)]
_Path = Annotated[str, Field(max_length=400)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class _Tensor(_Strict):
    name: _Name
    dtype: str
    shape: Annotated[list[_Size], FailFast(), Field(max_length=_MOST_RANK)]
    offset: _Size
    nbytes: _Size


class _Blocks(_Strict):
    block_bytes: _Size
    crc32c: str


class _Unit(_Strict):
    unit: _Name
    digest: _Digest
    payload: _Size
    tensors: Annotated[list[_Tensor], FailFast(), Field(max_length=_MOST_TENSORS)]
    chunk_crc32c: Annotated[list[_Crc], FailFast()]
    blocks: _Blocks | None = None


class _Codec(_Strict):
    name: Literal["bytes"]


class _Shard(_Strict):
    chunk_shape: Annotated[list[_Size], Field(min_length=1, max_length=1)]
    codecs: Annotated[list[_Codec], Field(min_length=1, max_length=1)]
    index_location: Literal["end"]


class _Sharding(_Strict):
    name: Literal["sharding_indexed"]
    configuration: _Shard


class _Extent(_Strict):
    url: str
    offset: _Size
    nbytes: _Size
    at: _Size


class _Extents(_Strict):
    extents: Annotated[list[_Extent], FailFast()]


class _Array(_Strict):
    node_type: Literal["array"]
    data_type: Literal["uint8"]
    shape: Annotated[list[_Size], Field(min_length=1, max_length=1)]
    codecs: Annotated[list[_Sharding], Field(min_length=1, max_length=1)]
    attributes: _Unit
    firsttoken_extents: _Extents | None = None


class _Pooling(_Strict):
    mode: Mode | None
    normalized: bool
    max_tokens: Annotated[int, Field(ge=1, le=_MOST_SIZE)] | None
    fault: Annotated[str, Field(max_length=_SAID)]
    without_output: bool


class _Model(_Strict):
    name: str
    version: Annotated[str, StringConstraints(pattern=r"^_[0-9a-f]{1,64}$")]
    digest: _Digest
    config: dict[str, Any]
    generation_config: dict[str, Any]
    dtype: Literal["float64", "float32", "bfloat16", "float16"]
    tied_embeddings: bool
    units: Annotated[list[_Path], FailFast(), Field(max_length=MOST_LAYERS + 2)]
    files: Annotated[list[_Path], FailFast(), Field(max_length=MOST_FILES)]
    pooling: _Pooling | None = None


class _Nodes(_Strict):
    metadata: dict[str, Any]


class _Root(_Strict):
    attributes: _Model
    consolidated_metadata: _Nodes


def parse_root(text: bytes, where: str, name: str) -> Checkpoint:
    """The checkpoint that the root ``zarr.json`` of the model `name` describes.

    Corrupt if it is not one, of another format, or of a model that calls itself otherwise; it says `where` that stands.
    """
    try:
        root = parse_json(text)
        _check_format(root, where)
        checkpoint = _checkpoint(_Root.model_validate(root))
    except ValidationError as error:
        raise Corrupt(f"{where} is not a model's root metadata ({_first(error)})") from error
    except SourceError as error:
        raise Corrupt(f"the model that {where} describes cannot be served: {str(error)[:_SAID]}") from error
    except ValueError as error:
        raise Corrupt(f"{where} is not a model's root metadata ({str(error)[:_SAID]})") from error
    if checkpoint.name != name:
        raise Corrupt(
            f"the folder of {where} holds a model that calls itself {checkpoint.name[:200]!r}: publish it under this name"
        )
    return checkpoint


def parse_array(path: str, node: object) -> UnitIndex:
    """The unit that an array's metadata at `path` describes; ValueError if it describes none."""
    try:
        array = _Array.model_validate(node)
    except ValidationError as error:
        raise ValueError(f"array {path[:200]}: {_first(error)}") from error
    attributes = array.attributes
    tensors = tuple(TensorEntry(t.name, t.dtype, tuple(t.shape), t.offset, t.nbytes) for t in attributes.tensors)
    unknown = [tensor.dtype for tensor in tensors if tensor.dtype not in DTYPE_BYTES]
    if unknown:
        raise ValueError(f"array {path} has a tensor of type {unknown[0][:40]!r}")
    layout = lay_out([TensorSpec(tensor.name, tensor.dtype, tensor.shape) for tensor in tensors])
    found = (tensors, attributes.payload, array.codecs[0].configuration.chunk_shape[0], array.shape[0])
    if found != (layout.tensors, layout.payload_bytes, layout.chunk_bytes, layout.stored_bytes):
        raise ValueError(f"array {path} is not laid out as its tensors are in format {FORMAT}")
    extents = array.firsttoken_extents.extents if array.firsttoken_extents is not None else []
    return UnitIndex(
        attributes.unit,
        path,
        attributes.digest,
        layout,
        tuple(attributes.chunk_crc32c),
        tuple(Extent(e.url, e.offset, e.nbytes, e.at) for e in extents),
        _parse_blocks(path, attributes.blocks, layout) if attributes.blocks is not None else None,
    )


def _check_format(root: object, where: str) -> None:
    """Told first: another format may have everything else, too."""
    attributes = root.get("attributes") if isinstance(root, dict) else None
    if not isinstance(attributes, dict) or "format" not in attributes:
        raise ValueError("it has no format")
    if attributes["format"] != FORMAT:
        said = str(attributes["format"])[:80]
        raise Corrupt(f"{where} has format {said!r}; this version reads {FORMAT!r}: publish it again")


def _checkpoint(root: _Root) -> Checkpoint:
    """ValueError or SourceError for what the types alone do not tell."""
    model, nodes = root.attributes, root.consolidated_metadata.metadata
    _check_config(model)
    units = tuple(_parse_at(path, nodes) for path in model.units)
    files = tuple(_parse_at(path, nodes) for path in model.files)
    expected = [f"{model.version}/{name}" for name in unit_names(max(0, len(units) - 2))]
    if model.units != expected:
        raise ValueError("its units are not an embedding, layers and a head of its version, in this order")
    _check_weights(units, model.dtype)
    _check_files(files, model.version)
    digest = model_digest(model.config, model.dtype, units, files)
    if digest != model.digest:
        raise ValueError(f"its digest is {digest}, not {model.digest}: the root metadata was changed")
    return Checkpoint(
        model.name, model.version, digest, model.config, model.generation_config, model.dtype, model.tied_embeddings,
        units, files, Pooling(**model.pooling.model_dump()) if model.pooling is not None else None,
    )  # fmt: skip


def _check_config(model: _Model) -> None:
    check_supported(model.config)
    check_sizes(model.config, {len(model.units) - 2})
    check_stops(model.generation_config)


def _parse_at(path: str, nodes: dict[str, Any]) -> UnitIndex:
    if path not in nodes:
        raise ValueError(f"there is no array {path[:200]}")
    return parse_array(path, nodes[path])


def _check_weights(units: tuple[UnitIndex, ...], dtype: str) -> None:
    tensors = [tensor for unit in units for tensor in unit.layout.tensors]
    if len({tensor.name for tensor in tensors}) != len(tensors):
        raise ValueError("a tensor is there twice")
    if any(tensor.dtype != dtype for tensor in tensors):
        raise ValueError(f"a tensor is not of the model's type, {dtype}")
    folders = {extent.url.rpartition("/")[0] for unit in units for extent in unit.extents}
    if len(folders) > MOST_FOLDERS:
        raise ValueError(f"it is in place in {len(folders):,} folders, {MOST_FOLDERS} at most")


def _check_files(files: tuple[UnitIndex, ...], version: str) -> None:
    if len({file.name for file in files}) != len(files):
        raise ValueError("a file is there twice")
    for file in files:
        kinds = [(tensor.name, tensor.dtype, len(tensor.shape)) for tensor in file.layout.tensors]
        if file.path != f"{version}/files/{file.name}" or kinds != [(file.name, "uint8", 1)] or file.extents:
            raise ValueError(f"{file.path} is not a file that travels with the model")
    if sum(file.size_bytes for file in files) > FILES_LIMIT_BYTES:
        raise ValueError(f"its files are larger than {FILES_LIMIT_BYTES >> 20} MiB")


def _parse_blocks(path: str, found: _Blocks, layout: UnitLayout) -> Blocks:
    blocks = Blocks(found.block_bytes, base64.b64decode(found.crc32c, validate=True))
    if blocks.block_bytes <= 0 or blocks.block_bytes % ALIGN_BYTES:
        raise ValueError(f"array {path} has blocks of {blocks.block_bytes} bytes")
    if len(blocks.crc32c) != 4 * -(-layout.stored_bytes // blocks.block_bytes):
        raise ValueError(f"array {path} has {len(blocks.crc32c) // 4} block checksums for {layout.stored_bytes} bytes")
    return blocks


def _first(error: ValidationError) -> str:
    """The first of what is wrong, without the value, which may be anything."""
    fault = error.errors(include_url=False, include_input=False, include_context=False)[0]
    return f"{'.'.join(map(str, fault['loc']))[:200]}: {fault['msg'][:_SAID]}"
