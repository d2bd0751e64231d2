"""Short measurements of where units come from, that fill no tier and leave nothing behind."""

import contextlib
import errno
import fcntl
import itertools
import mmap
import os
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from storage_tiers.checkpoint import UnitIndex
from storage_tiers.errors import Missing, StorageError
from storage_tiers.model_store import ModelStore
from storage_tiers.presence import check_present
from storage_tiers.threads import run_all
from storage_tiers.tiers.busy import Moved

Stop = Callable[[], bool]
"""Asked now and then: whether something more important has come up."""
SSD_BYTES = 64 << 20
STORE_BYTES, LOCAL_BYTES = 256 << 20, 64 << 20
"""How much is read of a store at most; of a folder less, for the system keeps what is read of it in memory."""
_PIECE_BYTES = 4 << 20
_SSD_WITHIN_S = 1.0
_TURN_S, _TURN_WITHIN_S = 0.02, 60.0
_FIRST_RANGE_BYTES, _LARGEST_RANGE_BYTES = 64 << 10, 8 << 20
_LONG_RANGE_S = 0.1
_BEGINNING_S = 0.1
_LARGE_UNIT_BYTES = 1 << 20
_SMALL_BYTES, _SMALL_READS = 4096, 4
_MODELS_TRIED = 8


class Interrupted(Exception):
    """The measurement was ended before it told anything."""


def probe_ssd(folder: Path, threads: int, stop: Stop) -> float | None:
    """Bytes/s read from files in `folder` past the page cache, by `threads` at once; takes up to two seconds, after those
    who measure the same disk already.

    None where there is no room to write what is then read. OSError if the folder cannot be used.
    """
    room = os.statvfs(folder)
    if room.f_bavail * room.f_frsize < 4 * SSD_BYTES:
        return None
    path = folder / f"probe.{uuid.uuid4().hex}.partial"  # the ssd tier removes such files, should we be killed
    with _turn(folder, stop):
        try:
            fd = _open_direct(path)
            try:
                pieces = _write_pieces(fd, stop)
                return _read_pieces(fd, pieces, threads, stop)
            finally:
                os.close(fd)
        finally:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _turn(folder: Path, stop: Stop) -> Iterator[None]:
    """Nodes with a disk in common measure it one after the other: each holds a lock of its root, and leaves no file."""
    root = folder.resolve()
    while not root.is_mount():
        root = root.parent
    try:
        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:  # others are not heard of then
        yield
        return
    try:
        until_s = time.monotonic() + _TURN_WITHIN_S
        while not _locked(fd):
            if stop() or time.monotonic() > until_s:
                raise Interrupted("the disk is measured by others, or something more important came up")
            time.sleep(_TURN_S)
        yield
    finally:
        os.close(fd)


