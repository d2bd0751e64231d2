"""From any source to a checkpoint in the store: streamed, resumable, visible at once or not at all.

The version is named after the source's fingerprint, so a rerun finds the units that an interrupted run has finished and
writes the rest. A unit is finished when its ``zarr.json`` is there, the model when the root ``zarr.json`` is. Versions
that were published before stay in the store: whoever has opened one goes on reading it.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import crc32c
from blake3 import blake3

from storage_tiers.checkpoint import (
    FORMAT,
    ROOT,
    Checkpoint,
    TensorEntry,
    TensorSpec,
    UnitIndex,
    UnitLayout,
    array_metadata,
    check_model_name,
    group_metadata,
    lay_out,
    model_digest,
    parse_array,
    root_metadata,
    shard_index,
    unit_digest,
)
from storage_tiers.errors import Corrupt, Missing, SourceError
from storage_tiers.families import (
    EMBEDDING,
    OUTPUT,
    Skeleton,
    build_skeleton,
    check_supported,
    check_tensors,
    cut_into_units,
    prevailing_dtype,
)
from storage_tiers.remote import ModelStore, ObjectStore
from storage_tiers.sources import Source, open_source

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class PublishProgress:
    """How far a publish is: `unit` is the one being written, or the one just done."""

    unit: str
    units_done: int
    units_total: int
    bytes_done: int
    bytes_total: int


@dataclass(frozen=True)
class _Plan:
    """All that will be written, known and checked before the first byte is."""

    config: Mapping[str, Any]
    generation_config: Mapping[str, Any]
    dtype: str
    tied: bool
    units: Mapping[str, UnitLayout]
    files: Mapping[str, bytes]


def publish(
    source: str,
    name: str,
    store: ModelStore,
    *,
    dtype: str | None = None,
    progress: Callable[[PublishProgress], None] | None = None,
) -> Checkpoint:
    """Publish the model at the local path `source` as `name`, and return its checkpoint.

    `dtype` is what the weights are stored in; by default what they have, or bfloat16 if they are quantised. Does nothing
    if just that is published already. Holds about one tensor in memory. SourceError or UnsupportedModel say why a source
    will not do; then, and whenever else this raises, the store shows what it showed before.
    """
    check_model_name(name)
    if dtype not in (None, *DTYPES):
        raise SourceError(f"cannot publish in {dtype!r}; use one of {', '.join(DTYPES)}")
    opened = open_source(source)
    version = _version(opened, dtype)
    present = _published(store, name)
    if present is not None and present.version == version:
        return present
    plan = _plan(opened, dtype)
    meter = _Meter(plan, progress)
    units = tuple(
        _store_unit(store.objects, name, f"{version}/{unit}", layout, opened, meter)
        for unit, layout in plan.units.items()
    )
    files = tuple(
        _store_file(store.objects, name, f"{version}/files/{file}", data) for file, data in plan.files.items()
    )
    if _version(opened, dtype) != version:
        raise SourceError(f"{source} was changed while it was being published; publish it again")
    digest = model_digest(plan.config, plan.dtype, units, files)
    checkpoint = Checkpoint(
        name, version, digest, plan.config, plan.generation_config, plan.dtype, plan.tied, units, files
    )
    _commit(store.objects, checkpoint)
    return checkpoint


def _version(source: Source, dtype: str | None) -> str:
    """Named after what the source consists of. The underscore keeps versions apart from models' names."""
    try:
        parts = [(path.name, (stat := path.stat()).st_size, stat.st_mtime_ns) for path in source.parts]
    except OSError as error:
        raise SourceError(f"cannot read the source: {error}") from error
    return "_" + blake3(json.dumps([FORMAT, dtype, parts]).encode()).hexdigest(length=8)


def _published(store: ModelStore, name: str) -> Checkpoint | None:
    try:
        return store.open(name)
    except (Missing, Corrupt):
        return None


def _plan(source: Source, dtype: str | None) -> _Plan:
    """Look at everything but the weights' bytes; whatever is wrong with the source is raised here."""
    config = source.config()
    check_supported(config)
    skeleton = build_skeleton(config)
    found = dict(source.tensors(skeleton))
    if skeleton.tied and OUTPUT in found and EMBEDDING in found:
        if _equal(source, found[EMBEDDING], found[OUTPUT]):
            del found[OUTPUT]
        else:  # transformers does the same: what the files hold outweighs what the configuration says
            config["tie_word_embeddings"] = False
            skeleton = build_skeleton(config)
    check_tensors(skeleton, found)
    stored_as = dtype or source.default_dtype or prevailing_dtype(found.values())
    if config.get("dtype", config.get("torch_dtype")) != stored_as:
        config.pop("torch_dtype", None)
        config["dtype"] = stored_as
    config = json.loads(json.dumps(config))  # as it will read back: keys are strings
    specs = {tensor: TensorSpec(tensor, stored_as, spec.shape) for tensor, spec in found.items()}
    return _Plan(
        config=config,
        generation_config=_generation_config(source, skeleton),
        dtype=stored_as,
        tied=skeleton.tied,
        units={unit: lay_out(tensors) for unit, tensors in cut_into_units(skeleton, specs).items()},
        files=source.files(),
    )


def _generation_config(source: Source, skeleton: Skeleton) -> dict[str, Any]:
    given = source.generation_config()
    if given.get("eos_token_id") is None:
        given["eos_token_id"] = skeleton.eos_token_id
    return given


