"""Reads that fail for reasons that pass: tried again for as long as there is time, by no thread that others need."""

import errno
import http.client
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError

from storage_tiers import retries
from storage_tiers.checkpoint import UnitIndex
from storage_tiers.errors import Corrupt, Faltering, Missing, StorageError, StoreUnavailable
from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore
from storage_tiers.passing import TryLater, asked_s, exhausted, passes, retry_after_s
from storage_tiers.retries import ATTEMPTS, MOST_BACKOFF_S, again_after_s
from storage_tiers.tiers.fallback import Fallback
from storage_tiers.tiers.stack import Priority
from tests.storage_tiers.stack_node import WAIT_S, Node, Units, Watched, running

# ---- when a read is tried again


@pytest.mark.parametrize("error", [Corrupt("c"), StoreUnavailable("u"), Faltering("f")])
def test_without_time_it_is_tried_a_few_times_with_growing_pauses(error: StorageError) -> None:
    pauses = [again_after_s(error, tries) for tries in range(1, ATTEMPTS + 1)]
    assert pauses[-1] is None
    assert [pause is not None and pause > 0 for pause in pauses[:-1]] == [True] * (ATTEMPTS - 1)


def test_what_passes_is_tried_as_long_as_there_is_time_and_nothing_else_is() -> None:
    """Three seconds of SlowDown ended a start that had two minutes."""
    for tries in (1, ATTEMPTS, 50, 5000):
        pause = again_after_s(Faltering("slow down"), tries, left_s=30.0)
        assert pause is not None
        assert 0 < pause <= MOST_BACKOFF_S
    assert again_after_s(StoreUnavailable("denied"), ATTEMPTS, left_s=30.0) is None
    assert again_after_s(Corrupt("wrong bytes"), ATTEMPTS, left_s=30.0) is None
    assert again_after_s(Missing("not there"), 1, left_s=30.0) is None


def test_no_two_pauses_are_alike_and_the_last_try_is_at_the_end() -> None:
    pauses = {again_after_s(Faltering("f"), 10, left_s=30.0) for _ in range(20)}
    assert len(pauses) > 10
    assert again_after_s(Faltering("f"), 10, left_s=0.25) == 0.25


def test_a_store_is_left_alone_for_as_long_as_it_says() -> None:
    pause = again_after_s(Faltering("f", after_s=5.0), 1, left_s=30.0)
    assert pause is not None
    assert 5.0 < pause < 5.0 + MOST_BACKOFF_S
    assert again_after_s(Faltering("f", after_s=60.0), 1, left_s=30.0) is None, "there is no use in waiting for that"
    assert again_after_s(Faltering("f", after_s=60.0), 1) is None


# ---- which failures pass


def _caused(cause: BaseException) -> OSError:
    error = OSError("from somewhere below")
    error.__cause__ = cause
    return error


def _answered(status: int, **headers: str) -> ClientError:
    metadata = {"HTTPStatusCode": status, "HTTPHeaders": headers}
    return ClientError({"Error": {"Code": "x"}, "ResponseMetadata": metadata}, "GetObject")


@pytest.mark.parametrize(
    "error",
    [
        TryLater("503"), TimeoutError(), ConnectionResetError(), ConnectionRefusedError(), http.client.IncompleteRead(b""),
        OSError(errno.EMFILE, "x"), OSError(errno.ENFILE, "x"), OSError(errno.ENOMEM, "x"), OSError(errno.EINTR, "x"),
        OSError(errno.EBUSY, "SlowDown, in s3fs's words"), OSError(errno.ENETUNREACH, "x"), MemoryError(),
        _caused(ConnectionResetError()), _answered(500), _answered(503), _caused(_answered(429)),
        ConnectionClosedError(endpoint_url="x"), socket.gaierror(socket.EAI_AGAIN, "x"),
    ],
    ids=repr,
)  # fmt: skip
def test_what_passes_is_known(error: BaseException) -> None:
    assert passes(error)


@pytest.mark.parametrize(
    "error",
    [
        OSError("a proxy"), OSError(errno.EIO, "x"), OSError(errno.EINVAL, "x"), FileNotFoundError(), ValueError("x"),
        _answered(403), _answered(404), _caused(_answered(400)), socket.gaierror(socket.EAI_NONAME, "x"),
    ],
    ids=repr,
)  # fmt: skip
def test_what_lasts_is_known(error: BaseException) -> None:
    assert not passes(error)


