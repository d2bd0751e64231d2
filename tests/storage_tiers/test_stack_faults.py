"""All tiers as one: bad bytes, bad stores, and everything at once."""

import errno
import os
import threading
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from storage_tiers.checkpoint import UnitIndex
from storage_tiers.errors import Corrupt, Missing, StorageError, StoreUnavailable
from storage_tiers.model_store import ModelStore
from storage_tiers.retries import ATTEMPTS
from storage_tiers.tiers.stack import Priority
from tests.storage_tiers.handmade import CHUNK_BYTES, flip
from tests.storage_tiers.stack_node import CHUNKS, UNIT_BYTES, WAIT_S, Before, Gate, Node, Units, running

# ---- bad bytes, bad stores


def _assert_nothing_is_kept_but(other: UnitIndex, node: Node) -> None:
    """Load `other`, so that the one worker is through with all that was before it, and look."""
    node.settle(node.get(other))
    assert (node.dram.held(), node.dram.used_bytes, node.ssd.held()) == ({other.digest}, UNIT_BYTES, {other.digest})


def test_a_bad_object_is_read_again_and_then_reported_and_nothing_is_kept(
    node: Node, store: ModelStore, units: Units
) -> None:
    unit, _ = units[0]
    flip(Path(store.objects.path(store.unit_key("model", unit))), CHUNK_BYTES + 5)
    error = node.fail(unit)
    assert isinstance(error, Corrupt)
    assert "unit0 of model from remote: chunk 1 has another crc32c" in str(error)
    assert Counter(node.remote.reads)["unit0", 1] == ATTEMPTS
    _assert_nothing_is_kept_but(units[1][0], node)


def test_a_tier_that_raises_what_it_should_not_fails_its_load_and_no_more(node: Node, units: Units) -> None:
    """The worker died of it, the load hung, and so did every later one once all workers were gone."""

    def defect(unit: UnitIndex, _chunk: int) -> None:
        if unit.name == "unit0":
            raise ZeroDivisionError("a defect")

    node.remote.before = defect
    assert "a defect" in str(node.fail(units[0][0]))
    _assert_nothing_is_kept_but(units[1][0], node)


def test_bytes_that_are_bad_once_are_right_the_next_time(store: ModelStore, tmp_path: Path, units: Units) -> None:
    unit, data = units[0]
    path = Path(store.objects.path(store.unit_key("model", unit)))
    flip(path, CHUNK_BYTES)

    def mend(_unit: UnitIndex, chunk: int) -> None:
        if chunk == 1 and node.remote.reads.count(("unit0", 1)) == 2:
            flip(path, CHUNK_BYTES)

    with running(Node(store, tmp_path / "ssd", mend)) as node:
        assert bytes(node.get(unit).segment.view) == data


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_a_flipped_byte_on_ssd_is_dropped_and_read_again_from_remote(
    store: ModelStore, tmp_path: Path, units: Units, chunk: int
) -> None:
    unit, data = units[0]
    with running(Node(store, tmp_path / "ssd")) as node:
        node.settle(node.get(unit))
    flip(tmp_path / "ssd" / unit.digest, chunk * CHUNK_BYTES + 7)
    with running(Node(store, tmp_path / "ssd")) as restarted:
        loaded = restarted.get(unit)
        assert bytes(loaded.segment.view) == data
        assert ("unit0", chunk) in restarted.remote.reads
        restarted.settle(loaded)
    assert (tmp_path / "ssd" / unit.digest).read_bytes() == data


def test_a_file_that_vanished_from_ssd_is_read_from_remote(store: ModelStore, tmp_path: Path, units: Units) -> None:
    unit, data = units[0]
    with running(Node(store, tmp_path / "ssd", threads=1)) as node:
        node.settle(node.get(unit))
        assert node.dram.drop(unit.digest)
        (tmp_path / "ssd" / unit.digest).unlink()
        loaded = node.get(unit)
        assert (loaded.source, bytes(loaded.segment.view)) == ("remote", data)


