"""Units made by hand: random bytes in as many chunks as a test likes, without a model around them."""

import mmap
import os
import random
from pathlib import Path

import crc32c
from blake3 import blake3

from storage_tiers.checkpoint import UnitIndex, UnitLayout, shard_index, unit_digest
from storage_tiers.model_store import ModelStore

CHUNK_BYTES = 4096


def digest_of(data: bytes) -> str:
    """The digest of a unit that is these bytes and has no tensors."""
    return unit_digest((), blake3(data).hexdigest())


def bytes_of(seed: int, size_bytes: int) -> bytes:
    """The same random bytes for the same seed."""
    return random.Random(seed).randbytes(size_bytes)


def unit_of(name: str, data: bytes) -> UnitIndex:
    """The index of a unit of whole chunks, as the root metadata would have it."""
    chunks = len(data) // CHUNK_BYTES
    assert chunks * CHUNK_BYTES == len(data)
    layout = UnitLayout((), len(data), CHUNK_BYTES, chunks)
    checksums = tuple(crc32c.crc32c(data[i * CHUNK_BYTES : (i + 1) * CHUNK_BYTES]) for i in range(chunks))
    return UnitIndex(name, f"_v/{name}", digest_of(data), layout, checksums)


def store_unit(store: ModelStore, model: str, name: str, data: bytes) -> UnitIndex:
    """Put a unit into the store."""
    unit = unit_of(name, data)
    store.objects.write(store.unit_key(model, unit), data + shard_index(unit.layout))
    return unit


def aligned(size_bytes: int, data: bytes = b"") -> memoryview:
    """Memory at the start of a page, as direct I/O wants it, beginning with `data`."""
    view = memoryview(mmap.mmap(-1, size_bytes))
    view[: len(data)] = data
    return view


def store_units(store: ModelStore, count: int, chunks: int = 3) -> list[tuple[UnitIndex, bytes]]:
    """Units of a model called "model", each with its bytes."""
    datas = [bytes_of(seed, chunks * CHUNK_BYTES) for seed in range(count)]
    return [(store_unit(store, "model", f"unit{i}", data), data) for i, data in enumerate(datas)]


def flip(path: Path, offset_bytes: int) -> None:
    """Change one byte of a file."""
    with open(path, "r+b") as file:
        file.seek(offset_bytes)
        found = file.read(1)
        file.seek(offset_bytes)
        file.write(bytes([found[0] ^ 0xFF]))


def open_descriptors() -> int:
    """How many descriptors this process has."""
    return len(os.listdir("/proc/self/fd"))
