"""Memory that one process fills and others map without a copy: a pool of blocks in one memfd.

A unit takes whole blocks, wherever they are free, so nothing fragments; whoever maps it sees them in one row. Blocks
are made real ahead of their use by a thread, since that costs up to two seconds a gigabyte. The kernel frees the pool
with its last holder: a killed process leaks nothing.
"""

import ctypes
import mmap
import os
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass

from storage_tiers.errors import OutOfSpace

HUGE_PAGE_BYTES = BLOCK_BYTES = 2 << 20
_MADV_POPULATE_READ, _MADV_POPULATE_WRITE = 22, 23
_MAP_FIXED, _MAP_NORESERVE = 0x10, 0x4000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
]  # fmt: skip
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


@dataclass(frozen=True)
class Run:
    """A run of bytes in the pool."""

    offset_bytes: int
    size_bytes: int


class BlockPool:
    """`size_bytes` of memory in whole blocks, of which `ready_bytes` are kept real and free. Thread-safe.

    Takes huge pages when the machine has that many free (vm.nr_hugepages), ordinary ones else.
    """

    def __init__(self, size_bytes: int, ready_bytes: int = 0, block_bytes: int = BLOCK_BYTES) -> None:
        self.block_bytes = block_bytes
        self._blocks = max(1, size_bytes // block_bytes)
        self.size_bytes = self._blocks * block_bytes
        self.fd, self._map, self.huge = _make(self.size_bytes, huge=block_bytes % HUGE_PAGE_BYTES == 0)
        self.read_only_fd = os.open(f"/proc/self/fd/{self.fd}", os.O_RDONLY | os.O_CLOEXEC)
        self._view = memoryview(self._map)
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        self._condition = threading.Condition()
        self._real: list[int] = []
        self._raw = list(range(self._blocks))
        self._raw.reverse()
        self._making = self._asking = 0
        self._ready_blocks = min(-(-ready_bytes // self.block_bytes), self._blocks)
        self._closed = False
        self._thread: threading.Thread | None = None
        if self._ready_blocks:
            self._thread = threading.Thread(target=self._keep_ready, name="pool", daemon=True)
            self._thread.start()
        self._give_up = weakref.finalize(self, _close_all, self.fd, self.read_only_fd)

    @property
    def free_bytes(self) -> int:
        with self._condition:
            return (len(self._real) + len(self._raw) + self._making) * self.block_bytes

    @property
    def ready_bytes(self) -> int:
        """Free memory that is real already."""
        with self._condition:
            return len(self._real) * self.block_bytes

    def allocate(self, size_bytes: int) -> tuple[Run, ...]:
        """Blocks for `size_bytes`, as few runs as are found easily. OutOfSpace if there are not enough."""
        wanted = max(1, -(-size_bytes // self.block_bytes))
        with self._condition:
            if len(self._real) + len(self._raw) < wanted <= len(self._real) + len(self._raw) + self._making:
                self._asking += 1  # the block that is being made is in neither list, and is given to us first
                self._condition.wait_for(lambda: not self._making)
                self._asking -= 1
                self._condition.notify_all()
            if wanted > len(self._real) + len(self._raw):
                free = (len(self._real) + len(self._raw)) * self.block_bytes
                raise OutOfSpace(f"dram: {size_bytes:,} bytes asked, {free:,} are free")
            self._real.sort(reverse=True)
            taken = [self._real.pop() for _ in range(min(wanted, len(self._real)))]
            taken += [self._raw.pop() for _ in range(wanted - len(taken))]
            self._condition.notify_all()
        return _runs(sorted(taken), self.block_bytes)

    def free(self, runs: Sequence[Run]) -> None:
        """Give blocks back; they stay real."""
        blocks = [
            block
            for run in runs
            for block in range(
                run.offset_bytes // self.block_bytes, (run.offset_bytes + run.size_bytes) // self.block_bytes
            )
        ]
        with self._condition:
            self._real += blocks

    def views(self, runs: Sequence[Run], offset_bytes: int, size_bytes: int) -> list[memoryview]:
        """Writable views of [offset, offset + size) of what `runs` hold in a row."""
        found: list[memoryview] = []
        for run in runs:
            if size_bytes <= 0:
                break
            if offset_bytes < run.size_bytes:
                start = run.offset_bytes + offset_bytes
                length = min(run.size_bytes - offset_bytes, size_bytes)
                found.append(self._view[start : start + length])
                size_bytes -= length
                offset_bytes = 0
            else:
                offset_bytes -= run.size_bytes
        return found

    def close(self) -> None:
        """Give the memory up; what others have mapped stays theirs."""
        with self._condition:
            if self._closed:
                return
            self._closed = True
            self._condition.notify_all()
        if self._thread is not None:
            self._thread.join()
        self._give_up()

    def _keep_ready(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(self._may_make)
                if self._closed:
                    return
                block = self._raw.pop()
                self._making = 1
            _libc.madvise(self._address + block * self.block_bytes, self.block_bytes, _MADV_POPULATE_WRITE)
            with self._condition:
                self._real.append(block)
                self._making = 0
                self._condition.notify_all()

    def _may_make(self) -> bool:
        wanted = bool(self._raw) and len(self._real) < self._ready_blocks
        return self._closed or (wanted and not self._asking)


def _close_all(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _make(size_bytes: int, huge: bool) -> tuple[int, mmap.mmap, bool]:
    if huge and _free_huge_bytes() >= size_bytes:
        fd = os.memfd_create("firsttoken", os.MFD_CLOEXEC | os.MFD_HUGETLB | os.MFD_HUGE_2MB)
        try:
            os.ftruncate(fd, size_bytes)
            return fd, mmap.mmap(fd, size_bytes), True
        except OSError:  # somebody else took them first
            os.close(fd)
    fd = os.memfd_create("firsttoken", os.MFD_CLOEXEC)
    try:
        os.ftruncate(fd, size_bytes)
        return fd, mmap.mmap(fd, size_bytes), False
    except BaseException:
        os.close(fd)
        raise


def _free_huge_bytes() -> int:
    try:
        with open("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages") as file:
            return int(file.read()) * HUGE_PAGE_BYTES
    except OSError:
        return 0


def _runs(blocks: Sequence[int], block_bytes: int) -> tuple[Run, ...]:
    """Neighbouring blocks joined."""
    runs: list[list[int]] = []
    for block in blocks:
        if runs and runs[-1][1] == block:
            runs[-1][1] = block + 1
        else:
            runs.append([block, block + 1])
    return tuple(Run(first * block_bytes, (end - first) * block_bytes) for first, end in runs)


def map_runs(fd: int, runs: Sequence[Run]) -> "ctypes.Array[ctypes.c_char]":
    """The runs of a pool in one row, readable, for whoever holds the pool's descriptor.

    The result is a buffer; its memory is unmapped when nothing refers to it any more. Writing to it is a fault.
    """
    total = sum(run.size_bytes for run in runs)
    reserved = total + HUGE_PAGE_BYTES  # huge pages must lie at multiples of their size
    protection, flags = mmap.PROT_READ, mmap.MAP_SHARED | _MAP_FIXED
    room = _mmap(None, reserved, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE, -1, 0)
    try:
        start = at = -(-room // HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES
        for run in runs:
            _mmap(at, run.size_bytes, protection, flags, fd, run.offset_bytes)
            at += run.size_bytes
        memory = (ctypes.c_char * total).from_address(start)
    except BaseException:
        _libc.munmap(room, reserved)
        raise
    weakref.finalize(memory, _libc.munmap, room, reserved)
    return memory


def populate(memory: "ctypes.Array[ctypes.c_char]") -> None:
    """Enter mapped memory into this process's page tables now, rather than page by page at first use."""
    _libc.madvise(ctypes.addressof(memory), len(memory), _MADV_POPULATE_READ)


def _mmap(address: int | None, size_bytes: int, protection: int, flags: int, fd: int, offset_bytes: int) -> int:
    found = _libc.mmap(address, size_bytes, protection, flags, fd, offset_bytes)
    if found is None or found == ctypes.c_void_p(-1).value:
        error = ctypes.get_errno()
        raise OSError(error, f"cannot map {size_bytes:,} bytes: {os.strerror(error)}")
    return int(found)
