"""One contract, one suite: every tier that units are read from, and every wrapper."""

import itertools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from storage_tiers.checkpoint import Checkpoint, UnitIndex
from storage_tiers.errors import Corrupt, Missing, StorageError, StoreUnavailable
from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore
from storage_tiers.pace import Pace
from storage_tiers.publishing.publish import publish
from storage_tiers.tiers.dram import DramTier
from storage_tiers.tiers.peer import PeerServer, PeerTier
from storage_tiers.tiers.remote import RemoteTier
from storage_tiers.tiers.ssd import SsdTier
from storage_tiers.tiers.tier import Tier, Views
from storage_tiers.tiers.wrappers import Faulty, Throttled
from tests.s3_server import S3Server
from tests.tiny import make_tiny

KINDS = (
    "ssd", "ssd-bounce", "ssd-buffered", "remote-folder", "remote-s3-fsspec", "remote-s3-direct",
    "peer-dram", "peer-ssd", "throttled", "faulty",
)  # fmt: skip
SECRET = "known to both"
_buckets = itertools.count()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny("llama", tmp_path_factory.mktemp("model") / "source", seed=13)


@pytest.fixture(scope="module")
def published(source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelStore, Checkpoint]:
    store = ModelStore(ObjectStore(str(tmp_path_factory.mktemp("store"))))
    return store, publish(str(source), "tiny", store)


def aligned(size_bytes: int) -> memoryview:
    """Memory as dram gives it: at a multiple of 4 KiB."""
    raw = np.zeros(size_bytes + 4096, np.uint8)
    start = -raw.ctypes.data % 4096
    return memoryview(raw)[start : start + size_bytes]


def stored(published: tuple[ModelStore, Checkpoint], unit: UnitIndex) -> bytes:
    store, _ = published
    buffer = bytearray(unit.size_bytes)
    store.objects.read_into(store.unit_key("tiny", unit), 0, memoryview(buffer))
    return bytes(buffer)


class Made:
    """A tier that holds every unit, and how to take one away or shorten it below the tier."""

    def __init__(self, tier: Tier, path_of: Callable[[UnitIndex], Path] | None, close: Callable[[], None]) -> None:
        self.tier, self.path_of, self.close = tier, path_of, close


def full_ssd(folder: Path, published: tuple[ModelStore, Checkpoint]) -> SsdTier:
    ssd = SsdTier(folder, 1 << 30)
    for unit in published[1].units:
        memory = aligned(unit.size_bytes)
        memory[:] = stored(published, unit)
        ssd.write(unit.digest, [memory])
    return ssd


def full_dram(published: tuple[ModelStore, Checkpoint]) -> DramTier:
    dram = DramTier(32 << 20)
    for unit in published[1].units:
        segment = dram.reserve(unit.digest, unit.size_bytes)
        data, at = stored(published, unit), 0
        for view in segment.views():
            view[:] = data[at : at + len(view)]
            at += len(view)
        dram.commit(unit.digest)
        dram.release(unit.digest)
    return dram


