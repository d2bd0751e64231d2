"""Models that stay where they are: units whose bytes are ranges of the source's own files, indexed instead of copied.

Indexing reads every byte once, for the checksums that loads are checked with. The files must stay as they are, behind the
store's own kind of URL, which means the same on every node; a file that was changed is noticed by its checksums and never
becomes weights.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from storage_tiers.checkpoint import Checkpoint, Extent, TensorSpec, UnitIndex, UnitLayout, group_metadata
from storage_tiers.errors import Corrupt, SourceError
from storage_tiers.model_store import ModelStore
from storage_tiers.publishing.sources.source import Source

REFERENCES = "references.json"


def check_in_place(source: Source, tensors: Iterable[TensorSpec], dtype: str) -> None:
    """SourceError if the tensors do not lie in the source as they would be stored in `dtype`."""
    for tensor in tensors:
        source.stretches(tensor.name)
        if tensor.dtype != dtype:
            raise SourceError(
                f"{source.where} cannot be served in place in {dtype}: {tensor.name} is {tensor.dtype} and would have to "
                "be converted; publish a copy (without --in-place)"
            )


def extents_of(source: Source, layout: UnitLayout) -> tuple[Extent, ...]:
    """Where the bytes of a unit lie; a tensor that is joined of several stored ones has as many extents."""
    extents = []
    for tensor in layout.tensors:
        at = tensor.offset_bytes
        for stretch in source.stretches(tensor.name):
            try:
                extents.append(Extent(stretch.url, stretch.offset_bytes, stretch.size_bytes, at))
            except ValueError as error:
                raise SourceError(f"{source.where} cannot be served in place: {error}; publish a copy") from error
            at += stretch.size_bytes
    return tuple(extents)


def check_reached(store: ModelStore, extents: Iterable[Sequence[Extent]]) -> None:
    """SourceError if nodes would not read the files that the extents name, since the store is of another kind."""
    try:
        for url in {extent.url.rpartition("/")[0] for row in extents for extent in row}:
            store.folder(url)
    except Corrupt as error:
        raise SourceError(str(error)) from error


def references(checkpoint: Checkpoint) -> dict[str, Any]:
    """The model's tensors for zarr readers, in kerchunk's form (version 1): an array of bytes each, below its unit's name.

    A tensor that is joined of parts of unequal length has no such array; no supported family has one.
    """
    nodes: dict[str, Any] = {}
    refs: dict[str, Any] = {}
    for unit in checkpoint.units:
        nodes[unit.name] = group_metadata()
        for tensor in unit.layout.tensors:
            chunks = _chunks(unit, tensor.offset_bytes, tensor.size_bytes)
            if len({chunk.size_bytes for chunk in chunks}) == 1:
                path = f"{unit.name}/{tensor.name}"
                attributes = {"dtype": tensor.dtype, "shape": list(tensor.shape)}
                nodes[path] = _array(tensor.size_bytes, chunks[0].size_bytes, attributes)
                refs |= {f"{path}/c/{i}": [c.url, c.offset_bytes, c.size_bytes] for i, c in enumerate(chunks)}
    consolidated = {"kind": "inline", "must_understand": False, "metadata": nodes}
    refs |= {f"{path}/zarr.json": node for path, node in nodes.items()}
    return {"version": 1, "refs": {"zarr.json": {**group_metadata(), "consolidated_metadata": consolidated}, **refs}}


def _chunks(unit: UnitIndex, start: int, size_bytes: int) -> list[Extent]:
    return [extent for extent in unit.extents if start <= extent.at_bytes < start + size_bytes]


def _array(size_bytes: int, chunk_bytes: int, attributes: dict[str, Any]) -> dict[str, Any]:
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [size_bytes],
        "data_type": "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [chunk_bytes]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": [{"name": "bytes"}],
        "attributes": attributes,
        "storage_transformers": [],
    }
