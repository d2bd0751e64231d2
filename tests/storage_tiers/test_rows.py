"""Rows of an embedding read alone: always the right bytes, from whichever source has them."""

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import crc32c
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage_tiers.checkpoint import ROOT, Blocks, TensorEntry, TensorSpec, UnitIndex, lay_out, shard_index
from storage_tiers.errors import Corrupt, Missing, StorageError, StoreUnavailable
from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore
from storage_tiers.publishing.publish import publish
from storage_tiers.retries import ATTEMPTS
from storage_tiers.tiers import rows as rows_module
from storage_tiers.tiers.dram import DramTier
from storage_tiers.tiers.peer import PeerServer, PeerTier
from storage_tiers.tiers.remote import RemoteTier
from storage_tiers.tiers.rows import GAP_BLOCKS, RowReader, embedding_of, rows_in
from storage_tiers.tiers.ssd import SsdTier
from storage_tiers.tiers.tier import Tier, Views, total_bytes
from storage_tiers.tiers.wrappers import Faulty
from tests.storage_tiers.handmade import aligned, bytes_of, digest_of, flip
from tests.tiny import make_tiny

ROWS, ROW_BYTES, BLOCK_BYTES = 700, 600, 4096
_EMBEDDING = TensorSpec("matrix", "uint8", (ROWS, ROW_BYTES))
_BEFORE = TensorSpec("before", "uint8", (5000,))
Read = Callable[..., bytes]


class InMemory:
    """A source that notes what was asked of it."""

    def __init__(self, data: bytes, name: str = "memory") -> None:
        self.name, self.data, self.held = name, bytearray(data), True
        self.reads: list[tuple[int, int]] = []
        self.discarded = 0

    def holds(self, unit: UnitIndex) -> bool:
        return self.held

    def read(self, model: str, unit: UnitIndex, offset_bytes: int, views: Views) -> None:
        self.reads.append((offset_bytes, total_bytes(views)))
        for view in views:
            view[:] = self.data[offset_bytes : offset_bytes + len(view)]
            offset_bytes += len(view)

    def discard(self, unit: UnitIndex) -> None:
        self.discarded += 1


def _embedding_unit(block_bytes: int = BLOCK_BYTES) -> tuple[UnitIndex, TensorEntry, bytes]:
    """A unit with a matrix that begins in the middle of it, whose rows lie across the borders of blocks."""
    layout = lay_out([_BEFORE, _EMBEDDING])
    matrix = layout.tensors[1]
    data = bytes_of(1, matrix.offset_bytes + matrix.size_bytes).ljust(layout.stored_bytes, b"\0")
    pieces = [data[at : at + block_bytes] for at in range(0, len(data), block_bytes)]
    sums = np.array([crc32c.crc32c(piece) for piece in pieces], "<u4").tobytes()
    chunks = tuple(crc32c.crc32c(data[i : i + layout.chunk_bytes]) for i in range(0, len(data), layout.chunk_bytes))
    blocks = Blocks(block_bytes, sums)
    return UnitIndex("embed", "_v/embed", digest_of(data), layout, chunks, blocks=blocks), matrix, data


UNIT, MATRIX, DATA = _embedding_unit()


def _row(row: int) -> bytes:
    start = MATRIX.offset_bytes + row * ROW_BYTES
    return DATA[start : start + ROW_BYTES]


def _expected(rows: Sequence[int]) -> bytes:
    return b"".join(_row(row) for row in rows)


@pytest.fixture(scope="module")
def reader() -> Iterator[RowReader]:
    found = RowReader()
    yield found
    found.close()


@pytest.fixture
def read(reader: RowReader, no_long_pauses: None) -> Read:
    def call(rows: Sequence[int], *sources: Tier, unit: UnitIndex = UNIT) -> bytes:
        return reader.read("model", unit, MATRIX, rows, sources)

    return call


@given(rows=st.lists(st.integers(0, ROWS - 1), max_size=40))
def test_rows_come_as_they_are_named_also_twice(reader: RowReader, rows: list[int]) -> None:
    assert reader.read("model", UNIT, MATRIX, rows, [InMemory(DATA)]) == _expected(rows)


