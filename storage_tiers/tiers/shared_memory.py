"""Memory that one process fills and others map without a copy: a pool of blocks in one memfd.

A unit takes whole blocks, wherever they are free, so nothing fragments; whoever maps it sees them in one row. Blocks
are made real ahead of their use by a thread, since that costs up to two seconds a gigabyte; what a load needs beyond
them its own threads make real. The kernel frees the pool with its last holder: a killed process leaks nothing.

A block is a huge page wherever that can be had: reading into small pages makes the kernel pin each by itself, which
costs as much as the reading. Reserved ones (vm.nr_hugepages) are taken if they suffice; else the kernel is asked to put
each block together (MADV_COLLAPSE), for which it needs neither privileges nor a setting.
"""

import ctypes
import logging
import mmap
import os
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from storage_tiers.errors import OutOfSpace

_log = logging.getLogger(__name__)
HUGE_PAGE_BYTES = BLOCK_BYTES = 2 << 20
PIECE_BYTES = 64 << 20
"""What is pinned at once by who copies from a pool to a GPU: whole blocks. Each takes the driver's lock for some 2 ms."""
_MADV_POPULATE_READ, _MADV_POPULATE_WRITE, _MADV_COLLAPSE = 22, 23, 25
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


class Pages(Enum):
    """What a pool's blocks are made of."""

    RESERVED = "huge pages that were reserved"
    COLLAPSED = "huge pages, made as they are needed"
    SMALL = "small pages"