def _equal(source: Source, one: TensorSpec, other: TensorSpec) -> bool:
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    pieces = zip_longest(source.read(one.name, one.dtype), source.read(other.name, other.dtype))
    return all(left == right for left, right in pieces)


def _store_unit(
    objects: ObjectStore, name: str, path: str, layout: UnitLayout, source: Source, meter: "_Meter"
) -> UnitIndex:
    """Write one unit, or find it finished by an earlier run."""
    unit = path.rsplit("/", 1)[-1]
    index = _finished(objects, name, path, layout)
    if index is None:
        with objects.writer(f"{name}/{path}/c/0") as append:
            area = _DataArea(append, layout)
            for entry in layout.tensors:
                for written in area.tensor(entry, source.read(entry.name, entry.dtype)):
                    meter.within(unit, written)
            index = area.finish(unit, path)
        _write_json(objects, f"{name}/{path}/{ROOT}", array_metadata(index))
    meter.done(unit, layout.stored_bytes)
    return index


def _finished(objects: ObjectStore, name: str, path: str, layout: UnitLayout) -> UnitIndex | None:
    """The unit as it lies in the store, if it is whole and laid out as we would."""
    try:
        index = parse_array(path, json.loads(objects.read(f"{name}/{path}/{ROOT}")))
    except (Missing, ValueError, KeyError, TypeError, IndexError):
        return None
    stored = objects.size_bytes(f"{name}/{index.key}")
    whole = index.layout == layout and stored == layout.stored_bytes + len(shard_index(layout))
    return index if whole else None


def _store_file(objects: ObjectStore, name: str, path: str, data: bytes) -> UnitIndex:
    file_name = path.rsplit("/", 1)[-1]
    layout = lay_out([TensorSpec(file_name, "uint8", (len(data),))])
    with objects.writer(f"{name}/{path}/c/0") as append:
        area = _DataArea(append, layout)
        for _ in area.tensor(layout.tensors[0], [memoryview(data)]):
            pass
        index = area.finish(file_name, path)
    _write_json(objects, f"{name}/{path}/{ROOT}", array_metadata(index))
    return index


def _commit(objects: ObjectStore, checkpoint: Checkpoint) -> None:
    """Make the model visible: the root's metadata comes last."""
    base = f"{checkpoint.name}/{checkpoint.version}"
    _write_json(objects, f"{base}/files/{ROOT}", group_metadata())
    _write_json(objects, f"{base}/{ROOT}", group_metadata())
    _write_json(objects, f"{checkpoint.name}/{ROOT}", root_metadata(checkpoint))
    objects.sweep(base)


def _write_json(objects: ObjectStore, key: str, value: Mapping[str, Any]) -> None:
    objects.write(key, json.dumps(value, separators=(",", ":")).encode())


class _DataArea:
    """Writes a unit's data area from front to back, keeping its digest and its chunks' checksums on the way."""

    def __init__(self, append: Callable[[memoryview], None], layout: UnitLayout) -> None:
        self._append_to_object = append
        self._layout = layout
        self._payload = blake3()
        self._checksum = 0
        self._checksums: list[int] = []
        self._position_bytes = 0

    def tensor(self, entry: TensorEntry, pieces: Iterable[memoryview]) -> Iterator[int]:
        """Write a tensor at its place, yielding the position after every piece. SourceError if it is not as long."""
        end = entry.offset_bytes + entry.size_bytes
        self._write(memoryview(bytes(entry.offset_bytes - self._position_bytes)))
        for piece in pieces:
            self._write(piece)
            yield self._position_bytes
        if self._position_bytes != end:
            raise SourceError(f"tensor {entry.name} is not as long as its shape says; was the source changed?")

    def finish(self, unit: str, path: str) -> UnitIndex:
        """Pad the rest, append the shard's index, and describe what was written."""
        layout = self._layout
        self._write(memoryview(bytes(layout.payload_bytes - self._position_bytes)))
        self._append(memoryview(bytes(layout.stored_bytes - layout.payload_bytes)))
        self._append_to_object(memoryview(shard_index(layout)))
        digest = unit_digest(layout.tensors, self._payload.hexdigest())
        return UnitIndex(unit, path, digest, layout, tuple(self._checksums))

    def _write(self, data: memoryview) -> None:
        self._payload.update(data)
        self._append(data)

    def _append(self, data: memoryview) -> None:
        self._append_to_object(data)
        while len(data):
            filled = self._position_bytes % self._layout.chunk_bytes
            piece = data[: self._layout.chunk_bytes - filled]
            self._checksum = crc32c.crc32c(piece, self._checksum)
            self._position_bytes += len(piece)
            if filled + len(piece) == self._layout.chunk_bytes:
                self._checksums.append(self._checksum)
                self._checksum = 0
            data = data[len(piece) :]


class _Meter:
    """Counts what is done and tells whoever wants to know."""

    def __init__(self, plan: _Plan, progress: Callable[[PublishProgress], None] | None) -> None:
        self._progress = progress
        self._units_total = len(plan.units)
        self._bytes_total = sum(layout.stored_bytes for layout in plan.units.values())
        self._units_done = 0
        self._bytes_done = 0

    def within(self, unit: str, written_bytes: int) -> None:
        self._tell(unit, self._bytes_done + written_bytes)

    def done(self, unit: str, stored_bytes: int) -> None:
        self._units_done += 1
        self._bytes_done += stored_bytes
        self._tell(unit, self._bytes_done)

    def _tell(self, unit: str, bytes_done: int) -> None:
        if self._progress is not None:
            self._progress(PublishProgress(unit, self._units_done, self._units_total, bytes_done, self._bytes_total))