def _locked(fd: int) -> bool:
    """Whether the lock is ours, or there are none on this file system."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


@dataclass(frozen=True)
class Published:
    """A published model and its units that are large enough to measure with: all of them if none is."""

    name: str
    smallest: UnitIndex
    large: tuple[UnitIndex, ...]


def find_published(models: ModelStore) -> Published:
    """Some published model, of the first few the one with the largest unit. Missing if nothing is published."""
    found: dict[int, Published] = {}
    failure: StorageError | None = None
    for name in itertools.islice(models.names(), _MODELS_TRIED):
        try:
            checkpoint = models.open(name)
            check_present(models, checkpoint)
            units = sorted(checkpoint.units, key=lambda unit: unit.size_bytes)
        except StorageError as error:
            failure = error
            continue
        large = tuple(unit for unit in units if unit.size_bytes >= _LARGE_UNIT_BYTES)
        found[units[-1].size_bytes] = Published(name, units[0], large or tuple(units))
    if found:
        return found[max(found)]
    raise failure or Missing(f"nothing is published in {models.objects.url}")


def probe_reach(models: ModelStore, published: Published) -> float:
    """Seconds of one small read, the mean of a few; the first, which may have to connect, is left out.

    StorageError if the store cannot be read.
    """
    view = memoryview(bytearray(min(_SMALL_BYTES, published.smallest.size_bytes)))
    took = []
    for _ in range(_SMALL_READS):
        since_s = time.monotonic()
        models.read_unit_into(published.name, published.smallest, 0, view)
        took.append(time.monotonic() - since_s)
    return sum(took[1:]) / len(took[1:])


def probe_store(models: ModelStore, published: Published, threads: int, seconds: float, stop: Stop) -> float:
    """Bytes/s that `threads` together read from the store in about `seconds`, in ranges that grow as it is fast.

    StorageError if the store cannot be read, Interrupted if `stop` says so.
    """
    local = all(models.is_local(unit) for unit in published.large)
    reading = _Reading(models, published, time.monotonic() + seconds, LOCAL_BYTES if local else STORE_BYTES, stop)
    since_s = time.monotonic()
    run_all([reading.run] * threads, threads)
    if stop():
        raise Interrupted("the measurement of the store was ended for something more important")
    until_s = min(reading.until_s, max(moved.end_s for moved in reading.moved))
    if until_s - since_s > 3 * _BEGINNING_S:
        since_s += _BEGINNING_S  # connections are made then, and ranges still small
    return sum(moved.within(since_s, until_s) for moved in reading.moved) / (until_s - since_s)


class _Reading:
    """What the threads that read a store share."""

    def __init__(
        self, models: ModelStore, published: Published, until_s: float, at_most_bytes: int, stop: Stop
    ) -> None:
        self.moved: list[Moved] = []
        self.until_s = until_s
        self._models, self._published, self._stop = models, published, stop
        self._left_bytes = at_most_bytes
        self._lock = threading.Lock()

    def run(self, others: threading.Event) -> None:
        """Read until the time is over, at least once."""
        memory = memoryview(bytearray(_LARGEST_RANGE_BYTES))
        chance = random.Random(threading.get_ident())
        range_bytes = _FIRST_RANGE_BYTES
        while True:
            unit = chance.choice(self._published.large)
            size_bytes = min(range_bytes, unit.size_bytes)
            offset_bytes = chance.randrange((unit.size_bytes - size_bytes) // _SMALL_BYTES + 1) * _SMALL_BYTES
            since_s = time.monotonic()
            self._models.read_unit_into(self._published.name, unit, offset_bytes, memory[:size_bytes])
            now_s = time.monotonic()
            with self._lock:
                self.moved.append(Moved(since_s, now_s, size_bytes))
                self._left_bytes -= size_bytes
                spent = self._left_bytes <= 0
            if spent or now_s >= self.until_s or others.is_set() or self._stop():
                return
            if now_s - since_s < _LONG_RANGE_S:
                range_bytes = min(2 * range_bytes, _LARGEST_RANGE_BYTES)


def _open_direct(path: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        return os.open(path, flags | os.O_DIRECT, 0o600)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        path.unlink(missing_ok=True)  # some file systems refuse only after they have made the file
        return os.open(path, flags, 0o600)


def _buffer() -> mmap.mmap:
    return mmap.mmap(-1, _PIECE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def _write_pieces(fd: int, stop: Stop) -> int:
    """How many pieces the file has: fewer where writing is slow."""
    until_s = time.monotonic() + _SSD_WITHIN_S
    with _buffer() as data:
        data.write(os.urandom(_PIECE_BYTES))
        for piece in range(SSD_BYTES // _PIECE_BYTES):
            if stop():
                raise Interrupted("the measurement of the ssd was ended for something more important")
            os.pwrite(fd, data, piece * _PIECE_BYTES)
            if time.monotonic() > until_s:
                break
    os.fdatasync(fd)
    with contextlib.suppress(OSError):
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    return piece + 1


def _read_pieces(fd: int, pieces: int, threads: int, stop: Stop) -> float:
    rest = iter(range(pieces))
    lock = threading.Lock()
    until_s = time.monotonic() + _SSD_WITHIN_S

    def read(_others: threading.Event) -> int:
        done = 0
        with _buffer() as data:
            while time.monotonic() < until_s and not stop():
                with lock:
                    piece = next(rest, None)
                if piece is None:
                    break
                done += os.preadv(fd, [data], piece * _PIECE_BYTES)
        return done

    since_s = time.monotonic()
    size_bytes = sum(run_all([read] * threads, threads))
    if stop():
        raise Interrupted("the measurement of the ssd was ended for something more important")
    return size_bytes / (time.monotonic() - since_s)
