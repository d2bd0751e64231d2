"""Loads over networks that fail: recovered from, or a clear error in time, and never a wrong byte."""

import itertools
import socket
import threading
import time
from pathlib import Path

import pytest

from storage_tiers import s3
from storage_tiers.checkpoint import Checkpoint
from storage_tiers.errors import StoreUnavailable
from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore
from storage_tiers.publishing.publish import publish
from storage_tiers.tiers.dram import DramTier
from storage_tiers.tiers.ssd import SsdTier
from storage_tiers.tiers.stack import Priority, TierStack
from tests.s3_server import S3Server
from tests.storage_tiers.bad_network import proxy, pump, reset
from tests.tiny import make_tiny

_buckets = itertools.count()
READERS = ("fsspec", "direct")
DEADLINE_S = 90.0


@pytest.fixture
def published(s3_server: S3Server, tmp_path: Path) -> tuple[str, Checkpoint]:
    url = s3_server.bucket(f"bad-{next(_buckets)}")
    source = make_tiny("llama", tmp_path / "source", seed=17)
    return url, publish(str(source), "tiny", ModelStore(ObjectStore(url, s3_server.options)))


@pytest.fixture
def dram() -> DramTier:
    return DramTier(32 << 20)


def stack_over(url: str, endpoint: str, server: S3Server, reader: str, dram: DramTier, folder: Path) -> TierStack:
    store = ModelStore(ObjectStore(url, {**server.options, "endpoint_url": endpoint}, reader=reader))
    return TierStack(dram, SsdTier(folder, 1 << 30), store, 2, time.time)


def load_all(stack: TierStack, checkpoint: Checkpoint, server: S3Server, url: str, within_s: float = 0.0) -> None:
    """Every unit arrives, each byte as it lies in the bucket."""
    until_s = time.monotonic() + within_s
    futures = [stack.load("tiny", unit, Priority.COLD_START, until_s=until_s) for unit in checkpoint.units]
    for future in futures:
        loaded = future.result(DEADLINE_S)
        path = server.folder / url.removeprefix("s3://") / f"tiny/{loaded.unit.key}"
        assert bytes(loaded.segment.view) == path.read_bytes()[: loaded.unit.size_bytes]
        stack.give_up(future)


@pytest.mark.parametrize("reader", READERS)
def test_connections_that_are_reset_in_the_middle_are_made_again(
    reader: str, s3_server: S3Server, published: tuple[str, Checkpoint], dram: DramTier, tmp_path: Path
) -> None:
    url, checkpoint = published
    cut = 0

    def relay(number: int, server: socket.socket, client: socket.socket) -> None:
        nonlocal cut
        if number > 3:
            pump(number, server, client)
            return
        client.sendall(server.recv(3000))
        cut += 1
        reset(client)

    with proxy(s3_server.endpoint_url, relay) as endpoint:
        stack = stack_over(url, endpoint, s3_server, reader, dram, tmp_path / "ssd")
        try:
            load_all(stack, checkpoint, s3_server, url)
        finally:
            stack.close()
    assert cut == 3


@pytest.mark.parametrize("reader", READERS)
def test_a_slow_endpoint_is_slow_and_right(
    reader: str, s3_server: S3Server, published: tuple[str, Checkpoint], dram: DramTier, tmp_path: Path
) -> None:
    url, checkpoint = published

    def relay(_number: int, server: socket.socket, client: socket.socket) -> None:
        while data := server.recv(32768):
            threading.Event().wait(0.005)
            client.sendall(data)

    with proxy(s3_server.endpoint_url, relay) as endpoint:
        stack = stack_over(url, endpoint, s3_server, reader, dram, tmp_path / "ssd")
        try:
            load_all(stack, checkpoint, s3_server, url)
        finally:
            stack.close()


def test_an_endpoint_that_always_breaks_is_a_clear_error_and_leaves_nothing(
    s3_server: S3Server, published: tuple[str, Checkpoint], dram: DramTier, tmp_path: Path
) -> None:
    url, checkpoint = published
    with proxy(s3_server.endpoint_url, lambda _number, _server, client: reset(client)) as endpoint:
        stack = stack_over(url, endpoint, s3_server, "direct", dram, tmp_path / "ssd")
        try:
            future = stack.load("tiny", checkpoint.units[0], Priority.COLD_START)
            with pytest.raises(StoreUnavailable, match=r"tiny/.*embed"):
                future.result(DEADLINE_S)
            assert (dram.used_bytes, dram.held()) == (0, frozenset())
        finally:
            stack.close()


