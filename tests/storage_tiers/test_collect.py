"""What goes from the store and what stays, the same for a folder and for S3."""

import fcntl
import os
import time
from pathlib import Path

import pytest

from storage_tiers.checkpoint import ROOT
from storage_tiers.errors import Missing
from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore
from storage_tiers.publishing.collect import collect, remove_model
from storage_tiers.publishing.publish import publish
from storage_tiers.publishing.verify import verify
from tests.tiny import make_tiny

_LATER_S = 10_000.0
_GRACE_S = 3600.0


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny("llama", tmp_path_factory.mktemp("source"), num_hidden_layers=1)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny("llama", tmp_path_factory.mktemp("other"), num_hidden_layers=1, seed=1)


def _collect(store: ModelStore, later_s: float = _LATER_S, *, dry_run: bool = False) -> list[str]:
    found = collect(store, now_s=time.time() + later_s, age_s=_GRACE_S, dry_run=dry_run)
    return [garbage.key for garbage in found]


def _is_gone(store: ModelStore, key: str) -> bool:
    return store.objects.facts(key) == {}


def test_a_removed_model_leaves_nothing(source: Path, objects: ObjectStore) -> None:
    store = ModelStore(objects)
    publish(str(source), "org/model", store)
    remove_model(store, "org/model")
    assert store.list() == []
    assert objects.names("") == []


def test_removing_spares_models_below_and_beside(source: Path, objects: ObjectStore) -> None:
    store = ModelStore(objects)
    for name in ("model", "model/inner", "model2", "other/model"):
        publish(str(source), name, store)
    remove_model(store, "model")
    assert store.list() == ["model/inner", "model2", "other/model"]
    assert verify(store, "model/inner").damages == ()


def test_a_model_that_is_not_there_cannot_be_removed(store: ModelStore) -> None:
    with pytest.raises(Missing, match="no model 'nobody'"):
        remove_model(store, "nobody")


def test_a_model_disappears_before_its_objects_do(source: Path, store: ModelStore) -> None:
    """Interrupted between the two it is gone for everybody, and the rest is garbage."""
    version = publish(str(source), "model", store).version
    store.objects.remove(f"model/{ROOT}")
    assert store.list() == []
    assert _collect(store) == [f"model/{version}"]
    assert _is_gone(store, "")


def test_an_old_version_goes_and_the_current_one_stays(source: Path, other: Path, objects: ObjectStore) -> None:
    store = ModelStore(objects)
    first = publish(str(source), "org/model", store)
    publish(str(other), "org/model", store)
    assert _collect(store) == [f"org/model/{first.version}"]
    assert _is_gone(store, f"org/model/{first.version}")
    assert verify(store, "org/model").damages == ()
    assert _collect(store) == []


def test_an_old_version_stays_for_the_grace_period(source: Path, other: Path, objects: ObjectStore) -> None:
    store = ModelStore(objects)
    publish(str(source), "model", store)
    publish(str(other), "model", store)
    assert _collect(store, later_s=_GRACE_S / 2) == []


def test_a_version_that_was_replaced_just_now_stays_however_old_it_is(
    source: Path, other: Path, store: ModelStore
) -> None:
    """A node that opened it before may still be loading it."""
    first = publish(str(source), "model", store)
    for path in Path(store.objects.path(f"model/{first.version}")).rglob("*"):
        os.utime(path, (0, 0))
    publish(str(other), "model", store)
    assert _collect(store, later_s=0) == []
    assert _collect(store) == [f"model/{first.version}"]


def test_a_version_that_is_being_published_stays(source: Path, store: ModelStore) -> None:
    """Also one that takes up what an interrupted run left long ago."""
    version = publish(str(source), "model", store).version
    store.objects.remove(f"model/{ROOT}")
    for path in Path(store.objects.path("model")).rglob("*"):
        os.utime(path, (0, 0))
    kept: list[list[str]] = []
    publish(str(source), "model", store, progress=lambda progress: kept.append(_collect(store, later_s=0)))
    assert kept
    assert not any(kept)
    assert verify(store, "model").checkpoint.version == version


def test_a_dry_run_removes_nothing(source: Path, other: Path, objects: ObjectStore) -> None:
    store = ModelStore(objects)
    first = publish(str(source), "model", store)
    publish(str(other), "model", store)
    assert _collect(store, dry_run=True) == [f"model/{first.version}"]
    assert not _is_gone(store, f"model/{first.version}")


def test_versions_of_a_model_that_cannot_be_read_stay(source: Path, store: ModelStore) -> None:
    publish(str(source), "model", store)
    store.objects.write(f"model/{ROOT}", b"{")
    assert _collect(store) == []


def test_what_is_no_version_stays(objects: ObjectStore) -> None:
    for key in ("README", "notes/about", "org/model/extra/thing"):
        objects.write(key, b"x")
    assert _collect(ModelStore(objects)) == []


def test_partial_files_go_unless_somebody_writes_them(source: Path, store: ModelStore) -> None:
    publish(str(source), "model", store)
    base = Path(store.objects.path("model"))
    for name in ("dead.partial", "alive.partial"):
        (base / name).write_bytes(b"half")
    with open(base / "alive.partial", "r+b") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        assert _collect(store, later_s=0) == []
        assert _collect(store) == ["model/dead.partial"]
    assert (base / "alive.partial").exists()
    assert not (base / "dead.partial").exists()
