"""Folders that sources lie in: on this machine, or behind any fsspec URL. Read by name and range, never whole."""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from storage_tiers.errors import Corrupt, Missing, SourceError
from storage_tiers.object_store import ObjectFact, ObjectStore

REMOTE_PIECE_BYTES = 8 << 20


class Folder(Protocol):
    """Files in one folder, without those in folders below. Thread-safe.

    SourceError says that a file is absent or unreadable, StoreUnavailable that trying again may help.
    """

    @property
    def where(self) -> str:
        """What a person calls it."""

    @property
    def is_local(self) -> bool:
        """Whether `local` costs nothing."""

    @property
    def piece_bytes(self) -> int:
        """How much to ask for at once, a multiple of every tensor element's size."""

    def files(self) -> Mapping[str, ObjectFact]:
        """All files by name, as they are now."""

    def below(self, name: str) -> "Folder":
        """A folder in this one; without files if there is none of that name."""

    def read(self, name: str) -> bytes:
        """A small file."""

    def read_into(self, name: str, offset_bytes: int, view: memoryview) -> None:
        """Fill `view` with the file's bytes from `offset_bytes`. SourceError if it ends before."""

    def url(self, name: str) -> str:
        """Where every node can read the file. SourceError if there is no such place."""

    def local(self, names: Sequence[str]) -> AbstractContextManager[Path]:
        """A folder on this machine that holds these files as long as the block lasts."""


def read_small(folder: Folder, name: str, limit_bytes: int) -> bytes:
    """A file that is held whole. SourceError if it is absent, or larger than such a file can be."""
    facts = folder.files()
    if name in facts and facts[name].size_bytes > limit_bytes:
        raise SourceError(f"{folder.where}/{name} has {facts[name].size_bytes:,} bytes, {limit_bytes:,} at most")
    return folder.read(name)


class LocalFolder:
    """A folder on this machine."""

    is_local = True
    piece_bytes = 1 << 20

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def where(self) -> str:
        return str(self._path)

    def below(self, name: str) -> "LocalFolder":
        return LocalFolder(self._path / name)

    def files(self) -> Mapping[str, ObjectFact]:
        found: dict[str, ObjectFact] = {}
        try:
            for entry in sorted(self._path.iterdir()):
                if entry.is_file():
                    stat = entry.stat()
                    found[entry.name] = ObjectFact(stat.st_size, str(stat.st_mtime_ns), stat.st_mtime)
        except FileNotFoundError:
            return found
        except OSError as error:
            raise SourceError(f"cannot read the source: {error}") from error
        return found

    def read(self, name: str) -> bytes:
        try:
            return (self._path / name).read_bytes()
        except OSError as error:
            raise SourceError(f"cannot read {self._path / name}: {error}") from error

    def read_into(self, name: str, offset_bytes: int, view: memoryview) -> None:
        try:
            with open(self._path / name, "rb", buffering=0) as file:
                file.seek(offset_bytes)
                while len(view):
                    got = file.readinto(view)
                    if not got:
                        raise SourceError(f"{self._path / name} ended early while it was read; was it changed?")
                    view = view[got:]
        except OSError as error:
            raise SourceError(f"cannot read {self._path / name}: {error}") from error

    def url(self, name: str) -> str:
        return f"file://{(self._path / name).resolve()}"

    def local(self, names: Sequence[str]) -> AbstractContextManager[Path]:
        return contextlib.nullcontext(self._path)


class RemoteFolder:
    """A folder behind an fsspec URL."""

    is_local = False
    piece_bytes = REMOTE_PIECE_BYTES

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects

    @property
    def where(self) -> str:
        return self._objects.url

    def below(self, name: str) -> "RemoteFolder":
        return RemoteFolder(ObjectStore(f"{self.where}/{name}", self._objects.options, self._objects.reader))

    def files(self) -> Mapping[str, ObjectFact]:
        return self._objects.facts("", recursive=False)

    def read(self, name: str) -> bytes:
        try:
            return self._objects.read(name)
        except Missing as error:
            raise SourceError(f"cannot read {self.where}/{name}: it is not there") from error

    def read_into(self, name: str, offset_bytes: int, view: memoryview) -> None:
        try:
            self._objects.read_into(name, offset_bytes, view)
        except (Missing, Corrupt) as error:
            raise SourceError(f"{error}; was it changed while it was read?") from error

    def url(self, name: str) -> str:
        return f"{self.where.rstrip('/')}/{name}"

    def local(self, names: Sequence[str]) -> AbstractContextManager[Path]:
        return downloaded(self, names)


@contextlib.contextmanager
def downloaded(folder: Folder, names: Sequence[str]) -> Iterator[Path]:
    """A temporary folder with copies of `names`, written piece by piece, gone when the block ends."""
    facts = folder.files()
    with tempfile.TemporaryDirectory(prefix="firsttoken-source-") as temporary:
        for name in names:
            if name not in facts:
                raise SourceError(f"cannot read {folder.where}/{name}: it is not there")
            _copy(folder, name, facts[name].size_bytes, Path(temporary) / name)
        yield Path(temporary)


def _copy(folder: Folder, name: str, size_bytes: int, path: Path) -> None:
    buffer = memoryview(bytearray(min(REMOTE_PIECE_BYTES, size_bytes)))
    try:
        with open(path, "wb") as file:
            for start in range(0, size_bytes, REMOTE_PIECE_BYTES):
                piece = buffer[: min(REMOTE_PIECE_BYTES, size_bytes - start)]
                folder.read_into(name, start, piece)
                file.write(piece)
    except OSError as error:
        reason = f"{name} needs {size_bytes:,} bytes in {os.path.dirname(path)}"
        raise SourceError(f"cannot keep a copy of {folder.where}/{name}: {error.strerror} ({reason})") from error