def test_only_the_want_of_something_here_is_exhaustion() -> None:
    assert exhausted(OSError(errno.EMFILE, "x"))
    assert exhausted(MemoryError())
    assert not exhausted(ConnectionResetError(errno.ECONNRESET, "x"))
    assert not exhausted(OSError(errno.EIO, "x"))


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, 0),
        ("", 0),
        ("7", 7),
        (" 3 ", 3),
        ("soon", 0),
        ("-1", 0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("9" * 400, 0),
    ],
)
def test_a_header_that_says_when(header: str | None, seconds: float) -> None:
    assert retry_after_s(header) == seconds


def test_a_date_says_when_too() -> None:
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 100))
    assert 90 < retry_after_s(date) <= 100


def test_what_a_store_asks_for_comes_through_its_client() -> None:
    assert asked_s(_caused(_answered(503, **{"retry-after": "4"}))) == 4
    assert asked_s(TryLater("x", 2.0)) == 2
    assert asked_s(ValueError("x")) == 0


# ---- loads


class Faltered:
    """A store that is busy until it is let go, and notes when it was asked."""

    def __init__(self, after_s: float = 0.0, only: str = "unit0") -> None:
        self.busy, self.after_s, self.only = True, after_s, only
        self.asked_s: list[float] = []
        self.often = threading.Event()

    def __call__(self, unit: UnitIndex, _chunk: int) -> None:
        if unit.name == self.only:
            self.asked_s.append(time.monotonic())
            if len(self.asked_s) > 6 * ATTEMPTS:
                self.often.set()
            if self.busy:
                raise Faltering("503 SlowDown", self.after_s)


def test_a_store_that_is_busy_is_waited_for_until_the_deadline(store: ModelStore, tmp_path: Path, units: Units) -> None:
    busy = Faltered()
    with running(Node(store, tmp_path / "ssd", busy)) as node:
        load = node.stack.load("model", units[0][0], Priority.COLD_START, until_s=time.monotonic() + WAIT_S)
        assert busy.often.wait(WAIT_S), "it is asked more often than a store that may never work"
        assert not load.done()
        busy.busy = False
        assert bytes(load.result(WAIT_S).segment.view) == units[0][1]


def test_when_the_time_is_over_it_says_what_the_store_said(store: ModelStore, tmp_path: Path, units: Units) -> None:
    with running(Node(store, tmp_path / "ssd", Faltered())) as node:
        until_s = time.monotonic() + 0.3
        load = node.stack.load("model", units[0][0], Priority.COLD_START, until_s=until_s)
        with pytest.raises(Faltering, match="SlowDown"):
            load.result(WAIT_S)
        assert time.monotonic() > until_s
        node.settle(node.get(units[1][0]))
        assert node.dram.held() == {units[1][0].digest}


def test_one_who_has_more_time_gives_it_to_the_load(store: ModelStore, tmp_path: Path, units: Units) -> None:
    busy = Faltered()
    with running(Node(store, tmp_path / "ssd", busy)) as node:
        patient = node.stack.load("model", units[0][0], Priority.PREWARM, until_s=time.monotonic() + WAIT_S)
        hasty = node.load(units[0][0])
        assert busy.often.wait(WAIT_S)
        busy.busy = False
        assert hasty.result(WAIT_S).unit == patient.result(WAIT_S).unit


def test_a_store_is_not_asked_before_the_time_it_named(store: ModelStore, tmp_path: Path, units: Units) -> None:
    """Also not for whoever comes meanwhile, and is in more of a hurry."""
    busy = Faltered(after_s=0.5)
    with running(Node(store, tmp_path / "ssd", busy)) as node:
        until_s = time.monotonic() + WAIT_S
        load = node.stack.load("model", units[0][0], Priority.PREWARM, until_s=until_s)
        while len(busy.asked_s) < 3:
            assert not load.done()
            threading.Event().wait(0.01)
        urgent = node.stack.load("model", units[0][0], Priority.COLD_START, until_s=until_s)
        busy.busy = False
        urgent.result(WAIT_S)
        assert len(busy.asked_s) == 6, "each of three chunks twice"
        assert busy.asked_s[3] - busy.asked_s[2] > 0.4


def test_no_thread_waits_for_a_busy_store(store: ModelStore, tmp_path: Path, units: Units) -> None:
    """All of a node's threads slept, each after a read of a busy store, and units that lay on ssd were not read."""
    with running(Node(store, tmp_path / "ssd", Faltered(after_s=WAIT_S / 2), threads=1)) as node:
        waiting = node.stack.load("model", units[0][0], Priority.COLD_START, until_s=time.monotonic() + 2 * WAIT_S)
        since_s = time.monotonic()
        assert bytes(node.get(units[1][0]).segment.view) == units[1][1]
        assert time.monotonic() - since_s < WAIT_S / 4
        assert not waiting.done()
        node.stack.give_up(waiting)
        assert isinstance(waiting.exception(0), StorageError)
        again = node.stack.load("model", units[0][0], Priority.COLD_START)
        assert isinstance(again.exception(WAIT_S / 4), Faltering), (
            "what was given up has ended, not only its callers' wait"
        )


