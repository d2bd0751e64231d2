"""Stores to publish to: a folder, and a bucket on a real S3 server."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage_tiers import retries
from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore
from tests.s3_server import S3Server, run_s3_server
from tests.storage_tiers.handmade import store_units
from tests.storage_tiers.stack_node import CHUNKS, Gate, Node, Units, running

_bucket_numbers = itertools.count()


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(ObjectStore(str(tmp_path / "store")))


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with run_s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3_objects(s3_server: S3Server) -> ObjectStore:
    """An empty bucket of one's own."""
    return ObjectStore(s3_server.bucket(f"bucket-{next(_bucket_numbers)}"), s3_server.options)


@pytest.fixture(params=["folder", "s3"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    """An empty object store, of every kind."""
    if request.param == "folder":
        return ObjectStore(str(tmp_path / "objects"))
    found: ObjectStore = request.getfixturevalue("s3_objects")
    return found


@pytest.fixture
def no_long_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loads that fail are tried again at once."""
    monkeypatch.setattr(retries, "FIRST_BACKOFF_S", 0.001)


@pytest.fixture
def units(store: ModelStore, no_long_pauses: None) -> Units:
    """Six units in the store."""
    return store_units(store, 6, CHUNKS)


@pytest.fixture
def node(store: ModelStore, tmp_path: Path) -> Iterator[Node]:
    """A node with one worker, which has undone its own pin of a unit before it takes up the next job."""
    with running(Node(store, tmp_path / "ssd", threads=1)) as found:
        yield found


@pytest.fixture
def gate() -> Iterator[Gate]:
    found = Gate()
    yield found
    found.open()
