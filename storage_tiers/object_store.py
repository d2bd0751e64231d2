"""An object store: named bytes in a folder, in S3 or wherever else fsspec reaches."""

import contextlib
import errno
import fcntl
import logging
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, BinaryIO, TypeVar

import fsspec

from storage_tiers.errors import Corrupt, Faltering, Missing, OutOfSpace, StorageError, StoreUnavailable
from storage_tiers.passing import asked_s, passes
from storage_tiers.plain_files import open_regular, read_range, regular_size
from storage_tiers.ranges import open_range_reader

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_PARTIAL = ".partial"
_PART_BYTES = 16 << 20
_READ_LIMIT_BYTES = 256 << 20
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)
_OWN_NAMES = {"local": "file", "s3a": "s3"}
"""Protocols that go by two names."""


@dataclass(frozen=True)
class ObjectFact:
    """What a listing says of an object: `tag` changes with its content, `modified_s` is Unix time, None if not told."""

    size_bytes: int
    tag: str
    modified_s: float | None


class ObjectStore:
    """Objects under one fsspec URL. Thread-safe; every failure leaves as a StorageError that names the key.

    `options` go to the file system as they are (endpoint, credentials); nothing is read from the environment here.
    Ranges come through `reader`, see storage_tiers.ranges; all else through fsspec.
    """

    def __init__(self, url: str, options: Mapping[str, Any] | None = None, reader: str = "auto") -> None:
        self.url, self.options, self.reader = url, dict(options or {}), reader
        try:
            self._ranges = open_range_reader(url, self.options, reader)
            self._fs, root = fsspec.core.url_to_fs(url, **{"use_listings_cache": False, **self.options})
        except (ValueError, TypeError, AttributeError, ImportError, OSError) as error:  # options may be anything
            raise StorageError(f"cannot use {url!r} as an object store: {error}") from error
        self._root = root.rstrip("/")
        protocol = self._fs.protocol
        self._local = "file" in ((protocol,) if isinstance(protocol, str) else protocol)

    @property
    def protocol(self) -> str:
        """How the store is reached, as its URL says."""
        return protocol_of(self.url)

    @property
    def local(self) -> bool:
        """Whether objects are files of this machine."""
        return self._local

    def path(self, key: str) -> str:
        """Where `key` lies, in the file system's own terms. Corrupt for one that would lead out of the store."""
        if "\0" in key or not {"", ".", ".."}.isdisjoint(key.split("/")):
            raise Corrupt(f"{key[:200]!r} is not the key of an object")
        return f"{self._root}/{key}"

    def read(self, key: str, limit_bytes: int = _READ_LIMIT_BYTES) -> bytes:
        """The whole object. Missing if it is not there, Corrupt if it is larger than `limit_bytes`."""
        return self._guard(key, lambda: self._read_small(self.path(key), limit_bytes))

    def _read_small(self, path: str, limit_bytes: int) -> bytes:
        """Asks for the size first; s3fs would ask for it, too, to read in parts what is never large here."""
        if self._local:
            with open_regular(path) as (fd, size_bytes), open(fd, "rb", closefd=False) as file:
                _check_size(path, size_bytes, limit_bytes)
                return file.read(size_bytes)
        _check_size(path, self._fs.size(path) or 0, limit_bytes)  # some servers do not tell
        whole = {"max_concurrency": 1} if self.protocol == "s3" else {}
        data = bytes(self._fs.cat_file(path, **whole))
        _check_size(path, len(data), limit_bytes)
        return data

    def read_into(self, key: str, offset_bytes: int, view: memoryview) -> None:
        """Fill `view` with the object's bytes from `offset_bytes`; Missing if it is absent, Corrupt if too short."""
        if self._local:
            got = self._guard(key, lambda: read_range(self.path(key), offset_bytes, view))
        else:
            got = self._guard(key, lambda: self._range(self.path(key), offset_bytes, view))
        if got != len(view):
            raise Corrupt(f"{self.url}/{key} ends at {offset_bytes + got} bytes, {len(view) - got} too early")

    def _range(self, path: str, offset_bytes: int, view: memoryview) -> int:
        if self._ranges is not None:
            return self._ranges(path, offset_bytes, view)
        data: bytes = self._fs.cat_file(path, start=offset_bytes, end=offset_bytes + len(view))
        got = min(len(data), len(view))
        view[:got] = data[:got]
        return got

    def size_bytes(self, key: str) -> int | None:
        """Length of the object, None if it is not there."""
        try:
            return int(self._guard(key, lambda: self._fs.size(self.path(key))))
        except Missing:
            return None

    def sizes(self, below: str, keys: Sequence[str]) -> dict[str, int]:
        """Lengths of those of `keys`, relative to `below` ("" for the root), that are there: by one request at most."""
        if not self._local:
            facts = self.facts(below, recursive=any("/" in key for key in keys))
            return {key: facts[key].size_bytes for key in keys if key in facts}
        base = f"{below}/" if below else ""
        found = {key: self._guard(base + key, lambda key=key: regular_size(self.path(base + key))) for key in keys}  # type: ignore[misc]
        return {key: size_bytes for key, size_bytes in found.items() if size_bytes is not None}

    @contextlib.contextmanager
    def writer(self, key: str) -> Iterator[Callable[[bytes | memoryview], None]]:
        """A function that appends to `key`; the object appears whole when the block ends, not at all if it raises."""
        path = self.path(key)
        file, target = self._guard(key, lambda: self._open(path))
        try:
            yield lambda data: self._guard(key, lambda: _write_all(file, data))
            self._guard(key, lambda: self._finish(file, target, path))
        except BaseException:
            with contextlib.suppress(StorageError):
                self._guard(key, lambda: self._abandon(file, target))
            raise

    def write(self, key: str, data: bytes) -> None:
        """Write a small object at once."""
        with self.writer(key) as append:
            append(data)

    def names(self, key: str) -> list[str]:
        """Names directly below `key` ("" for the root), sorted; empty if there is nothing."""
        self._fs.invalidate_cache()
        base = self.path(key) if key else self._root
        try:
            found = self._guard(key, lambda: self._fs.ls(base, detail=False))
        except Missing:
            return []
        paths = {str(path).strip("/") for path in found} - {
            base.strip("/")
        }  # an object is listed as its own only entry
        return sorted(path.rsplit("/", 1)[-1] for path in paths)

    def facts(self, key: str, *, recursive: bool = True) -> dict[str, ObjectFact]:
        """The objects below `key` ("" for the root) by their names relative to it; empty if there is nothing."""
        self._fs.invalidate_cache()
        base = self.path(key) if key else self._root
        try:
            if recursive:
                found = self._guard(key, lambda: list(self._fs.find(base, detail=True).values()))
            else:
                found = self._guard(key, lambda: self._fs.ls(base, detail=True))
        except Missing:
            return {}
        stem = base.strip("/") + "/"
        return {
            str(info["name"]).strip("/").removeprefix(stem): _fact(info) for info in found if info["type"] == "file"
        }

    def remove(self, key: str) -> None:
        """Remove the object or everything below `key`; nothing happens if it is not there."""
        with contextlib.suppress(Missing):
            self._guard(key, lambda: self._remove(self.path(key)))

    def remove_if_empty(self, key: str) -> None:
        """Remove the folder `key` if nothing is in it; only folders keep such."""
        if self._local:
            with contextlib.suppress(OSError):
                os.rmdir(self.path(key))

    def abandoned(self, key: str) -> list[str]:
        """What writers that were killed have left below `key`, relative to it; only folders keep such."""
        if not self._local:
            return []
        base = self.path(key) if key else self._root
        found = self._guard(key, lambda: self._fs.glob(f"{base}/**/*{_PARTIAL}"))
        return [os.path.relpath(path, base) for path in found if _take_abandoned(path, remove=False)]

    def sweep(self, key: str) -> None:
        """Remove what writers that were killed have left below `key`; those that still write are left alone."""
        for name in self.abandoned(key):
            self.sweep_one(f"{key}/{name}" if key else name)

    def sweep_one(self, key: str) -> None:
        """Remove one of what `abandoned` named, unless it is gone or somebody writes it after all."""
        self._guard(key, lambda: _take_abandoned(self.path(key), remove=True))

    def _remove(self, path: str) -> None:
        if self._local:
            self._fs.rm(path, recursive=True)
        elif objects := self._fs.find(path):  # what is named like a folder is no object and cannot be deleted
            self._fs.rm(objects)

    def _open(self, path: str) -> tuple[BinaryIO, str]:
        """A file to write to, and its path for now. In a folder that is another one, locked as long as it is written."""
        if not self._local:
            return self._fs.open(path, "wb", block_size=_PART_BYTES), path
        self._fs.makedirs(os.path.dirname(path), exist_ok=True)
        while True:
            target = f"{path}.{uuid.uuid4().hex}{_PARTIAL}"
            file: BinaryIO = open(target, "wb")  # noqa: SIM115  (closed by the writer)
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    file.close()
                    raise
            if os.fstat(file.fileno()).st_nlink:
                return file, target
            file.close()  # swept away before it was locked

    def _finish(self, file: BinaryIO, target: str, path: str) -> None:
        if self._local:
            file.flush()
            os.fsync(file.fileno())
            os.replace(target, path)
        file.close()

    def _abandon(self, file: BinaryIO, target: str) -> None:
        if self._local:
            try:
                os.unlink(target)
            finally:
                file.close()
        else:
            file.closed = True  # type: ignore[misc]  # or its finaliser would still upload what is buffered
            file.discard()  # type: ignore[attr-defined]

    def _guard(self, key: str, call: Callable[[], _T]) -> _T:
        where = f"{self.url}/{key}"
        try:
            return call()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise Missing(f"{where} is not there") from error
        except PermissionError as error:
            raise StoreUnavailable(f"{where}: permission denied; check the store's credentials ({error})") from error
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise OutOfSpace(f"{where}: no space left on the device") from error
            raise _unavailable(where, error) from error
        except StorageError:
            raise
        except Exception as error:  # clients below fsspec raise types of their own; they leave here under one name
            raise _unavailable(where, error) from error


