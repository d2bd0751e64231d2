"""From any source to a checkpoint in the store: streamed, resumable, visible at once or not at all.

The version is named after the source's fingerprint, so a rerun finds the units that an interrupted run has finished and
writes the rest. A unit is finished when its ``zarr.json`` is there, the model when the root ``zarr.json`` is. Versions
that were published before stay in the store until they are collected: whoever has opened one goes on reading it. Several
may publish the same source at once: they write the same bytes, and what is read is always one's or the other's, whole.
"""

import contextlib
import functools
import json
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from blake3 import blake3

from storage_tiers.bounded_json import parse_json
from storage_tiers.checkpoint import (
    FORMAT,
    ROOT,
    Checkpoint,
    Extent,
    TensorSpec,
    UnitIndex,
    UnitLayout,
    array_metadata,
    block_bytes_of,
    check_model_name,
    group_metadata,
    lay_out,
    model_digest,
    root_metadata,
)
from storage_tiers.errors import Corrupt, Missing, SourceError
from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore
from storage_tiers.publishing.choice import open_source
from storage_tiers.publishing.data_area import DataArea
from storage_tiers.publishing.inplace import REFERENCES, check_reached, references
from storage_tiers.publishing.plan import Plan, make_plan
from storage_tiers.publishing.progress import Meter, Report
from storage_tiers.publishing.sources.source import Source
from storage_tiers.publishing.sources.tensor_bytes import finite_bytes
from storage_tiers.schema import ROOT_LIMIT_BYTES, parse_array, parse_root
from storage_tiers.threads import WORKERS, check, run_all

DTYPES = ("float32", "bfloat16", "float16")


def publish(
    source: str,
    name: str,
    store: ModelStore,
    *,
    dtype: str | None = None,
    in_place: bool = False,
    workers: int = WORKERS,
    progress: Report | None = None,
) -> Checkpoint:
    """Publish the model that `source` names (see `open_source`) as `name`, and return its checkpoint.

    `dtype` is what the weights are stored in; by default what they have, or bfloat16 if they are quantised. `in_place`
    leaves them where they are and stores an index. Does nothing if just that is published already. Each of the `workers`
    threads holds a few pieces in memory, or one tensor where that must be dequantised. SourceError or UnsupportedModel say
    why a source will not do; then, and whenever else this raises, the store shows what it showed before.
    """
    check_model_name(name)
    if dtype not in (None, *DTYPES):
        raise SourceError(f"cannot publish in {dtype!r}; use one of {', '.join(DTYPES)}")
    with contextlib.closing(open_source(source, store.objects)) as opened:
        version = _version(opened, dtype, in_place)
        present = _published(store, name)
        if present is not None and present.version == version:
            return present
        plan = make_plan(opened, dtype, in_place=in_place)
        check_reached(store, plan.extents.values())
        meter = Meter({unit: layout.stored_bytes for unit, layout in plan.units.items()}, progress)
        writer = _Writer(store.objects, name, version, opened, meter)
        writer.begin()
        jobs = [
            functools.partial(writer.unit, unit, layout, plan.extents.get(unit, ()))
            for unit, layout in plan.units.items()
        ]
        units = tuple(run_all(jobs, min(workers, opened.workers_at_most or workers)))
        files = tuple(writer.file(file, data) for file, data in plan.files.items())
        if _version(opened, dtype, in_place) != version:
            raise SourceError(f"{source} was changed while it was being published; publish it again")
        return writer.commit(plan, units, files)


def _version(source: Source, dtype: str | None, in_place: bool) -> str:
    """Named after what the source consists of. The underscore keeps versions apart from models' names."""
    parts: list[Any] = [(name, fact.size_bytes, fact.tag) for name, fact in source.parts().items()]
    if in_place:
        parts.append(["in place", source.where])
    return "_" + blake3(json.dumps([FORMAT, dtype, parts]).encode()).hexdigest(length=8)


def _published(store: ModelStore, name: str) -> Checkpoint | None:
    try:
        return store.open(name)
    except (Missing, Corrupt):
        return None