@given(rows=st.sets(st.integers(0, ROWS - 1), min_size=1, max_size=40))
def test_whole_blocks_are_read_none_twice_and_no_two_that_are_near_apart(reader: RowReader, rows: set[int]) -> None:
    source = InMemory(DATA)
    reader.read("model", UNIT, MATRIX, sorted(rows), [source])
    reads = sorted(source.reads)
    assert all(offset % BLOCK_BYTES == 0 and size % BLOCK_BYTES == 0 for offset, size in reads)
    gaps = [after[0] - before[0] - before[1] for before, after in itertools.pairwise(reads)]
    assert all(gap > GAP_BLOCKS * BLOCK_BYTES for gap in gaps)


@pytest.mark.parametrize("block_bytes", [4096, 16384, 1 << 20])
def test_blocks_may_have_any_size(reader: RowReader, block_bytes: int) -> None:
    unit, _, _ = _embedding_unit(block_bytes)
    rows = [0, 5, ROWS - 1]
    assert reader.read("model", unit, MATRIX, rows, [InMemory(DATA)]) == _expected(rows)


def test_what_lies_in_a_row_is_split_into_several_reads(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "MOST_BYTES", 4 * BLOCK_BYTES)
    source = InMemory(DATA)
    assert read(range(ROWS), source) == DATA[MATRIX.offset_bytes : MATRIX.offset_bytes + MATRIX.size_bytes]
    assert max(size for _, size in source.reads) == 4 * BLOCK_BYTES


def test_a_flipped_byte_is_never_used_and_the_next_source_is_asked(read: Read) -> None:
    """The source keeps what it has: the index may be wrong, which only the whole unit's digest can tell."""
    bad, good = InMemory(DATA, "bad"), InMemory(DATA)
    bad.data[MATRIX.offset_bytes + 5 * ROW_BYTES + 7] ^= 1
    assert read([5], bad, good) == _row(5)
    assert (bad.discarded, good.discarded) == (0, 0)
    assert len(bad.reads) == len(good.reads) == 1


