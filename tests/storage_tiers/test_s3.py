"""Ranges of S3 objects, straight into memory: what stores answer that is not the bytes, and connections that are kept."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from storage_tiers import s3
from storage_tiers.passing import TryLater
from storage_tiers.ranges import open_range_reader
from storage_tiers.s3 import S3Ranges
from tests.s3_server import S3Server
from tests.storage_tiers.bad_network import proxy

BYTES = bytes(range(256)) * 40


@pytest.fixture
def bucket(s3_server: S3Server, request: pytest.FixtureRequest) -> str:
    name = f"ranges-{abs(hash(request.node.name)) % 10**9}"
    s3_server.bucket(name)
    (s3_server.folder / name / "a folder").mkdir()
    (s3_server.folder / name / "a folder" / "ob+ject").write_bytes(BYTES)
    return name


def read(ranges: S3Ranges, bucket: str, offset_bytes: int, size_bytes: int, key: str = "a folder/ob+ject") -> bytes:
    memory = bytearray(size_bytes)
    got = ranges(f"{bucket}/{key}", offset_bytes, memoryview(memory))
    return bytes(memory[:got])


@pytest.mark.parametrize(("offset", "size"), [(0, 10_240), (0, 1), (5, 300), (10_239, 1)])
def test_a_range_is_what_the_object_has_there(s3_server: S3Server, bucket: str, offset: int, size: int) -> None:
    assert read(S3Ranges(bucket, s3_server.options), bucket, offset, size) == BYTES[offset : offset + size]


def test_one_connection_serves_range_after_range(s3_server: S3Server, bucket: str) -> None:
    ranges = S3Ranges(bucket, s3_server.options)
    for offset in range(0, 1000, 100):
        assert read(ranges, bucket, offset, 100) == BYTES[offset : offset + 100]
    with pytest.raises(FileNotFoundError):
        read(ranges, bucket, 0, 10, "no such object")
    assert len(ranges._idle) <= 1


def test_what_is_not_there_or_not_allowed_is_named(s3_server: S3Server, bucket: str) -> None:
    with pytest.raises(FileNotFoundError, match="no such object"):
        read(S3Ranges(bucket, s3_server.options), bucket, 0, 10, "no such object")
    for wrong in ({"secret": "wrong"}, {"key": "nobody"}):
        with pytest.raises(PermissionError, match="403"):
            read(S3Ranges(bucket, {**s3_server.options, **wrong}), bucket, 0, 10)
    anonymous = {"endpoint_url": s3_server.endpoint_url, "anon": True}
    with pytest.raises(PermissionError, match=r"40[13]"):
        read(S3Ranges(bucket, anonymous), bucket, 0, 10)


def test_without_credentials_it_says_what_to_set(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    options = {"endpoint_url": s3_server.endpoint_url}
    with pytest.raises(PermissionError, match=r"store\.options\.key"):
        read(S3Ranges("any", options), "any", 0, 10)


def test_an_address_whose_signature_has_ended_is_signed_again(s3_server: S3Server, bucket: str) -> None:
    ranges = S3Ranges(bucket, s3_server.options)
    assert read(ranges, bucket, 0, 10) == BYTES[:10]
    (key, known), *_ = ranges._addresses.items()
    spoilt = known.url._replace(query=known.url.query.replace("Signature=", "Signature=0"))
    ranges._addresses[key] = s3._Address(spoilt, known.made_s - 60.0)
    assert read(ranges, bucket, 10, 10) == BYTES[10:20]


# ---- stores that answer strangely


@contextlib.contextmanager
def answering(*answers: bytes | None, trickle_s: float = 0.0) -> Iterator[tuple[str, Callable[[], int]]]:
    """A server that gives these answers, one a request; None and what is after the last: the connection is closed. With
    `trickle_s` all are parts of one answer, each so long after the other."""
    left = list(answers)
    connections = list[socket.socket]()
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                connections.append(client)
                with client:
                    while (trickle_s and connections and not threading.Event().wait(trickle_s)) or client.recv(65536):
                        answer = left.pop(0) if left else None
                        if answer is None:
                            break
                        client.sendall(answer)
                        if b"Connection: close" in answer:
                            break

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", lambda: len(connections)
    finally:
        for open_one in (listener, *connections):  # what a reader keeps for its next question is waited at
            with contextlib.suppress(OSError):
                open_one.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)
        assert not thread.is_alive()


def ranges_of(endpoint: str) -> S3Ranges:
    return S3Ranges("b", {"key": "k", "secret": "s", "endpoint_url": endpoint})


def http_answer(status: str, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def test_a_connection_that_was_closed_while_it_was_idle_is_made_again() -> None:
    ten = http_answer("206 Partial Content", b"0123456789")
    with answering(ten, None, ten) as (endpoint, connections):
        ranges = ranges_of(endpoint)
        assert [read(ranges, "b", 0, 10) for _ in range(2)] == [b"0123456789"] * 2
        assert connections() == 2


@pytest.mark.parametrize(
    ("answer", "error", "says"),
    [
        (http_answer("503 No", b"<Code>SlowDown</Code><Message>Wait</Message>"), OSError, "503 SlowDown: Wait"),
        (http_answer("301 Moved", b"", "x-amz-bucket-region: eu-west-1"), OSError, r"eu-west-1.*region_name"),
        (http_answer("400 Bad", b"", "x-amz-bucket-region: eu-west-1"), OSError, r"eu-west-1.*region_name"),
        (http_answer("200 OK", b"x" * 100), OSError, "200"),
        (b"HTTP/1.1 206 Partial Content\r\nContent-Length: 10\r\nConnection: close\r\n\r\n012", OSError, "after 3 of 10"),
        (http_answer("400 Bad", b"<Code>ExpiredToken</Code>", "x-amz-bucket-region: x"), PermissionError, "ExpiredToken"),
        (b"garbage\r\n\r\n", OSError, "BadStatusLine"),
        (None, OSError, "closed connection|reset"),
    ],
)  # fmt: skip
def test_other_answers_are_errors_that_say_what_came(answer: bytes | None, error: type[Exception], says: str) -> None:
    with answering(answer) as (endpoint, _), pytest.raises(error, match=says):
        read(ranges_of(endpoint), "b", 5, 10)


@pytest.mark.parametrize(
    ("answer", "after_s"),
    [
        (http_answer("503 No", b"<Code>SlowDown</Code>"), 0.0),
        (http_answer("503 No", b"", "Retry-After: 3"), 3.0),
        (http_answer("429 No", b"", "retry-after: 12"), 12.0),
        (http_answer("500 No", b"<Code>InternalError</Code>"), 0.0),
        (http_answer("400 No", b"<Code>RequestTimeout</Code>"), 0.0),
    ],
)  # fmt: skip
def test_trouble_that_passes_is_told_from_what_lasts(answer: bytes, after_s: float) -> None:
    with answering(answer) as (endpoint, _), pytest.raises(TryLater) as failed:
        read(ranges_of(endpoint), "b", 5, 10)
    assert failed.value.after_s == after_s


def test_an_object_that_ends_early_gives_what_it_has() -> None:
    short = http_answer("206 Partial Content", b"0123", "Content-Range: bytes 5-8/9")
    with answering(short, http_answer("416 Range Not Satisfiable", b"")) as (endpoint, _):
        ranges = ranges_of(endpoint)
        assert [read(ranges, "b", 5, 10), read(ranges, "b", 9, 10)] == [b"0123", b""]


def test_a_server_that_sends_the_whole_object_serves_its_beginning() -> None:
    with answering(http_answer("200 OK", b"x" * 100_000)) as (endpoint, _):
        ranges = ranges_of(endpoint)
        assert read(ranges, "b", 0, 10) == b"x" * 10
        assert not ranges._idle, "what is left of the answer would be taken for the next one's"


def test_what_is_behind_a_proxy_is_left_to_fsspec(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    options = {"key": "k", "secret": "s", "endpoint_url": "http://store.example:9000"}
    assert open_range_reader("s3://b", options, "auto") is None
    assert open_range_reader("s3://b", {**options, "endpoint_url": "https://store.example"}, "auto") is not None
    direct = open_range_reader("s3://b", options, "direct")
    assert direct is not None
    with pytest.raises(OSError, match=r"proxy.*store\.reader"):
        direct("b/key", 0, memoryview(bytearray(10)))


def test_without_an_endpoint_the_regions_own_host_is_asked() -> None:
    ranges = S3Ranges("b", {"key": "k", "secret": "s", "client_kwargs": {"region_name": "af-south-1"}})
    url = ranges._address("some key").url
    assert (url.scheme, url.netloc, url.path) == ("https", "s3.af-south-1.amazonaws.com", "/b/some%20key")


def test_an_answer_that_trickles_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte was in time, and the whole never came."""
    monkeypatch.setattr(s3, "REQUEST_S", 0.5)
    beginning = b"HTTP/1.1 206 Partial Content\r\nContent-Length: 1000\r\n\r\n"
    with (
        answering(*[beginning, *[b"x"] * 900], trickle_s=0.05) as (endpoint, _),
        pytest.raises(OSError, match=r"in 0\.5 s"),
    ):
        read(ranges_of(endpoint), "b", 5, 1000)