class _Writer:
    """Writes one version of a model. `unit` may be called from several threads at once."""

    def __init__(self, objects: ObjectStore, name: str, version: str, source: Source, meter: Meter) -> None:
        self._objects, self._name, self._version = objects, name, version
        self._source, self._meter = source, meter

    def begin(self) -> None:
        """Mark the version as being written, so that nobody collects what an earlier run has left of it."""
        self._write_json(f"{self._version}/{ROOT}", group_metadata())

    def unit(self, unit: str, layout: UnitLayout, extents: tuple[Extent, ...], stop: threading.Event) -> UnitIndex:
        """Write one unit, or find it finished by an earlier run."""
        check(stop)
        path = f"{self._version}/{unit}"
        block_bytes = block_bytes_of(unit, layout)
        index = self._finished(path, layout, extents, block_bytes)
        if index is None:
            with self._object(path, in_place=bool(extents)) as append:
                area = DataArea(append, layout, block_bytes)
                for entry in layout.tensors:
                    pieces = self._source.read(entry.name, entry.dtype)
                    for written in area.tensor(entry, finite_bytes(entry.name, entry.dtype, pieces)):
                        check(stop)
                        self._meter.within(unit, written)
                index = area.finish(unit, path, extents)
            self._write_json(f"{path}/{ROOT}", array_metadata(index))
        self._meter.done(unit)
        return index

    def file(self, file: str, data: bytes) -> UnitIndex:
        """Write a file that travels with the model."""
        path = f"{self._version}/files/{file}"
        layout = lay_out([TensorSpec(file, "uint8", (len(data),))])
        with self._object(path, in_place=False) as append:
            area = DataArea(append, layout)
            for _ in area.tensor(layout.tensors[0], [memoryview(data)]):
                pass
            index = area.finish(file, path)
        self._write_json(f"{path}/{ROOT}", array_metadata(index))
        return index

    def commit(self, plan: Plan, units: tuple[UnitIndex, ...], files: tuple[UnitIndex, ...]) -> Checkpoint:
        """Make the model visible: the root's metadata comes last."""
        digest = model_digest(plan.config, plan.dtype, units, files)
        checkpoint = Checkpoint(
            self._name, self._version, digest, plan.config, plan.generation_config, plan.dtype, plan.tied, units, files,
            plan.pooling,
        )  # fmt: skip
        self._write_json(f"{self._version}/files/{ROOT}", group_metadata())
        if plan.extents:
            self._write_json(f"{self._version}/{REFERENCES}", references(checkpoint))
        self._write_json(f"{self._version}/{ROOT}", group_metadata())
        root = _encoded(root_metadata(checkpoint))
        if len(root) > ROOT_LIMIT_BYTES:
            raise SourceError(f"{self._source.where} has an index of {len(root):,} bytes, {ROOT_LIMIT_BYTES:,} at most")
        try:
            parse_root(root, self._source.where, self._name)
        except Corrupt as error:
            raise SourceError(f"{self._source.where} cannot be published: nobody could open it ({error})") from error
        self._objects.write(f"{self._name}/{ROOT}", root)
        self._objects.sweep(f"{self._name}/{self._version}")
        return checkpoint

    def _finished(
        self, path: str, layout: UnitLayout, extents: tuple[Extent, ...], block_bytes: int | None
    ) -> UnitIndex | None:
        """The unit as it lies in the store, if it is whole and laid out as we would."""
        try:
            index = parse_array(path, parse_json(self._objects.read(f"{self._name}/{path}/{ROOT}", ROOT_LIMIT_BYTES)))
        except (Missing, Corrupt, ValueError):
            return None
        if index.layout != layout or index.extents != extents:
            return None
        if (index.blocks.block_bytes if index.blocks else None) != block_bytes:
            return None
        stored = None if extents else self._objects.size_bytes(f"{self._name}/{index.key}")
        whole = bool(extents) or stored == layout.object_bytes
        return index if whole else None

    def _object(self, path: str, *, in_place: bool) -> AbstractContextManager[Callable[[memoryview], None]]:
        if in_place:
            return contextlib.nullcontext(lambda data: None)
        return self._objects.writer(f"{self._name}/{path}/c/0")

    def _write_json(self, key: str, value: Mapping[str, Any]) -> None:
        self._objects.write(f"{self._name}/{key}", _encoded(value))


def _encoded(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