class BlockPool:
    """`size_bytes` of memory in whole blocks, of which `ready_bytes` are kept real and free. Thread-safe.

    A block is real or raw while it is free; one that is handed out raw is promised, until `views` makes it real.
    """

    def __init__(
        self, size_bytes: int, ready_bytes: int = 0, block_bytes: int = BLOCK_BYTES, piece_bytes: int = PIECE_BYTES
    ) -> None:
        self.block_bytes, self.piece_bytes = block_bytes, piece_bytes
        self._blocks = max(1, size_bytes // block_bytes)
        self.size_bytes = self._blocks * block_bytes
        self.fd, memory, self.pages = _make(self.size_bytes, huge=block_bytes == HUGE_PAGE_BYTES)
        self.read_only_fd = os.open(f"/proc/self/fd/{self.fd}", os.O_RDONLY | os.O_CLOEXEC)
        self._view = memoryview(memory).cast("B")
        self._address = ctypes.addressof(memory)
        self._condition = threading.Condition()
        self._real: list[int] = []
        self._raw = list(range(self._blocks))
        self._raw.reverse()
        self._ahead = self._asking = 0
        self._promised: set[int] = set()
        self._making: set[int] = set()
        self._in_pieces = False
        self._raw_in_piece = Counter(block * block_bytes // piece_bytes for block in range(self._blocks))
        self._listeners: list[Callable[[int], None]] = []
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
            return (len(self._real) + len(self._raw) + self._ahead) * self.block_bytes

    @property
    def ready_bytes(self) -> int:
        """Free memory that is real already."""
        with self._condition:
            return len(self._real) * self.block_bytes

    def real_pieces(self) -> tuple[int, ...]:
        """Pieces of `piece_bytes`, by number, whose blocks are all real: once real, always real."""
        with self._condition:
            return tuple(piece for piece, raw in self._raw_in_piece.items() if not raw)

    def on_real(self, tell: Callable[[int], None]) -> None:
        """From now on, `tell` of each piece that becomes real. It is called from any thread, and must not take long."""
        with self._condition:
            self._listeners.append(tell)

    def allocate(self, size_bytes: int) -> tuple[Run, ...]:
        """Blocks for `size_bytes`, as few runs as are found easily. OutOfSpace if there are not enough."""
        wanted = max(1, -(-size_bytes // self.block_bytes))
        with self._condition:
            if len(self._real) + len(self._raw) < wanted <= len(self._real) + len(self._raw) + self._ahead:
                self._asking += 1  # the block that is being made is in neither list, and is given to us first
                self._condition.wait_for(lambda: not self._ahead)
                self._asking -= 1
                self._condition.notify_all()
            if wanted > len(self._real) + len(self._raw):
                free = (len(self._real) + len(self._raw)) * self.block_bytes
                raise OutOfSpace(f"dram: {size_bytes:,} bytes asked, {free:,} are free")
            self._real.sort(reverse=True)
            taken = [self._real.pop() for _ in range(min(wanted, len(self._real)))]
            promised = [self._raw.pop() for _ in range(wanted - len(taken))]
            self._promised.update(promised)
            taken += promised
            self._condition.notify_all()
        return _runs(sorted(taken), self.block_bytes)

    def free(self, runs: Sequence[Run]) -> None:
        """Give blocks back; those that are real stay it."""
        blocks = [
            block
            for run in runs
            for block in range(
                run.offset_bytes // self.block_bytes, (run.offset_bytes + run.size_bytes) // self.block_bytes
            )
        ]
        with self._condition:
            self._raw += [block for block in blocks if block in self._promised]
            self._real += [block for block in blocks if block not in self._promised]
            self._promised.difference_update(blocks)

    def views(self, runs: Sequence[Run], offset_bytes: int, size_bytes: int) -> list[memoryview]:
        """Writable views of [offset, offset + size) of what `runs` hold in a row, made real if it was not."""
        found: list[memoryview] = []
        for run in runs:
            if size_bytes <= 0:
                break
            if offset_bytes < run.size_bytes:
                start = run.offset_bytes + offset_bytes
                length = min(run.size_bytes - offset_bytes, size_bytes)
                self._have_real(start // self.block_bytes, -(-(start + length) // self.block_bytes))
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
                self._ahead = 1
            self._make_real(block)
            with self._condition:
                self._real.append(block)
                self._ahead = 0
                self._condition.notify_all()
            self._note_real(block)

    def _may_make(self) -> bool:
        wanted = bool(self._raw) and len(self._real) < self._ready_blocks
        return self._closed or (wanted and not self._asking)

    def _have_real(self, first: int, end: int) -> None:
        """The blocks of a range are real when this returns, whoever else is at them."""
        for block in range(first, end):
            with self._condition:
                while block in self._making:
                    self._condition.wait()
                if block not in self._promised:
                    continue
                self._promised.remove(block)
                self._making.add(block)
            try:
                self._make_real(block)
            finally:
                with self._condition:
                    self._making.remove(block)
                    self._condition.notify_all()
            self._note_real(block)

    def _note_real(self, block: int) -> None:
        piece = block * self.block_bytes // self.piece_bytes
        with self._condition:
            self._raw_in_piece[piece] -= 1
            listeners = () if self._raw_in_piece[piece] else tuple(self._listeners)
        for tell in listeners:
            tell(piece)

    def _make_real(self, block: int) -> None:
        address = self._address + block * self.block_bytes
        if self.pages is Pages.COLLAPSED and not _collapse(address) and not self._in_pieces:
            self._in_pieces = True
            _log.warning(
                "dram: the machine's memory is too fragmented for huge pages; some units lie in small ones, "
                "which are slower to load to. To have them for sure, %s",
                _reserve(self.size_bytes),
            )
        _libc.madvise(address, self.block_bytes, _MADV_POPULATE_WRITE)


def _close_all(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _make(size_bytes: int, huge: bool) -> tuple[int, "ctypes.Array[ctypes.c_char]", Pages]:
    """A memfd, mapped writable, of the best pages that can be had."""
    if huge and _free_huge_bytes() >= size_bytes:
        try:
            fd, memory = _make_of(size_bytes, os.MFD_HUGETLB | os.MFD_HUGE_2MB)
        except OSError:  # somebody else took them first
            pass
        else:
            _log.info("dram: %s bytes in %s", f"{size_bytes:,}", Pages.RESERVED.value)
            return fd, memory, Pages.RESERVED
    fd, memory = _make_of(size_bytes, 0)
    if not huge:
        return fd, memory, Pages.SMALL
    if _collapse(ctypes.addressof(memory)):
        _log.info("dram: %s bytes in %s", f"{size_bytes:,}", Pages.COLLAPSED.value)
        return fd, memory, Pages.COLLAPSED
    _log.warning(
        "dram: %s bytes in %s, which are slower to load to: this kernel makes no huge ones for shared memory "
        "(Linux 6.1 and later do). To have them, %s",
        f"{size_bytes:,}", Pages.SMALL.value, _reserve(size_bytes),
    )  # fmt: skip
    return fd, memory, Pages.SMALL


def _make_of(size_bytes: int, flags: int) -> tuple[int, "ctypes.Array[ctypes.c_char]"]:
    fd = os.memfd_create("firsttoken", os.MFD_CLOEXEC | flags)
    try:
        os.ftruncate(fd, size_bytes)
        return fd, map_runs(fd, [Run(0, size_bytes)], mmap.PROT_READ | mmap.PROT_WRITE)
    except BaseException:
        os.close(fd)
        raise


def _collapse(address: int) -> bool:
    """Make one huge page, real, of raw memory at a multiple of its size; whether the kernel could.

    It puts together what is there, so something must be: one small page.
    """
    _libc.madvise(address, mmap.PAGESIZE, _MADV_POPULATE_WRITE)
    return not _libc.madvise(address, HUGE_PAGE_BYTES, _MADV_COLLAPSE)


def _reserve(size_bytes: int) -> str:
    return f"reserve them when the machine starts: sysctl vm.nr_hugepages={-(-size_bytes // HUGE_PAGE_BYTES)}"


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


def map_runs(fd: int, runs: Sequence[Run], protection: int = mmap.PROT_READ) -> "ctypes.Array[ctypes.c_char]":
    """The runs of a pool in one row, readable, for whoever holds the pool's descriptor.

    The result is a buffer; its memory is unmapped when nothing refers to it any more. Writing to it is a fault, unless
    `protection` says otherwise.
    """
    total = sum(run.size_bytes for run in runs)
    reserved = total + HUGE_PAGE_BYTES  # huge pages must lie at multiples of their size
    flags = mmap.MAP_SHARED | _MAP_FIXED
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
    weakref.finalize(memory, _libc.munmap, room, reserved).atexit = False  # threads may still be at it
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