def test_a_connection_that_was_idle_for_long_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "_KEPT_S", 0.0)
    ten = http_answer("206 Partial Content", b"0123456789")
    with answering(ten, ten) as (endpoint, connections):
        ranges = ranges_of(endpoint)
        assert [read(ranges, "b", 0, 10) for _ in range(2)] == [b"0123456789"] * 2
        assert connections() == 2


@pytest.mark.parametrize("dead", [1, 3])
def test_connections_that_died_unsaid_while_idle_are_given_up_soon(
    s3_server: S3Server, bucket: str, dead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A load stood still for SILENCE_S, as long as a start has, once a NAT had forgotten what was kept."""
    monkeypatch.setattr(s3, "_FRESH_S", 0.0)
    monkeypatch.setattr(s3, "DOUBT_S", 0.2)
    forgotten, over, asked = threading.Event(), threading.Event(), 0

    def relay(number: int, server: socket.socket, client: socket.socket) -> None:
        nonlocal asked
        while data := server.recv(65536):
            if forgotten.is_set() and number <= dead:
                asked += 1
                over.wait(60.0)
                return
            client.sendall(data)

    with proxy(s3_server.endpoint_url, relay) as endpoint:
        ranges = S3Ranges(bucket, {**s3_server.options, "endpoint_url": endpoint})
        for connection in [ranges._connect(ranges._address("a folder/ob+ject").url) for _ in range(dead)]:
            ranges._idle.append((connection, time.monotonic()))
        forgotten.set()
        monkeypatch.setattr(s3, "SILENCE_S", 30.0)
        try:
            assert read(ranges, bucket, 5, 300) == BYTES[5:305]
        finally:
            over.set()
    assert asked == 1, "those that were idle beside it were waited for, too"


def test_a_connection_that_was_just_used_has_the_time_of_a_slow_store(
    s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "DOUBT_S", 0.05)
    monkeypatch.setattr(s3, "_FRESH_S", 60.0)
    connections = 0

    def relay(number: int, server: socket.socket, client: socket.socket) -> None:
        nonlocal connections
        connections = max(connections, number)
        while data := server.recv(65536):
            threading.Event().wait(0.3)
            client.sendall(data)

    with proxy(s3_server.endpoint_url, relay) as endpoint:
        ranges = S3Ranges(bucket, {**s3_server.options, "endpoint_url": endpoint})
        for offset in (0, 100):
            assert read(ranges, bucket, offset, 100) == BYTES[offset : offset + 100]
    assert connections == 1
