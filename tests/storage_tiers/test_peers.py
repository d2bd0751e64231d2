"""Units from other nodes: real servers that help, vanish, refuse, stall or send what is wrong."""

import errno
import gc
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import msgpack
import pytest

from storage_tiers.errors import StoreUnavailable
from storage_tiers.model_store import ModelStore
from storage_tiers.strangers import MOST_STRANGERS
from storage_tiers.tiers import peer as peer_module
from storage_tiers.tiers.dram import DramTier
from storage_tiers.tiers.peer import REST_S, PeerServer, PeerTier
from storage_tiers.tiers.ssd import SsdTier
from storage_tiers.tiers.tier import total_bytes
from tests.storage_tiers.bad_network import Relay, proxy, pump, reset
from tests.storage_tiers.handmade import CHUNK_BYTES, aligned, bytes_of, open_descriptors, unit_of
from tests.storage_tiers.stack_node import CHUNKS, UNIT_BYTES, WAIT_S, Node, Units, running

SECRET = "known to both"
SILENCE_S = 0.3
BIG_BYTES = 4096 * CHUNK_BYTES


class Other:
    """Another node: what it holds, and the server that gives it out."""

    def __init__(self, folder: Path, dram_bytes: int = 64 * CHUNK_BYTES) -> None:
        self.dram, self.ssd = DramTier(dram_bytes), SsdTier(folder, 1 << 30)
        self.server = PeerServer(self.dram, self.ssd, "127.0.0.1", SECRET)
        self._tiers: list[PeerTier] = []

    def put(self, digest: str, data: bytes) -> None:
        """Have `data` in dram under a digest, right or wrong."""
        segment, at = self.dram.reserve(digest, len(data)), 0
        for view in segment.views():
            view[:] = data[at : at + len(view)]
            at += len(view)
        self.dram.commit(digest)
        self.dram.release(digest)

    def tier(self, port: int | None = None, name: str = "other", secret: str = SECRET) -> PeerTier:
        """How the node under test sees this one, perhaps at another port."""
        tier = PeerTier(name, "127.0.0.1", port or self.server.port, secret, SILENCE_S)
        self._tiers.append(tier)
        return tier

    def close(self) -> None:
        for tier in self._tiers:
            tier.close()
        self.server.close()
        self.dram.close()


@pytest.fixture
def other(tmp_path: Path, units: Units) -> Iterator[Other]:
    """Holds every unit in dram."""
    found = Other(tmp_path / "other")
    for unit, data in units:
        found.put(unit.digest, data)
    yield found
    found.close()


@pytest.fixture
def node(store: ModelStore, tmp_path: Path, units: Units) -> Iterator[Node]:
    with running(Node(store, tmp_path / "ssd")) as found:
        yield found


def relayed(stack: ExitStack, other: Other, relay: Relay) -> int:
    """The port of a proxy in front of the other node."""
    url = stack.enter_context(proxy(f"http://127.0.0.1:{other.server.port}", relay))
    return int(url.rpartition(":")[2])


# ---- peers that help


def test_units_come_from_a_peers_dram_and_the_store_is_left_alone(node: Node, other: Other, units: Units) -> None:
    peer = other.tier()
    for unit, data in units:
        loaded = node.get(unit, peer)
        assert (loaded.source, bytes(loaded.segment.view)) == ("peer other", data)
    assert node.remote.reads == []


def test_units_come_from_a_peers_ssd(node: Node, tmp_path: Path, units: Units) -> None:
    other = Other(tmp_path / "other")
    try:
        unit, data = units[0]
        other.ssd.write(unit.digest, [aligned(UNIT_BYTES, data)])
        loaded = node.get(unit, other.tier())
        assert (loaded.source, bytes(loaded.segment.view), node.remote.reads) == ("peer other", data, [])
    finally:
        other.close()


def test_what_came_from_a_peer_is_kept_on_ssd(node: Node, other: Other, units: Units) -> None:
    unit, _ = units[0]
    node.settle(node.get(unit, other.tier()))
    assert node.ssd.holds(unit)


def test_ssd_is_asked_before_any_peer(store: ModelStore, tmp_path: Path, other: Other, units: Units) -> None:
    with running(Node(store, tmp_path / "ssd")) as first:
        first.settle(first.get(units[0][0]))
    with running(Node(store, tmp_path / "ssd")) as restarted:
        assert restarted.get(units[0][0], other.tier()).source == "ssd"