def test_a_unit_that_cannot_be_opened_for_want_of_descriptors_comes_from_the_store_and_stays(
    store: ModelStore, tmp_path: Path, units: Units, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was deleted, and so was every other that was asked for meanwhile."""
    unit, data = units[0]
    open_file = os.open

    def few(path: object, *arguments: object) -> int:
        if str(path).endswith(unit.digest):
            raise OSError(errno.EMFILE, "Too many open files")
        return open_file(path, *arguments)  # type: ignore[arg-type]

    with running(Node(store, tmp_path / "ssd", threads=1)) as node:
        node.settle(node.get(unit))
        assert node.dram.drop(unit.digest)
        with monkeypatch.context() as patched:
            patched.setattr(os, "open", few)
            loaded = node.get(unit)
            assert (loaded.source, bytes(loaded.segment.view)) == ("remote", data)
        node.settle(loaded)
        assert node.dram.drop(unit.digest)
        assert (tmp_path / "ssd" / unit.digest).read_bytes() == data
        assert node.get(unit).source == "ssd"


def test_a_truncated_object_is_corrupt(node: Node, store: ModelStore, units: Units) -> None:
    unit, _ = units[0]
    with open(store.objects.path(store.unit_key("model", unit)), "r+b") as file:
        file.truncate(UNIT_BYTES - 1)
    assert isinstance(node.fail(unit), Corrupt)
    _assert_nothing_is_kept_but(units[1][0], node)


def test_a_missing_object_is_reported_at_once(node: Node, store: ModelStore, units: Units) -> None:
    unit, _ = units[0]
    store.objects.remove(store.unit_key("model", unit))
    assert isinstance(node.fail(unit), Missing)
    assert max(Counter(node.remote.reads).values()) == 1
    _assert_nothing_is_kept_but(units[1][0], node)


def _failing(times: int) -> Before:
    """Fails as often as said for every chunk, then no more."""
    seen: Counter[tuple[str, int]] = Counter()

    def fail(unit: UnitIndex, chunk: int) -> None:
        seen[unit.name, chunk] += 1
        if seen[unit.name, chunk] <= times:
            raise StoreUnavailable("the store is restarting")

    return fail


def test_a_store_that_fails_twice_is_asked_again(store: ModelStore, tmp_path: Path, units: Units) -> None:
    with running(Node(store, tmp_path / "ssd", _failing(2))) as node:
        assert bytes(node.get(units[0][0]).segment.view) == units[0][1]
        assert set(Counter(node.remote.reads).values()) == {3}


def test_a_store_that_keeps_failing_is_unavailable_and_the_stack_goes_on(
    store: ModelStore, tmp_path: Path, units: Units
) -> None:
    def only_the_first(unit: UnitIndex, _chunk: int) -> None:
        if unit.name == "unit0":
            raise StoreUnavailable("no route to the store")

    with running(Node(store, tmp_path / "ssd", only_the_first)) as node:
        for _ in range(8):
            assert isinstance(node.fail(units[0][0]), StoreUnavailable)
        assert bytes(node.get(units[1][0]).segment.view) == units[1][1]
        assert node.dram.held() == {units[1][0].digest}


def test_everyone_who_waits_hears_of_a_failure(store: ModelStore, tmp_path: Path, units: Units, gate: Gate) -> None:
    store.objects.remove(store.unit_key("model", units[0][0]))
    with running(Node(store, tmp_path / "ssd", gate)) as node:
        loads = [node.load(units[0][0]) for _ in range(3)]
        gate.open()
        assert [type(load.exception(WAIT_S)) for load in loads] == [Missing] * 3


# ---- all at once


@pytest.mark.parametrize("write_behind", [True, False])
def test_under_load_with_faults_every_unit_that_is_given_out_is_right_and_nothing_is_left_over(
    store: ModelStore, tmp_path: Path, units: Units, write_behind: bool
) -> None:
    chance, guard = Random(5), threading.Lock()

    def sometimes(_unit: UnitIndex, _chunk: int) -> None:
        with guard:
            if chance.random() < 0.2:
                raise StoreUnavailable("now and then")

    node = Node(store, tmp_path / "ssd", sometimes, dram_units=4, ssd_units=3, write_behind=write_behind)
    wrong: list[str] = []

    def use(seed: int) -> None:
        random = Random(seed)
        for _ in range(30):
            unit, data = random.choice(units)
            load = node.load(unit, random.choice([Priority.COLD_START, Priority.PREWARM]))
            if random.random() < 0.2:
                node.stack.give_up(load)
                continue
            try:
                loaded = load.result(WAIT_S)
            except StorageError:
                continue
            if bytes(loaded.segment.view) != data:
                wrong.append(unit.name)
            node.stack.release(unit)

    threads = [threading.Thread(target=use, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert node.dram.used_bytes <= node.dram.budget_bytes
    assert node.ssd.used_bytes <= node.ssd.budget_bytes
    if not write_behind:
        node.remote.before = lambda _unit, _chunk: None
        for unit, _ in units:
            node.get(unit)
            node.stack.release(unit)
            assert node.dram.drop(unit.digest), "a pin was left over"
    node.stack.close()
    for path in (tmp_path / "ssd").iterdir():
        assert path.read_bytes() in [data for _, data in units]
