"""What an object store promises, the same for a folder and for S3."""

import time
from pathlib import Path

import pytest

from storage_tiers.errors import Corrupt, Missing, OutOfSpace, StorageError, StoreUnavailable
from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore
from tests.s3_server import S3Server


def test_what_was_written_is_read(objects: ObjectStore) -> None:
    objects.write("a/b", b"0123456789")
    assert objects.read("a/b") == b"0123456789"
    assert objects.size_bytes("a/b") == 10
    assert objects.names("") == ["a"]
    assert objects.names("a") == ["b"]


def test_a_range_fills_the_buffer(objects: ObjectStore) -> None:
    objects.write("key", bytes(range(256)))
    buffer = bytearray(16)
    objects.read_into("key", 100, memoryview(buffer))
    assert buffer == bytes(range(100, 116))


def test_a_range_past_the_end_is_an_error(objects: ObjectStore) -> None:
    objects.write("key", bytes(100))
    with pytest.raises(StorageError):
        objects.read_into("key", 90, memoryview(bytearray(16)))


def test_what_is_absent_is_missing(objects: ObjectStore) -> None:
    assert objects.size_bytes("nothing") is None
    assert objects.names("nothing") == []
    objects.remove("nothing")
    with pytest.raises(Missing, match="nothing"):
        objects.read("nothing")
    with pytest.raises(Missing, match="nothing"):
        objects.read_into("nothing", 0, memoryview(bytearray(1)))


def test_what_appears_later_is_seen_although_it_was_looked_for_before(objects: ObjectStore) -> None:
    objects.write("a/one", b"1")
    assert objects.names("a") == ["one"]
    assert objects.size_bytes("a/two") is None
    objects.write("a/two", b"22")
    assert objects.size_bytes("a/two") == 2
    assert objects.names("a") == ["one", "two"]


def test_nothing_lies_below_an_object(objects: ObjectStore) -> None:
    objects.write("a", b"1")
    assert objects.names("a") == []
    assert objects.names("a/b") == []
    assert objects.size_bytes("a/b") is None


def test_facts_change_with_the_objects(objects: ObjectStore) -> None:
    objects.write("a/b", b"1")
    objects.write("a/c/d", b"22")
    first = objects.facts("a")
    assert {name: fact.size_bytes for name, fact in first.items()} == {"b": 1, "c/d": 2}
    assert list(objects.facts("a", recursive=False)) == ["b"]
    assert objects.facts("nothing") == {}
    now_s = time.time()
    assert all(fact.modified_s is not None and abs(fact.modified_s - now_s) < 60 for fact in first.values())
    objects.write("a/b", b"2")
    assert objects.facts("a")["b"].tag != first["b"].tag
    assert objects.facts("a")["c/d"] == first["c/d"]


def test_removing_takes_everything_below(objects: ObjectStore) -> None:
    objects.write("a/b/c", b"1")
    objects.write("a/d", b"1")
    objects.remove("a")
    assert objects.names("") == []


@pytest.mark.parametrize("length", [10, 20 << 20], ids=["small", "multipart"])
def test_an_interrupted_writer_leaves_nothing(objects: ObjectStore, length: int) -> None:
    def interrupted() -> None:
        with objects.writer("a/key") as append:
            append(bytes(length))
            append(bytes(length))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert objects.size_bytes("a/key") is None
    assert objects.names("a") == []


def test_a_large_object_is_written_in_parts(objects: ObjectStore) -> None:
    piece = bytes(range(256)) * (9 << 12)
    with objects.writer("key") as append:
        for _ in range(4):
            append(memoryview(piece))
    assert objects.size_bytes("key") == 4 * len(piece)
    buffer = bytearray(256)
    objects.read_into("key", 3 * len(piece), memoryview(buffer))
    assert buffer == piece[:256]


def test_sweeping_removes_what_a_killed_writer_left(tmp_path: Path) -> None:
    objects = ObjectStore(str(tmp_path))
    objects.write("a/unit/c/0", b"whole")
    (tmp_path / "a/unit/c/0.1234.partial").write_bytes(b"half")
    (tmp_path / "b").mkdir()
    (tmp_path / "b/0.1234.partial").write_bytes(b"someone else's")
    objects.sweep("a")
    assert objects.names("a/unit/c") == ["0"]
    assert objects.names("b") == ["0.1234.partial"]


def test_sweeping_spares_what_is_being_written(tmp_path: Path) -> None:
    """Two publishers of one model: the first to finish once swept away what the second was writing."""
    objects = ObjectStore(str(tmp_path))
    with objects.writer("a/key") as append:
        append(b"half")
        objects.sweep("a")
        assert objects.abandoned("a") == []
        append(b"whole")
    assert objects.read("a/key") == b"halfwhole"


def test_a_full_disk_is_named_so() -> None:
    """/dev/full takes an open, and fails the first write that reaches it."""
    objects = ObjectStore("/dev")
    with pytest.raises(OutOfSpace, match="full"):
        objects._guard("full", lambda: Path("/dev/full").write_bytes(b"x"))


def test_wrong_credentials_are_named_so(s3_server: S3Server) -> None:
    url = s3_server.bucket("guarded")
    objects = ObjectStore(url, s3_server.options | {"secret": "wrong"})
    with pytest.raises(StoreUnavailable, match="credentials"):
        objects.read("key")


def test_an_unreachable_store_is_named_so(s3_server: S3Server) -> None:
    options = s3_server.options | {
        "endpoint_url": "http://127.0.0.1:9",
        "config_kwargs": {"connect_timeout": 1, "retries": {"max_attempts": 0}},
    }
    with pytest.raises(StoreUnavailable):
        ObjectStore("s3://nowhere", options).read("key")


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(StorageError, match="nosuch"):
        ObjectStore("nosuch://bucket")


def test_only_models_with_root_metadata_are_listed(objects: ObjectStore) -> None:
    for key in ("plain/zarr.json", "plain/_1/zarr.json", "org/inner/zarr.json", "org/inner/_1/zarr.json"):
        objects.write(key, b"{}")
    objects.write("unfinished/_1/zarr.json", b"{}")
    objects.write("plain/below/zarr.json", b"{}")
    assert ModelStore(objects).list() == ["org/inner", "plain", "plain/below"]


def test_an_unknown_model_is_missing_and_a_damaged_one_corrupt(objects: ObjectStore) -> None:
    store = ModelStore(objects)
    with pytest.raises(Missing, match="no model 'nobody'"):
        store.open("nobody")
    objects.write("broken/zarr.json", b'{"attributes": {}')
    with pytest.raises(Corrupt, match="broken"):
        store.open("broken")


@pytest.mark.parametrize(
    "name", ["", "../x", "/x", "a/b/c", "_1", "a/_1", "a b", "zarr.json", "a/zarr.json", "a" * 201]
)
def test_a_name_that_is_no_name_is_refused(store: ModelStore, name: str) -> None:
    with pytest.raises(StorageError, match="will not do"):
        store.open(name)
