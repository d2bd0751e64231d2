"""What the kernel keeps of files in memory, and how to make it forget them, so that a read is a read from the disk."""

import ctypes
import mmap
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

_DROP_CACHES = Path("/proc/sys/vm/drop_caches")
_TOLERATED = 0.001
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]


class StillCached(Exception):
    """The files could not be put out of the page cache, so a cold read of them cannot be measured."""


def evict(paths: Sequence[Path]) -> None:
    """Put the files out of the page cache, for root by dropping all of it if need be. StillCached if they stay."""
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)
    if _too_much(paths) and os.geteuid() == 0:
        _DROP_CACHES.write_text("1")
    if left := _too_much(paths):
        raise StillCached(f"{left:,} bytes stay in the page cache; is another process using the benchmark's files?")


def warm(paths: Sequence[Path]) -> None:
    """Read the files once, so that they are in the page cache."""
    buffer = bytearray(16 << 20)
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def resident_bytes(path: Path) -> int:
    """How much of a file is in the page cache."""
    size = path.stat().st_size
    if not size:
        return 0
    pages = np.zeros(-(-size // mmap.PAGESIZE), np.uint8)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as mapped:
        address = np.frombuffer(mapped, np.uint8).ctypes.data
        if _libc.mincore(address, size, pages.ctypes.data):
            error = ctypes.get_errno()
            raise OSError(error, f"mincore of {path}: {os.strerror(error)}")
    return int((pages & 1).sum()) * mmap.PAGESIZE


def _too_much(paths: Sequence[Path]) -> int:
    """Bytes that are still there, 0 if they hardly count."""
    left = sum(map(resident_bytes, paths))
    return left if left > _TOLERATED * sum(path.stat().st_size for path in paths) else 0