def test_a_chunk_that_cannot_be_had_ends_those_that_wait(store: ModelStore, tmp_path: Path, units: Units) -> None:
    def one_busy_one_missing(_unit: UnitIndex, chunk: int) -> None:
        if chunk == 0:
            raise Faltering("503", WAIT_S / 2)
        if chunk == 1:
            raise Missing("the object is gone")

    with running(Node(store, tmp_path / "ssd", one_busy_one_missing, threads=1)) as node:
        load = node.stack.load("model", units[0][0], Priority.COLD_START, until_s=time.monotonic() + 2 * WAIT_S)
        assert isinstance(load.exception(WAIT_S / 4), Missing)
        for _ in range(100):
            if not node.stack.loading:
                break
            threading.Event().wait(0.01)
        assert node.dram.used_bytes == 0


def test_a_near_source_that_falters_is_asked_again_for_the_next_chunk(store: ModelStore, units: Units) -> None:
    origin, near = (Watched(_Held(), name=name) for name in ("remote", "ssd"))
    near.before = Faltered(only="unit0")
    fallback = Fallback("model", units[0][0], [near, origin])
    for _ in range(2):
        assert fallback.read(lambda source: source.read("model", units[0][0], 0, [])) is origin
    assert Counter(name for name, _ in near.reads)["unit0"] == 2


class _Held:
    name = "any"

    def holds(self, unit: UnitIndex) -> bool:
        return True

    def read(self, model: str, unit: UnitIndex, offset_bytes: int, views: object) -> None:
        """It is all there."""

    def discard(self, unit: UnitIndex) -> None:
        raise AssertionError("nothing was wrong with it")


def test_a_folder_that_cannot_be_opened_for_want_of_descriptors_is_tried_again(
    store: ModelStore, tmp_path: Path, units: Units, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "FIRST_BACKOFF_S", 0.01)
    fails, opened = [True] * (2 * ATTEMPTS), threading.Lock()
    open_file = os.open

    def few(*arguments: object) -> int:
        with opened:
            if fails and "store" in str(arguments[0]):
                fails.pop()
                raise OSError(errno.EMFILE, "Too many open files")
        return open_file(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", few)
    with running(Node(ModelStore(ObjectStore(store.objects.url)), tmp_path / "ssd", threads=1)) as node:
        load = node.stack.load("model", units[0][0], Priority.COLD_START, until_s=time.monotonic() + WAIT_S)
        assert bytes(load.result(WAIT_S).segment.view) == units[0][1]
        assert not fails


class _Near:
    """A peer that may rest, and fails so many times before it has the unit."""

    name = "peer:a"

    def __init__(self, faults: Sequence[Exception], rests: bool) -> None:
        self.faults, self.rests, self.asked = list(faults), rests, 0

    def holds(self, unit: UnitIndex) -> bool:
        return not self.rests

    def read(self, model: str, unit: UnitIndex, offset_bytes: int, views: object) -> None:
        self.asked += 1
        if self.faults:
            raise self.faults.pop(0)

    def discard(self, unit: UnitIndex) -> None:
        raise AssertionError("nothing is wrong")


class _Empty(_Near):
    """A store that has lost the unit."""

    name = "remote"

    def read(self, model: str, unit: UnitIndex, offset_bytes: int, views: object) -> None:
        self.asked += 1
        raise Missing("it is not there")


@pytest.mark.parametrize(
    ("faults", "rests"), [([StoreUnavailable("silent")], False), ([], True)], ids=["failed just now", "rests"]
)
def test_where_the_store_has_lost_a_unit_who_was_silent_is_asked_once_more(
    units: Units, faults: Sequence[Exception], rests: bool
) -> None:
    """A peer that said nothing for a second was left alone for half a minute, and starts failed though it had the bytes."""
    near, origin = _Near(faults, rests), _Empty((), False)
    fallback = Fallback("model", units[0][0], [near, origin])
    assert fallback.read(lambda source: source.read("model", units[0][0], 0, ())) is near
    assert (near.asked, origin.asked) == (1 + len(faults), 1)


def test_it_is_asked_no_more_than_once(units: Units) -> None:
    near, origin = _Near([StoreUnavailable("silent")] * 9, rests=True), _Empty((), False)
    fallback = Fallback("model", units[0][0], [near, origin])
    for _ in range(3):
        with pytest.raises(Missing, match="it is not there"):
            fallback.read(lambda source: source.read("model", units[0][0], 0, ()))
    assert (near.asked, origin.asked) == (1, 3)
