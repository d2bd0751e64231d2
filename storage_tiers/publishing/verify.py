"""Proof that a published model is whole: every object read once, every checksum and digest compared."""

import functools
import threading
from dataclasses import dataclass

from storage_tiers.bounded_json import parse_json
from storage_tiers.checkpoint import (
    ROOT,
    Checkpoint,
    UnitIndex,
    array_metadata,
    shard_index,
)
from storage_tiers.checksums import Checksums
from storage_tiers.errors import Corrupt, Missing
from storage_tiers.model_store import ModelStore
from storage_tiers.publishing.progress import Meter, Report
from storage_tiers.schema import ROOT_LIMIT_BYTES
from storage_tiers.threads import WORKERS, check, run_all

_READ_BYTES = 8 << 20


@dataclass(frozen=True)
class Damage:
    """What is wrong with one part of a model: `part` is a unit or a file."""

    part: str
    problem: str


@dataclass(frozen=True)
class Verification:
    """The outcome; the model is sound if `damages` is empty."""

    checkpoint: Checkpoint
    damages: tuple[Damage, ...]


def verify(store: ModelStore, name: str, *, workers: int = WORKERS, progress: Report | None = None) -> Verification:
    """Read all of the model `name` and compare it with its metadata. Each worker holds one piece in memory.

    Missing or Corrupt if the root metadata itself cannot be used; StoreUnavailable if the store stops answering.
    """
    checkpoint = store.open(name)
    parts = {unit.path: unit for unit in (*checkpoint.units, *checkpoint.files)}
    meter = Meter({path: unit.size_bytes for path, unit in parts.items()}, progress)
    jobs = [functools.partial(_check_part, store, name, unit, meter) for unit in parts.values()]
    found = [damage for damages in run_all(jobs, workers) for damage in damages]
    return Verification(checkpoint, tuple(found))


def _check_part(store: ModelStore, name: str, unit: UnitIndex, meter: Meter, stop: threading.Event) -> list[Damage]:
    problems = [*_check_bytes(store, name, unit, meter, stop), *_check_metadata(store, name, unit)]
    if not unit.extents:
        problems += _check_shard_index(store, name, unit)
    meter.done(unit.path)
    return [Damage(unit.name, problem) for problem in problems]


def _check_bytes(store: ModelStore, name: str, unit: UnitIndex, meter: Meter, stop: threading.Event) -> list[str]:
    sums = Checksums(unit.layout, unit.blocks.block_bytes if unit.blocks else None)
    buffer = memoryview(bytearray(min(_READ_BYTES, unit.size_bytes)))
    while (left := unit.size_bytes - sums.position_bytes) > 0:
        check(stop)
        piece = buffer[: min(left, len(buffer))]
        try:
            store.read_unit_into(name, unit, sums.position_bytes, piece)
        except (Missing, Corrupt) as error:
            return [str(error)]
        sums.update(piece)
        meter.within(unit.path, sums.position_bytes)
    bad = [i for i, (is_, should) in enumerate(zip(sums.chunk_crc32c, unit.chunk_crc32c, strict=True)) if is_ != should]
    problems = [f"chunk {i} of {unit.layout.chunks} has another crc32c than the index says" for i in bad]
    if not bad and not sums.holds(unit.digest):
        problems.append(f"its digest is {sums.digest}, not {unit.digest}, or no zeros follow its payload")
    if not bad and sums.blocks != unit.blocks:
        problems.append("the checksums of its blocks are not those of its bytes")
    return problems


def _check_shard_index(store: ModelStore, name: str, unit: UnitIndex) -> list[str]:
    """What only zarr readers need: the index behind the data, and nothing after it."""
    key, expected = store.unit_key(name, unit), shard_index(unit.layout)
    stored = store.objects.size_bytes(key)
    if stored is None or stored < unit.size_bytes:
        return []  # told already
    if stored != unit.size_bytes + len(expected):
        return [f"its object has {stored} bytes, not {unit.size_bytes + len(expected)}"]
    tail = bytearray(len(expected))
    store.objects.read_into(key, unit.size_bytes, memoryview(tail))
    return [] if bytes(tail) == expected else ["its shard index is damaged: zarr readers cannot open it"]


def _check_metadata(store: ModelStore, name: str, unit: UnitIndex) -> list[str]:
    """The array's own metadata, which readers use that do not know the root's."""
    try:
        found = parse_json(store.objects.read(f"{name}/{unit.path}/{ROOT}", ROOT_LIMIT_BYTES))
    except (Missing, Corrupt, ValueError):
        return ["its zarr.json is missing or damaged"]
    return [] if found == array_metadata(unit) else ["its zarr.json is not what the root metadata says"]