def make(
    kind: str, folder: Path, published: tuple[ModelStore, Checkpoint], source: Path, request: pytest.FixtureRequest
) -> Made:
    nothing: Callable[[], None] = lambda: None  # noqa: E731
    if kind.startswith("ssd"):
        ssd = full_ssd(folder, published)
        if kind == "ssd-bounce":
            ssd = SsdTier(folder, 1 << 30, bounce=True)
        if kind == "ssd-buffered":
            ssd._direct = 0
        return Made(ssd, lambda unit: folder / unit.digest, nothing)
    if kind.startswith("remote-s3"):
        server: S3Server = request.getfixturevalue("s3_server")
        url = server.bucket(f"tiers-{next(_buckets)}")
        store = ModelStore(ObjectStore(url, server.options, reader=kind.rsplit("-", 1)[1]))
        publish(str(source), "tiny", store)
        bucket = server.folder / url.removeprefix("s3://")
        return Made(RemoteTier(store), lambda unit: bucket / store.unit_key("tiny", unit), nothing)
    if kind.startswith("peer"):
        dram = full_dram(published) if kind == "peer-dram" else DramTier(1 << 20)
        ssd = full_ssd(folder, published) if kind == "peer-ssd" else SsdTier(folder, 1 << 20)
        server_side = PeerServer(dram, ssd, "127.0.0.1", SECRET)
        peer = PeerTier("other", "127.0.0.1", server_side.port, SECRET)

        def close() -> None:
            peer.close()
            server_side.close()
            dram.close()

        return Made(peer, (lambda unit: folder / unit.digest) if kind == "peer-ssd" else None, close)
    store = ModelStore(ObjectStore(str(folder / "store")))
    publish(str(source), "tiny", store)
    remote: Tier = RemoteTier(store)
    if kind == "throttled":
        remote = Throttled(remote, 1e9)
    elif kind == "faulty":
        remote = Faulty(remote, lambda _unit, _offset, _views: None)
    return Made(remote, lambda unit: folder / "store" / store.unit_key("tiny", unit), nothing)


@pytest.fixture(params=KINDS)
def made(
    request: pytest.FixtureRequest, tmp_path: Path, published: tuple[ModelStore, Checkpoint], source: Path
) -> Iterator[Made]:
    tier = make(request.param, tmp_path, published, source, request)
    yield tier
    tier.close()


def test_a_whole_unit_reads_as_it_was_published(made: Made, published: tuple[ModelStore, Checkpoint]) -> None:
    for unit in published[1].units:
        assert made.tier.holds(unit)
        memory = aligned(unit.size_bytes)
        made.tier.read("tiny", unit, 0, [memory])
        assert bytes(memory) == stored(published, unit)


def test_a_range_fills_several_views_in_a_row(made: Made, published: tuple[ModelStore, Checkpoint]) -> None:
    unit = published[1].unit("layer.0002")
    memory = aligned(5 * 4096)
    made.tier.read("tiny", unit, 8192, [memory[:4096], memory[4096:12288], memory[12288:]])
    assert bytes(memory) == stored(published, unit)[8192 : 8192 + 5 * 4096]


def test_a_unit_that_is_gone_is_missing(made: Made, published: tuple[ModelStore, Checkpoint]) -> None:
    if made.path_of is None:
        pytest.skip("units in a peer's dram are dropped by the peer; see the peer's own test")
    unit = published[1].unit("layer.0001")
    made.path_of(unit).unlink()
    with pytest.raises((Missing, StoreUnavailable)):
        made.tier.read("tiny", unit, 0, [aligned(unit.size_bytes)])


def test_a_unit_that_is_too_short_is_an_error_and_never_zeros(
    made: Made, published: tuple[ModelStore, Checkpoint]
) -> None:
    if made.path_of is None:
        pytest.skip("units in dram have no file that could be cut")
    unit = published[1].unit("layer.0001")
    path = made.path_of(unit)
    with path.open("r+b") as file:
        file.truncate(4096)
    with pytest.raises((Corrupt, StoreUnavailable)):
        made.tier.read("tiny", unit, 0, [aligned(unit.size_bytes)])


def test_discarding_is_harmless_or_drops_the_unit(made: Made, published: tuple[ModelStore, Checkpoint]) -> None:
    unit = published[1].unit("embed")
    made.tier.discard(unit)
    if made.tier.name == "ssd":
        assert not made.tier.holds(unit)
    else:
        made.tier.read("tiny", unit, 0, [aligned(unit.size_bytes)])