def test_an_endpoint_that_goes_silent_is_asked_again_soon(
    s3_server: S3Server,
    published: tuple[str, Checkpoint],
    dram: DramTier,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was waited for as long as a slow answer may take, each time."""
    url, checkpoint = published
    monkeypatch.setattr(s3, "SILENCE_S", 0.3)
    monkeypatch.setattr(s3, "REQUEST_S", 10 * DEADLINE_S)
    silent, over = 0, threading.Event()

    def relay(number: int, server: socket.socket, client: socket.socket) -> None:
        nonlocal silent
        if number > 2:
            pump(number, server, client)
            return
        client.sendall(server.recv(3000))
        silent += 1
        over.wait(2 * DEADLINE_S)

    with proxy(s3_server.endpoint_url, relay) as endpoint:
        stack = stack_over(url, endpoint, s3_server, "direct", dram, tmp_path / "ssd")
        try:
            load_all(stack, checkpoint, s3_server, url)
        finally:
            over.set()
            stack.close()
    assert silent == 2


def test_bytes_changed_on_the_way_are_fetched_again(
    s3_server: S3Server, published: tuple[str, Checkpoint], dram: DramTier, tmp_path: Path
) -> None:
    url, checkpoint = published
    changed = 0

    def relay(_number: int, server: socket.socket, client: socket.socket) -> None:
        nonlocal changed
        while data := bytearray(server.recv(65536)):
            if len(data) > 30_000 and changed < 2:
                data[20_000] ^= 0x10
                changed += 1
            client.sendall(data)

    with proxy(s3_server.endpoint_url, relay) as endpoint:
        stack = stack_over(url, endpoint, s3_server, "direct", dram, tmp_path / "ssd")
        try:
            load_all(stack, checkpoint, s3_server, url)
        finally:
            stack.close()
    assert changed


def answer(status: str, code: str, *headers: str) -> bytes:
    body = f"<Error><Code>{code}</Code><Message>wait</Message></Error>"
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/xml", f"Content-Length: {len(body)}", "Connection: close"]
    return "\r\n".join([*lines, *headers, "", body]).encode()


TROUBLE = {
    "slow down": answer("503 Slow Down", "SlowDown"),
    "in a second": answer("503 Slow Down", "SlowDown", "Retry-After: 1"),
    "too many": answer("429 Too Many Requests", "TooManyRequests"),
    "broken": answer("500 Internal Server Error", "InternalError"),
    "reset": None,
}


@pytest.mark.parametrize(
    ("reader", "trouble"),
    [*(("direct", trouble) for trouble in TROUBLE), ("fsspec", "slow down"), ("fsspec", "too many")],
)
def test_a_store_in_trouble_is_waited_for_as_long_as_there_is_time(
    reader: str, trouble: str, s3_server: S3Server, published: tuple[str, Checkpoint], dram: DramTier, tmp_path: Path
) -> None:
    """Three seconds of SlowDown ended a start: four tries took a third of one."""
    url, checkpoint = published
    refused: list[float] = []

    def relay(number: int, server: socket.socket, client: socket.socket) -> None:
        if refused and time.monotonic() > refused[0] + 1.2:
            pump(number, server, client)
            return
        refused.append(time.monotonic())
        said = TROUBLE[trouble]
        server.recv(1)  # the question has gone through, and its answer comes to nobody
        if said is None:
            reset(client)
        else:
            client.sendall(said)
            client.close()

    with proxy(s3_server.endpoint_url, relay) as endpoint:
        stack = stack_over(url, endpoint, s3_server, reader, dram, tmp_path / "ssd")
        try:
            load_all(stack, checkpoint, s3_server, url, within_s=DEADLINE_S)
        finally:
            stack.close()
    assert len(refused) > 1
    if trouble == "in a second":
        assert len(refused) <= 3 * sum(unit.layout.chunks for unit in checkpoint.units)