def test_peers_are_asked_in_the_order_given(node: Node, other: Other, tmp_path: Path, units: Units) -> None:
    asked: list[str] = []

    def note(name: str) -> Relay:
        return lambda number, server, client: (asked.append(name), pump(number, server, client))[1]

    with ExitStack() as stack:
        peers = [other.tier(relayed(stack, other, note(name)), name) for name in ("first", "second")]
        assert node.get(units[0][0], *peers).source == "peer first"
        assert node.get(units[1][0], *reversed(peers)).source == "peer second"
    assert set(asked) == {"first", "second"}


def test_a_peer_that_has_dropped_a_unit_is_asked_for_others(node: Node, other: Other, units: Units) -> None:
    peer = other.tier()
    assert other.dram.drop(units[0][0].digest)
    assert node.get(units[0][0], peer).source == "remote"
    assert node.get(units[1][0], peer).source == "peer other"


# ---- peers that do not


def closed_port(_stack: ExitStack, other: Other) -> PeerTier:
    other.server.close()
    return other.tier()


def wrong_secret(_stack: ExitStack, other: Other) -> PeerTier:
    return other.tier(secret="a guess")


def cut(stack: ExitStack, other: Other) -> PeerTier:
    """The network resets connections in the middle of a chunk."""

    def relay(_number: int, server: socket.socket, client: socket.socket) -> None:
        client.sendall(server.recv(CHUNK_BYTES // 2))
        reset(client)

    return other.tier(relayed(stack, other, relay))


def vanishing(stack: ExitStack, other: Other) -> PeerTier:
    """The server ends in the middle of a chunk."""

    def relay(_number: int, server: socket.socket, client: socket.socket) -> None:
        client.sendall(server.recv(CHUNK_BYTES // 2))
        other.server.close()
        client.shutdown(socket.SHUT_RDWR)

    return other.tier(relayed(stack, other, relay))


def silent(stack: ExitStack, other: Other) -> PeerTier:
    """Connections are taken, and nothing is ever said."""
    return other.tier(relayed(stack, other, lambda _number, _server, _client: None))


def stalling(stack: ExitStack, other: Other) -> PeerTier:
    """Half a chunk comes, then nothing."""
    return other.tier(
        relayed(stack, other, lambda _number, server, client: client.sendall(server.recv(CHUNK_BYTES // 2)))
    )


def dripping(stack: ExitStack, other: Other) -> PeerTier:
    """A byte comes now and then, so that there is never silence."""

    def relay(_number: int, server: socket.socket, client: socket.socket) -> None:
        while data := server.recv(1):
            client.sendall(data)
            threading.Event().wait(SILENCE_S / 10)

    return other.tier(relayed(stack, other, relay))


def changing(stack: ExitStack, other: Other) -> PeerTier:
    """Bytes change on the way."""

    def relay(_number: int, server: socket.socket, client: socket.socket) -> None:
        client.sendall(server.recv(1))
        while data := bytearray(server.recv(CHUNK_BYTES)):
            data[0] ^= 1
            client.sendall(data)

    return other.tier(relayed(stack, other, relay))


BAD: tuple[Callable[[ExitStack, Other], PeerTier], ...] = (
    closed_port, wrong_secret, cut, vanishing, silent, stalling, dripping, changing,
)  # fmt: skip


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.__name__)
def test_a_bad_peer_costs_a_read_elsewhere_and_is_then_left_alone(
    bad: Callable[[ExitStack, Other], PeerTier], node: Node, other: Other, units: Units
) -> None:
    with ExitStack() as stack:
        peer = bad(stack, other)
        loads = [node.load(unit, peers=[peer]) for unit, _ in units[:4]]
        for load, (_, data) in zip(loads, units, strict=False):
            assert bytes(load.result(WAIT_S).segment.view) == data
        assert set(node.remote.reads) == {(f"unit{i}", chunk) for i in range(4) for chunk in range(CHUNKS)}
        assert not peer.holds(units[4][0])
        assert node.get(units[4][0], peer).source == "remote"
        assert peer.name not in [load.result().source for load in loads]


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.__name__)
def test_when_one_peer_is_bad_the_next_takes_over_and_the_store_is_left_alone(
    bad: Callable[[ExitStack, Other], PeerTier], node: Node, other: Other, tmp_path: Path, units: Units
) -> None:
    helper = Other(tmp_path / "helper")
    with ExitStack() as stack:
        stack.callback(helper.close)
        for unit, data in units:
            helper.put(unit.digest, data)
        peers = [bad(stack, other), helper.tier(name="helper")]
        for unit, data in units:
            loaded = node.get(unit, *peers)
            assert (loaded.source, bytes(loaded.segment.view)) == ("peer helper", data)
    assert node.remote.reads == []


def test_a_peer_whose_memory_is_wrong_is_never_believed(node: Node, other: Other, units: Units) -> None:
    """One chunk of three is damaged where it lies."""
    unit, data = units[0]
    assert other.dram.drop(unit.digest)
    other.put(unit.digest, data[: 2 * CHUNK_BYTES] + bytes(CHUNK_BYTES))
    loaded = node.get(unit, other.tier())
    assert bytes(loaded.segment.view) == data
    assert ("unit0", 2) in node.remote.reads
    assert "remote" in loaded.source


def test_all_sources_of_a_unit_are_named(store: ModelStore, tmp_path: Path, other: Other, units: Units) -> None:
    with running(Node(store, tmp_path / "ssd", threads=1)) as node, ExitStack() as stack:

        def relay(_number: int, server: socket.socket, client: socket.socket) -> None:
            for _ in range(CHUNK_BYTES + 1):
                client.sendall(server.recv(1))
            server.recv(1)  # the answer to the next request: the first chunk has been taken
            reset(client)

        loaded = node.get(units[0][0], other.tier(relayed(stack, other, relay)))
        assert loaded.source == "peer other and remote"
        assert node.remote.reads == [("unit0", 1), ("unit0", 2)]


def test_a_peer_that_failed_is_asked_again_after_a_rest(units: Units) -> None:
    now_s = 0.0
    peer = PeerTier("other", "127.0.0.1", 9, SECRET, SILENCE_S, clock=lambda: now_s)
    with pytest.raises(StoreUnavailable):
        peer.read("model", units[0][0], 0, [aligned(UNIT_BYTES)])
    assert not peer.holds(units[0][0])
    now_s = REST_S - 1
    assert not peer.holds(units[0][0])
    now_s = REST_S
    assert peer.holds(units[0][0])


def test_a_connection_that_waited_too_long_is_made_anew(other: Other, units: Units) -> None:
    """The server may have given it up: its end would look like the peer's."""
    now_s = 0.0
    peer = PeerTier("other", "127.0.0.1", other.server.port, SECRET, SILENCE_S, clock=lambda: now_s)
    unit, data = units[0]
    try:
        peer.read("model", unit, 0, [aligned(UNIT_BYTES)])
        (_, waiting), *_ = peer._pool
        waiting.shutdown(socket.SHUT_RDWR)
        now_s = 3600.0
        memory = aligned(UNIT_BYTES)
        peer.read("model", unit, 0, [memory])
        assert bytes(memory) == data
    finally:
        peer.close()


# ---- readers that harm the server


def request(secret: object, digest: object, offset_bytes: object, size_bytes: object) -> bytes:
    body = msgpack.packb([secret, digest, offset_bytes, size_bytes])
    return struct.pack(">I", len(body)) + body


def connect(other: Other) -> socket.socket:
    return socket.create_connection(("127.0.0.1", other.server.port), WAIT_S)


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff\xff\xff\xff",
        b"\0\0\0\1\xc1",
        b"\0\0\0\1\xc0",
        struct.pack(">I", 20) + b"\x94",
        request("a gueß", "digest", 0, 1),
        request(b"bytes", "digest", 0, 1),
        request(None, None, None, None),
        request(SECRET, "unit", -1, 4096),
        request(SECRET, "unit", 0, -1),
        request(SECRET, "unit", 0, UNIT_BYTES + 1),
        request(SECRET, "unit", 1 << 63, 1 << 63),
    ],
    ids=repr,
)
def test_who_says_what_it_should_not_is_cut_off_and_others_are_served(said: bytes, other: Other, units: Units) -> None:
    other.put("unit", bytes(UNIT_BYTES))
    with connect(other) as connection:
        connection.sendall(said)
        with suppress(OSError):  # we have been cut off already
            connection.shutdown(socket.SHUT_WR)
        with suppress(ConnectionResetError):  # they did not hear us out
            assert connection.recv(1) in (b"", b"\1")
    memory = aligned(UNIT_BYTES)
    other.tier().read("model", units[0][0], 0, [memory])
    assert bytes(memory) == units[0][1]
    assert other.dram.drop("unit"), "the unit is still pinned"


def test_a_reader_that_takes_nothing_does_not_hold_a_unit_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its unit could never be evicted."""
    monkeypatch.setattr(peer_module, "_STUCK_S", 1)
    other = Other(tmp_path / "other", dram_bytes=BIG_BYTES)
    other.put("big", bytes(BIG_BYTES))
    try:
        with connect(other) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.sendall(request(SECRET, "big", 0, BIG_BYTES))
            assert connection.recv(1) == b"\0"
            assert other.dram.pins("big") == 1
            for _ in range(600):
                if other.dram.drop("big"):
                    return
                threading.Event().wait(0.05)
            raise AssertionError("the unit is still pinned")
    finally:
        other.close()


def test_more_readers_than_may_be_at_once_are_refused(other: Other, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_module, "MAX_CONNECTIONS", 2)
    with connect(other) as one, connect(other) as two:
        for served in (one, two):
            served.sendall(request(SECRET, "nothing", 0, 1))
            assert served.recv(1) == b"\1"
        with connect(other) as three:
            three.sendall(request(SECRET, "nothing", 0, 1))
            assert three.recv(1) == b""


def test_strangers_keep_no_reader_out(other: Other, units: Units, caplog: pytest.LogCaptureFixture) -> None:
    """64 connections that said nothing were all there could be, for as long as they cared to open new ones. Now the oldest
    stranger goes when too many wait, all go in seconds, and the log says so once, with nothing that they said."""
    with ExitStack() as stack:
        strangers = [stack.enter_context(connect(other)) for _ in range(2 * MOST_STRANGERS)]
        for stranger in strangers:
            with suppress(OSError):  # it has been turned away already
                stranger.sendall(struct.pack(">I", 4096) + b"half a secret")
        memory = aligned(UNIT_BYTES)
        other.tier().read("model", units[0][0], 0, [memory])
        assert bytes(memory) == units[0][1]
        for stranger in strangers:
            with suppress(ConnectionResetError):
                assert stranger.recv(1) == b""
    assert len([record for record in caplog.records if "was refused" in record.message]) == 1
    assert "half a secret" not in caplog.text


def test_a_stranger_that_speaks_slowly_is_cut_off_all_the_same(other: Other, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then held a thread for hours."""
    monkeypatch.setattr(peer_module, "INTRODUCE_WITHIN_S", 0.2)
    with connect(other) as stranger:
        stranger.sendall(struct.pack(">I", 4096))
        for _ in range(600):
            try:
                stranger.sendall(b"x")
            except OSError:
                return
            threading.Event().wait(0.05)
        raise AssertionError("it is still listened to")


def test_a_server_that_ran_out_of_descriptors_goes_on(other: Other, monkeypatch: pytest.MonkeyPatch) -> None:
    """It never accepted anybody again."""
    accept, failures = socket.socket.accept, [OSError(24, "Too many open files")]

    def failing(listener: socket.socket) -> tuple[socket.socket, object]:
        connection, address = accept(listener)
        if failures:
            connection.close()
            raise failures.pop()
        return connection, address

    monkeypatch.setattr(socket.socket, "accept", failing)
    with connect(other) as first, connect(other) as second, connect(other) as third:
        second.sendall(request(SECRET, "nothing", 0, 1))
        third.sendall(request(SECRET, "nothing", 0, 1))
        assert third.recv(1) == b"\1"
        assert not failures
        first.close()


def test_a_server_that_can_start_no_thread_goes_on(other: Other, monkeypatch: pytest.MonkeyPatch) -> None:
    """It never accepted anybody again, and kept the connection open."""
    start, failures = threading.Thread.start, [RuntimeError("can't start new thread")]

    def failing(thread: threading.Thread) -> None:
        if thread.name == "peer" and failures:
            raise failures.pop()
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", failing)
    with connect(other) as first, connect(other) as second:
        assert first.recv(1) == b""
        second.sendall(request(SECRET, "nothing", 0, 1))
        assert second.recv(1) == b"\1"
        assert not failures


def test_a_node_that_is_out_of_descriptors_does_not_blame_its_peers(
    node: Node, other: Other, units: Units, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were left alone for half a minute, and the store had to give all."""

    def refuse(*_arguments: object, **_options: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    peer = other.tier()
    with monkeypatch.context() as patched:
        patched.setattr(socket, "create_connection", refuse)
        assert node.get(units[0][0], peer).source == "remote"
    assert peer.holds(units[1][0])
    assert node.get(units[1][0], peer).source == "peer other"


def test_closing_ends_connections_threads_and_descriptors(tmp_path: Path) -> None:
    def live() -> None:
        other = Other(tmp_path / "other")
        data = bytes_of(1, UNIT_BYTES)
        unit = unit_of("unit", data)
        other.put(unit.digest, data)
        memory = aligned(UNIT_BYTES)
        other.tier().read("model", unit, 0, [memory])
        assert total_bytes([memory]) == UNIT_BYTES
        with connect(other):
            other.close()

    gc.collect()
    before = open_descriptors(), threading.active_count()
    for _ in range(5):
        live()
    gc.collect()
    descriptors, threads = before  # of whoever was here before, some may have ended meanwhile
    assert open_descriptors() <= descriptors
    assert threading.active_count() <= threads
