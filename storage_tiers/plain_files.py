"""Files of this machine. What somebody else has named is read only if it is a plain file, and no further than it goes.

A pipe would hold the reader for ever, a device may do something on being opened, and what /proc shows has no length.
"""

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from storage_tiers.errors import Corrupt


@contextmanager
def open_regular(path: str | os.PathLike[str]) -> Iterator[tuple[int, int]]:
    """The file's descriptor and its length in bytes. Corrupt if it is not a plain file, OSError if it cannot be opened."""
    _check(path, os.stat(path))
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(fd)
        _check(path, found)
        yield fd, found.st_size
    finally:
        os.close(fd)


def regular_size(path: str | os.PathLike[str]) -> int | None:
    """Length of a plain file, None if there is none. OSError if that cannot be told."""
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def read_range(path: str | os.PathLike[str], offset_bytes: int, view: memoryview) -> int:
    """Fill `view` from the file; how many bytes there were. What `open_regular` raises."""
    with open_regular(path) as (fd, size_bytes):
        rest = view[: max(0, size_bytes - offset_bytes)]
        got = 0
        while got < len(rest) and (count := os.preadv(fd, [rest[got:]], offset_bytes + got)):
            got += count
        return got


@contextmanager
def whole(path: Path, mode: int = 0o666) -> Iterator[IO[bytes]]:
    """A new file beside `path`, which takes its place at the end, and goes if there is none: readers see all of it or what
    was there before. An OSError names `path`, which the system leaves out where a disk is full."""
    partial = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}.partial")
    try:
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb") as file:
            yield file
        os.replace(partial, path)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink()
        if isinstance(error, OSError) and error.filename in (None, os.fspath(partial)):
            error.filename = os.fspath(path)
        raise


def _check(path: str | os.PathLike[str], found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise Corrupt(f"{os.fspath(path)} is not a plain file")