def _unavailable(where: str, error: Exception) -> StoreUnavailable:
    """What its callers are told of an error that is none of ours."""
    text = f"{where}: {type(error).__name__}: {error}"
    return Faltering(text, asked_s(error)) if passes(error) else StoreUnavailable(text)


def _write_all(file: BinaryIO, data: bytes | memoryview) -> None:
    file.write(data)


def _fact(info: Mapping[str, Any]) -> ObjectFact:
    keys = ("mtime", "LastModified", "last_modified", "updated", "created")
    modified: Any = next((info[key] for key in keys if info.get(key) is not None), None)
    if isinstance(modified, str):
        modified = datetime.fromisoformat(modified)
    modified_s = modified.timestamp() if isinstance(modified, datetime) else modified
    tag = next((str(info[key]) for key in ("ETag", "etag", "md5", "blob_id") if info.get(key)), str(modified_s))
    return ObjectFact(int(info.get("size") or 0), tag, modified_s)


def _take_abandoned(path: str, *, remove: bool) -> bool:
    """Whether the partial file at `path` has lost its writer, who would hold its lock; then it may be removed."""
    try:
        with open(path, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if remove:
                os.unlink(path)
            return True
    except (FileNotFoundError, BlockingIOError):
        return False
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return False
        raise


def _check_size(path: str, size_bytes: int, limit_bytes: int) -> None:
    if size_bytes > limit_bytes:
        raise Corrupt(f"{path} has {size_bytes:,} bytes, {limit_bytes:,} at most")


def protocol_of(url: str) -> str:
    """By what protocol `url` is reached; a path is a file's."""
    named = url.partition("://")[0] if "://" in url else "file"
    return _OWN_NAMES.get(named, named)
