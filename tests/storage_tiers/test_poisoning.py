"""Units are shared by digest: no root that lies puts other bytes under one, nor takes a good copy away."""

from dataclasses import replace
from pathlib import Path

import crc32c
import pytest

from storage_tiers.checkpoint import TensorSpec, UnitIndex, UnitLayout, lay_out, shard_index
from storage_tiers.checksums import Checksums
from storage_tiers.errors import Corrupt
from storage_tiers.model_store import ModelStore
from storage_tiers.tiers.peer import PeerServer, PeerTier
from storage_tiers.tiers.stack import Priority
from tests.storage_tiers.handmade import CHUNK_BYTES, bytes_of, flip, store_units
from tests.storage_tiers.stack_node import CHUNKS, WAIT_S, Gate, Node, Units, running


def _lie(store: ModelStore, unit: UnitIndex, data: bytes) -> UnitIndex:
    """Publish `data` as model "liar" under the unit's digest, with the checksums that `data` has."""
    sums = tuple(crc32c.crc32c(data[i : i + CHUNK_BYTES]) for i in range(0, len(data), CHUNK_BYTES))
    layout = UnitLayout((), len(data), CHUNK_BYTES, len(sums))
    lie = replace(unit, layout=layout, chunk_crc32c=sums)
    store.objects.write(store.unit_key("liar", lie), data + shard_index(layout))
    return lie


@pytest.fixture
def lie(store: ModelStore, units: Units) -> UnitIndex:
    """Other bytes of the same length, under the digest of the first unit."""
    return _lie(store, units[0][0], bytes_of(99, CHUNKS * CHUNK_BYTES))


def test_bytes_that_are_not_what_their_digest_says_are_not_kept(node: Node, units: Units, lie: UnitIndex) -> None:
    """Only checksums were compared, which stand in the same root: its bytes were handed to whoever asked for the digest."""
    error = node.stack.load("liar", lie, Priority.COLD_START).exception(WAIT_S)
    assert isinstance(error, Corrupt)
    assert "unit0 of liar is not what its digest says" in str(error)
    loaded = node.get(units[0][0])
    assert (loaded.source, bytes(loaded.segment.view)) == ("remote", units[0][1])
    node.settle(loaded)


def test_what_stands_behind_the_payload_is_part_of_the_proof(node: Node, store: ModelStore) -> None:
    """The digest is of the payload. Whatever followed it would come back as damage to other models with the same unit."""
    layout = replace(lay_out([TensorSpec("t", "uint8", (CHUNK_BYTES,))]), payload_bytes=CHUNK_BYTES, chunk_bytes=8192)
    honest = bytes_of(3, CHUNK_BYTES) + bytes(CHUNK_BYTES)
    for data in (honest[:-1] + b"x", honest):
        sums = Checksums(layout)
        sums.update(memoryview(data))
        unit = UnitIndex("unit", "_v/unit", sums.digest, layout, sums.chunk_crc32c)
        store.objects.write(store.unit_key("model", unit), data + shard_index(layout))
        load = node.load(unit)
        if data is honest:
            assert bytes(load.result(WAIT_S).segment.view) == honest
        else:
            assert isinstance(load.exception(WAIT_S), Corrupt)


def test_a_lie_on_its_way_does_not_fail_who_asks_for_the_real_unit(
    store: ModelStore, tmp_path: Path, units: Units, lie: UnitIndex, gate: Gate
) -> None:
    with running(Node(store, tmp_path / "ssd", gate, threads=1)) as node:
        lying = node.stack.load("liar", lie, Priority.PREWARM)
        assert gate.reached.wait(WAIT_S)
        honest = node.load(units[0][0])
        gate.open()
        assert isinstance(lying.exception(WAIT_S), Corrupt)
        assert bytes(honest.result(WAIT_S).segment.view) == units[0][1]


def test_a_model_whose_objects_are_gone_does_not_fail_another_that_has_the_same_unit(
    store: ModelStore, tmp_path: Path, units: Units, gate: Gate
) -> None:
    """They share the transfer, and it reads the folder of the one that was asked for first."""
    with running(Node(store, tmp_path / "ssd", gate, threads=1)) as node:
        empty = node.stack.load("copy", units[0][0], Priority.COLD_START)
        assert gate.reached.wait(WAIT_S)
        whole = node.load(units[0][0])
        gate.open()
        assert "copy" in str(empty.exception(WAIT_S))
        assert bytes(whole.result(WAIT_S).segment.view) == units[0][1]


def test_a_lie_takes_no_good_copy_from_the_ssd(store: ModelStore, tmp_path: Path, units: Units, lie: UnitIndex) -> None:
    """The ssd's copy does not match the lie's checksums. It was removed for that."""
    unit, data = units[0]
    with running(Node(store, tmp_path / "ssd")) as node:
        node.settle(node.get(unit))
    with running(Node(store, tmp_path / "ssd")) as restarted:
        assert isinstance(restarted.stack.load("liar", lie, Priority.COLD_START).exception(WAIT_S), Corrupt)
        assert restarted.ssd.holds(unit)
        loaded = restarted.get(unit)
        assert (loaded.source, bytes(loaded.segment.view)) == ("ssd", data)


def test_a_lie_puts_no_peer_to_rest(store: ModelStore, tmp_path: Path, units: Units, lie: UnitIndex) -> None:
    with running(Node(store, tmp_path / "other")) as other, running(Node(store, tmp_path / "ssd")) as node:
        other.get(units[0][0])
        server = PeerServer(other.dram, other.ssd, "127.0.0.1", "secret")
        peer = PeerTier("other", "127.0.0.1", server.port, "secret")
        try:
            assert isinstance(node.stack.load("liar", lie, Priority.COLD_START, [peer]).exception(WAIT_S), Corrupt)
            assert node.get(units[0][0], peer).source == "peer other"
        finally:
            peer.close()
            server.close()


@pytest.mark.parametrize("length", [CHUNKS - 1, CHUNKS + 1])
def test_another_length_is_no_way_into_memory(node: Node, store: ModelStore, units: Units, length: int) -> None:
    """A unit that is in dram was handed to whoever asked for its digest, with the length that his root claims."""
    node.get(units[0][0])
    lie = _lie(store, units[0][0], bytes_of(99, length * CHUNK_BYTES))
    error = node.stack.load("liar", lie, Priority.COLD_START).exception(WAIT_S)
    assert isinstance(error, Corrupt)
    assert "claims" in str(error)
    assert not node.stack.holds(lie)
    assert node.stack.holds(units[0][0])


def test_a_bad_copy_that_is_proven_to_be_bad_goes(store: ModelStore, tmp_path: Path, units: Units) -> None:
    unit, data = units[0]
    with running(Node(store, tmp_path / "ssd")) as node:
        node.settle(node.get(unit))
    flip(tmp_path / "ssd" / unit.digest, 7)
    with running(Node(store, tmp_path / "ssd")) as restarted:
        restarted.settle(restarted.get(unit))
        assert (tmp_path / "ssd" / unit.digest).read_bytes() == data


@pytest.mark.parametrize("threads", [1, 8])
def test_chunks_in_any_order_are_proven(store: ModelStore, tmp_path: Path, no_long_pauses: None, threads: int) -> None:
    """The digest is taken from front to back, by whichever thread has just read what comes next."""
    found = store_units(store, 6, 40)
    with running(Node(store, tmp_path / "ssd", dram_units=100, ssd_units=100, threads=threads)) as node:
        loads = [node.load(unit) for unit, _ in found]
        for (_, data), load in zip(found, loads, strict=True):
            assert bytes(load.result(WAIT_S).segment.view) == data