def test_a_peer_that_dropped_a_unit_says_so_and_goes_on(
    published: tuple[ModelStore, Checkpoint], tmp_path: Path
) -> None:
    dram = full_dram(published)
    server = PeerServer(dram, SsdTier(tmp_path, 1 << 20), "127.0.0.1", SECRET)
    one, other = published[1].unit("layer.0000"), published[1].unit("layer.0003")
    peer = PeerTier("other", "127.0.0.1", server.port, SECRET)
    try:
        assert dram.drop(one.digest)
        with pytest.raises(Missing):
            peer.read("tiny", one, 0, [aligned(one.size_bytes)])
        memory = aligned(other.size_bytes)
        peer.read("tiny", other, 0, [memory])
        assert bytes(memory) == stored(published, other)
    finally:
        peer.close()
        server.close()
        dram.close()


def test_a_peer_serves_nobody_without_the_secret(published: tuple[ModelStore, Checkpoint], tmp_path: Path) -> None:
    dram = full_dram(published)
    server = PeerServer(dram, SsdTier(tmp_path, 1 << 20), "127.0.0.1", SECRET)
    unit = published[1].unit("embed")
    stranger = PeerTier("other", "127.0.0.1", server.port, "a gueß")
    try:
        with pytest.raises(StoreUnavailable):
            stranger.read("tiny", unit, 0, [aligned(unit.size_bytes)])
    finally:
        stranger.close()
        server.close()
        dram.close()


def test_a_peer_that_is_not_there_is_unavailable(published: tuple[ModelStore, Checkpoint]) -> None:
    unit = published[1].unit("embed")
    peer = PeerTier("other", "127.0.0.1", 9, SECRET)
    with pytest.raises(StoreUnavailable, match=r"peer other at 127\.0\.0\.1:9 failed for unit embed.*refused"):
        peer.read("tiny", unit, 0, [aligned(unit.size_bytes)])


def test_faults_reach_the_reader(published: tuple[ModelStore, Checkpoint]) -> None:
    def flip(_unit: UnitIndex, _offset: int, views: Views) -> None:
        views[0][10] ^= 1

    unit = published[1].unit("embed")
    memory = aligned(unit.size_bytes)
    Faulty(RemoteTier(published[0]), flip).read("tiny", unit, 0, [memory])
    assert bytes(memory) != stored(published, unit)


def test_wrong_credentials_are_named(s3_server: S3Server, source: Path) -> None:
    url = s3_server.bucket(f"tiers-{next(_buckets)}")
    checkpoint = publish(str(source), "tiny", ModelStore(ObjectStore(url, s3_server.options)))
    for reader in ("fsspec", "direct"):
        wrong = ModelStore(ObjectStore(url, {**s3_server.options, "secret": "wrong"}, reader=reader))
        with pytest.raises(StorageError, match=r"(?i)credentials|signature|forbidden|403|denied"):
            RemoteTier(wrong).read("tiny", checkpoint.units[0], 0, [aligned(checkpoint.units[0].size_bytes)])


def test_store_and_peers_of_a_node_share_its_pace(published: tuple[ModelStore, Checkpoint], tmp_path: Path) -> None:
    store, checkpoint = published
    unit = checkpoint.units[0]
    pace = Pace(unit.size_bytes / 0.1)
    dram, memory = full_dram(published), aligned(unit.size_bytes)
    server = PeerServer(dram, SsdTier(tmp_path, 1 << 20), "127.0.0.1", SECRET)
    peer = PeerTier("other", "127.0.0.1", server.port, SECRET, pace=pace)
    remote = RemoteTier(ModelStore(ObjectStore(store.objects.url), pace))
    began_s = time.monotonic()
    try:
        with ThreadPoolExecutor(2) as pool:
            for read in [
                pool.submit(tier.read, "tiny", unit, 0, [memory if tier is peer else aligned(unit.size_bytes)])
                for tier in (remote, peer)
            ]:
                read.result(20)
    finally:
        peer.close()
        server.close()
        dram.close()
    assert time.monotonic() - began_s >= 0.2
    assert bytes(memory) == stored(published, unit)