def test_a_flipped_byte_in_a_block_that_nobody_wants_does_no_harm(read: Read) -> None:
    source = InMemory(DATA)
    first = (MATRIX.offset_bytes + 5 * ROW_BYTES) // BLOCK_BYTES
    source.data[(first + 2) * BLOCK_BYTES + 1] ^= 1
    far = (first + 3) * BLOCK_BYTES - MATRIX.offset_bytes
    rows = [5, -(-far // ROW_BYTES)]
    assert read(rows, source) == _expected(rows)
    assert len(source.reads) == 1


def test_bytes_that_came_wrong_once_are_fetched_again_from_the_origin(read: Read) -> None:
    left = [1]

    def fault(_unit: UnitIndex, _offset: int, views: Views) -> None:
        if left:
            left.pop()
            views[0][10] ^= 0xFF

    assert read([0], Faulty(InMemory(DATA), fault)) == _row(0)
    assert not left


def test_bytes_that_are_wrong_everywhere_are_an_error(read: Read) -> None:
    source = InMemory(DATA)
    source.data[MATRIX.offset_bytes] ^= 1
    with pytest.raises(Corrupt, match="block 2 has another crc32c"):
        read([0], source)
    assert len(source.reads) == ATTEMPTS


def test_a_source_that_has_lost_the_unit_is_passed_over(read: Read) -> None:
    lost, absent, good = InMemory(DATA), InMemory(DATA), InMemory(DATA)
    absent.held = False

    def fault(_unit: UnitIndex, _offset: int, _views: Views) -> None:
        raise Missing("gone")

    assert read([3, 600], Faulty(lost, fault), absent, good) == _expected([3, 600])
    assert not absent.reads


def test_rows_that_no_source_has_are_an_error(read: Read, tmp_path: Path) -> None:
    with pytest.raises(Missing):
        read([0], RemoteTier(ModelStore(ObjectStore(str(tmp_path)))))


def test_a_store_that_does_not_answer_is_asked_several_times(read: Read) -> None:
    asked = []

    def fault(_unit: UnitIndex, offset: int, _views: Views) -> None:
        asked.append(offset)
        raise StoreUnavailable("no answer")

    with pytest.raises(StoreUnavailable):
        read([0], Faulty(InMemory(DATA), fault))
    assert len(asked) == ATTEMPTS


@pytest.mark.parametrize("row", [-1, ROWS])
def test_a_row_that_is_not_there_is_refused(read: Read, row: int) -> None:
    with pytest.raises(ValueError, match="700 rows"):
        read([row], InMemory(DATA))


def test_a_reader_that_was_closed_reads_no_more() -> None:
    reader = RowReader()
    reader.close()
    with pytest.raises(StorageError, match="shutting down"):
        reader.read("model", UNIT, MATRIX, [0], [InMemory(DATA)])


def test_every_tier_gives_rows(read: Read, store: ModelStore, tmp_path: Path) -> None:
    rows = [0, 1, 350, ROWS - 1]
    store.objects.write(store.unit_key("model", UNIT), DATA + shard_index(UNIT.layout))
    ssd = SsdTier(tmp_path / "ssd", 2 * len(DATA))
    ssd.write(UNIT.digest, [aligned(UNIT.size_bytes, DATA)])
    dram = DramTier(1 << 22)
    server = PeerServer(dram, ssd, "127.0.0.1", "secret")
    peer = PeerTier("other", "127.0.0.1", server.port, "secret")
    try:
        assert read(rows, RemoteTier(store)) == _expected(rows)
        assert read(rows, ssd, RemoteTier(store)) == _expected(rows)
        store.objects.remove(store.unit_key("model", UNIT))
        assert read(rows, peer, RemoteTier(store)) == _expected(rows)
        flip(tmp_path / "ssd" / UNIT.digest, MATRIX.offset_bytes)
        with pytest.raises(Missing):
            read(rows, ssd, RemoteTier(store))
    finally:
        peer.close()
        server.close()
        dram.close()


@pytest.mark.parametrize("in_place", [False, True], ids=["copied", "in-place"])
def test_rows_of_a_published_model_are_the_embeddings(
    reader: RowReader, store: ModelStore, tmp_path: Path, in_place: bool
) -> None:
    from safetensors.torch import load_file

    source = make_tiny("llama", tmp_path / "source", vocab_size=3000)
    unit = publish(str(source), "model", store, in_place=in_place).unit("embed")
    matrix = embedding_of(unit, "llama")
    assert matrix is not None
    rows = [2999, 0, 1234]
    expected = load_file(source / "model.safetensors")["model.embed_tokens.weight"][rows].numpy().tobytes()
    assert reader.read("model", unit, matrix, rows, [RemoteTier(store)]) == expected


@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_an_embedding_with_learned_positions_beside_it_is_read_whole(
    family: str, store: ModelStore, tmp_path: Path
) -> None:
    checkpoint = publish(str(make_tiny(family, tmp_path / "source")), "model", store)
    assert embedding_of(checkpoint.unit("embed"), family) is None


def test_a_unit_without_checksums_of_blocks_is_read_whole(read: Read) -> None:
    bare = UnitIndex(UNIT.name, UNIT.path, UNIT.digest, UNIT.layout, UNIT.chunk_crc32c)
    assert embedding_of(bare, "llama") is None
    with pytest.raises(ValueError, match="no checksums of blocks"):
        read([0], InMemory(DATA), unit=bare)


def test_a_unit_that_an_unfinished_run_left_without_checksums_of_blocks_is_written_again(
    store: ModelStore, tmp_path: Path
) -> None:
    source = make_tiny("llama", tmp_path / "source")
    first = publish(str(source), "model", store)
    key = f"model/{first.unit('embed').path}/{ROOT}"
    metadata = json.loads(store.objects.read(key))
    del metadata["attributes"]["blocks"]
    store.objects.write(key, json.dumps(metadata).encode())
    store.objects.remove(f"model/{ROOT}")
    assert publish(str(source), "model", store) == first


@given(rows=st.lists(st.integers(0, ROWS - 1), max_size=40))
def test_rows_are_cut_out_of_a_unit_in_memory(rows: list[int]) -> None:
    """Blocks of 4 KiB lie wherever they were free: rows cross from one run to the next."""
    dram = DramTier(4 << 20)
    try:
        dram.reserve("other", 5000)
        segment = dram.reserve(UNIT.digest, len(DATA))
        at = 0
        for view in segment.views():
            view[:] = DATA[at : at + len(view)]
            at += len(view)
        assert rows_in(segment, MATRIX, rows) == _expected(rows)
        with pytest.raises(ValueError, match="700 rows"):
            rows_in(segment, MATRIX, [ROWS])
    finally:
        dram.close()
