"""The ssd tier: units as files of the node, by digest, read and written past the page cache where that is possible.

A file is there whole or not at all when a process dies at any moment. Nothing is forced to the medium: after a power
failure a file may hold other bytes than it should, and the checksums, which every load compares, send it away.
"""

import errno
import logging
import mmap
import os
import threading
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

from storage_tiers.checkpoint import UnitIndex, is_digest
from storage_tiers.errors import Corrupt, Faltering, Missing, OutOfSpace, StorageError
from storage_tiers.passing import exhausted
from storage_tiers.tiers.tier import Ranking, Views, least_recently_used, scatter, total_bytes

_log = logging.getLogger(__name__)
_Work = Callable[[int], int]
"""What is done with an open file: takes its descriptor, returns how many bytes it moved."""
_PARTIAL = ".partial"
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)
_DAMAGED = (errno.EIO, errno.EBADMSG, errno.EUCLEAN, errno.ENODATA)
"""The medium has lost what was written there, or the file system knows that it did."""
_NEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
_WRITE_BYTES = 16 << 20
_BUFFER_BYTES = 4 << 20


class SsdTier:
    """Units below one folder within a budget in bytes, the least recently read evicted first, or what is worth least by
    another ranking; nothing goes for what is worth less. Thread-safe.

    Opening it finds what an earlier process left (by name and size, not by reading) and removes unfinished writes;
    files that are not called like a unit are not ours, and stay. A unit is held when it is whole; while it is being
    written it only counts against the budget.
    Offsets and lengths must be multiples of 4 KiB, as the inner chunks of a checkpoint are, and so must the memory.
    `bounce`: read into a thread's own huge pages and copy from there. It is slower than straight into memory of huge
    pages, and faster than straight into small ones, each of which the kernel would have to pin by itself.
    """

    name = "ssd"

    def __init__(self, folder: str | os.PathLike[str], budget_bytes: int, bounce: bool = False) -> None:
        self.budget_bytes = budget_bytes
        self._bounce = bounce
        self._local = threading.local()
        self._folder = Path(folder)
        self._rank: Ranking = least_recently_used
        self._lock = threading.Lock()
        self._written = threading.Condition(self._lock)
        self._sizes: dict[str, int] = {}
        self._writing: dict[str, int] = {}
        self._stuck: set[Path] = set()
        self._direct = os.O_DIRECT
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            found = sorted(self._folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
            for path in found:
                if path.name.endswith(_PARTIAL):
                    self._remove(path)
                elif is_digest(path.name) and path.is_file():
                    self._sizes[path.name] = path.stat().st_size
        except OSError as error:
            raise StorageError(
                f"ssd folder {self._folder}: {error.strerror}; set node.ssd_dir to one that works"
            ) from error

    @property
    def direct(self) -> bool:
        """Whether the file system lets us past the page cache, as far as we have seen."""
        return self._direct != 0

    @property
    def used_bytes(self) -> int:
        with self._lock:
            return self._used()

    def held(self) -> frozenset[str]:
        """Digests of the units that are here."""
        with self._lock:
            return frozenset(self._sizes)

    def holds(self, unit: UnitIndex) -> bool:
        """Whether the unit is here with its length."""
        with self._lock:
            return self._sizes.get(unit.digest) == unit.size_bytes

    def retain(self, rank: Ranking) -> None:
        """The least by `rank` is evicted first from now on."""
        with self._lock:
            self._rank = rank

    def would_keep(self, unit: UnitIndex) -> bool:
        """Whether there is room for the unit, or only what is worth less goes for it."""
        with self._lock:
            try:
                self._victims(unit.digest, unit.size_bytes)
            except OutOfSpace:
                return False
            return True

    def path(self, digest: str) -> Path | None:
        """The unit's file, None if the unit is not here."""
        with self._lock:
            return self._file(digest) if digest in self._sizes else None

    def read(self, model: str, unit: UnitIndex, offset_bytes: int, views: Views) -> None:
        """Fill `views` from the unit's bytes. Missing if it is not here or cannot be read, Corrupt if it is too short,
        Faltering if the machine has run out of something.

        Its file is removed only if the medium has lost it: another failure says nothing of the bytes.
        """
        path = self._file(unit.digest)
        try:
            got = self._with_file(path, os.O_RDONLY, lambda fd: self._fill(fd, views, offset_bytes))
        except (OSError, MemoryError) as error:
            why = error.strerror if isinstance(error, OSError) else "Cannot allocate memory"
            text = f"unit {unit.name} of {model} cannot be read from {path}: {why}"
            if exhausted(error):
                raise Faltering(text) from error
            if isinstance(error, OSError) and error.errno in (*_GONE, *_DAMAGED):
                self.drop(unit.digest)
            raise Missing(text) from error
        if got != total_bytes(views):
            raise Corrupt(f"unit {unit.name} of {model} ends {total_bytes(views) - got} bytes too early in {path}")
        with self._lock:
            if unit.digest in self._sizes:
                self._sizes[unit.digest] = self._sizes.pop(unit.digest)

    def discard(self, unit: UnitIndex) -> None:
        """The unit's file is bad."""
        self.drop(unit.digest)

    def write(self, digest: str, views: Views) -> None:
        """Keep a unit, evicting others for it once a file for it could be made. OutOfSpace if the budget or the disk cannot
        hold it, or if what would have to go is worth more.

        Returns when it is here, also if it was, or if somebody else is just writing it.
        """
        path = self._file(digest)
        partial = path.with_name(f"{digest}.{uuid.uuid4().hex}{_PARTIAL}")
        try:
            _open_and(partial, _NEW, lambda _fd: 0)
            if self._claim(digest, total_bytes(views)):
                self._write_claimed(digest, partial, views)
        except OSError as error:
            raise OutOfSpace(f"ssd folder {self._folder}: {error.strerror}") from error
        finally:
            with self._lock:
                self._remove(partial)

    def drop(self, digest: str) -> None:
        """Forget the unit and remove its file."""
        with self._lock:
            self._forget(digest)

    def _write_claimed(self, digest: str, partial: Path, views: Views) -> None:
        path = self._file(digest)
        try:
            self._with_file(partial, _NEW, lambda fd: _write_all(fd, views))
            with self._written:
                os.replace(partial, path)
                self._sizes[digest] = self._writing.pop(digest)
                self._stuck.discard(path)
                self._written.notify_all()
        except BaseException:
            with self._written:
                self._writing.pop(digest, None)
                self._written.notify_all()
            raise

    def _file(self, digest: str) -> Path:
        """Where the unit lies, or would. ValueError for what is no digest: it could be a way out of the folder."""
        if not is_digest(digest):
            raise ValueError(f"{digest[:80]!r} is not the digest of a unit")
        return self._folder / digest

    def _fill(self, fd: int, views: Views, offset_bytes: int) -> int:
        """How many bytes of the file came, straight into the views or through this thread's buffer."""
        if not self._bounce:
            return _read_all(fd, views, offset_bytes)
        buffer, done = self._buffer(), 0
        rest: Sequence[memoryview] = views
        while rest:
            part = _first(rest, _BUFFER_BYTES)
            wanted = total_bytes(part)
            count = _read_all(fd, [buffer[:wanted]], offset_bytes + done)
            done += count
            if count < wanted:
                break
            scatter(buffer[:count], part)
            rest = _after(rest, count)
        return done

    def _buffer(self) -> memoryview:
        """This thread's buffer, on huge pages where the system gives them (a shared mapping would get none)."""
        buffer: mmap.mmap | None = getattr(self._local, "buffer", None)
        if buffer is None:
            buffer = mmap.mmap(-1, _BUFFER_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            buffer.madvise(mmap.MADV_HUGEPAGE)
            self._local.buffer = buffer
        return memoryview(buffer)

    def _with_file(self, path: Path, flags: int, work: _Work) -> int:
        """Do `work` on the file past the page cache, or through it where the file system refuses (EINVAL)."""
        try:
            return _open_and(path, flags | self._direct, work)
        except OSError as error:
            if error.errno != errno.EINVAL or not self._direct:
                raise
            done = _open_and(path, flags, work)
            self._direct = 0
            return done

    def _used(self) -> int:
        return sum(self._sizes.values()) + sum(self._writing.values())

    def _claim(self, digest: str, size_bytes: int) -> bool:
        """Make room for the unit; False if it is here already."""
        with self._written:
            self._written.wait_for(lambda: digest not in self._writing)
            for path in list(self._stuck):
                self._remove(path)
            if self._sizes.get(digest) == size_bytes:
                return False
            self._forget(digest)
            for victim in self._victims(digest, size_bytes):
                self._forget(victim)
            self._writing[digest] = size_bytes
            return True

    def _victims(self, digest: str, size_bytes: int) -> list[str]:
        """Under the lock: who goes for a unit that is not here. OutOfSpace if that is not enough, or worth more."""
        free = self.budget_bytes - self._used()
        if size_bytes > free + sum(self._sizes.values()):
            raise OutOfSpace(f"ssd: {size_bytes:,} bytes asked, node.ssd_bytes is {self.budget_bytes:,}")
        most, going = self._rank(digest, len(self._sizes)), list[str]()
        ranked = [(self._rank(held, age), held) for age, held in enumerate(self._sizes)] if free < size_bytes else []
        for worth, victim in sorted(ranked):
            if free >= size_bytes:
                break
            if worth > most:
                raise OutOfSpace(f"ssd: {size_bytes:,} bytes asked, what would have to go for them is worth more there")
            going.append(victim)
            free += self._sizes[victim]
        return going

    def _forget(self, digest: str) -> None:
        """Under the lock. A file that cannot be removed is not used again."""
        self._sizes.pop(digest, None)
        self._remove(self._file(digest))

    def _remove(self, path: Path) -> None:
        """Under the lock. Remove the file, or say once why it stays, and try again before the next write: the disk may
        be read-only for now, which it then says of files that do not exist, too."""
        try:
            path.unlink(missing_ok=True)
            self._stuck.discard(path)
        except OSError as error:
            if path not in self._stuck and os.path.lexists(path):
                self._stuck.add(path)
                _log.warning("%s cannot be removed: %s", path, error.strerror)


def _open_and(path: Path, flags: int, work: _Work) -> int:
    fd = os.open(path, flags | os.O_CLOEXEC, 0o644)
    try:
        return work(fd)
    finally:
        os.close(fd)


def _read_all(fd: int, views: Views, offset_bytes: int) -> int:
    """preadv until the views are full or the file ends."""
    done = 0
    rest: Sequence[memoryview] = views
    while rest and (count := os.preadv(fd, rest[:1024], offset_bytes + done)):
        done += count
        rest = _after(rest, count)
    return done


def _write_all(fd: int, views: Views) -> int:
    done = 0
    rest: Sequence[memoryview] = views
    while rest:
        count = os.pwritev(fd, _first(rest, _WRITE_BYTES), done)
        done += count
        rest = _after(rest, count)
    return done


def _first(views: Views, size_bytes: int) -> list[memoryview]:
    """The first bytes of a row, so that one write is neither the whole unit nor too many pieces."""
    found: list[memoryview] = []
    for view in views[:1024]:
        if size_bytes <= 0:
            break
        found.append(view[:size_bytes])
        size_bytes -= len(view)
    return found


def _after(views: Views, count: int) -> list[memoryview]:
    """What remains of a row after its first `count` bytes."""
    rest = list(views)
    while rest and count >= len(rest[0]):
        count -= len(rest.pop(0))
    if rest and count:
        rest[0] = rest[0][count:]
    return rest
