"""What a pool's memory is made of, and when it becomes real."""

import contextlib
import ctypes
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from storage_tiers.tiers.shared_memory import BLOCK_BYTES, BlockPool, Pages, map_runs, populate

_HUGE_PAGES_AT_WILL = (6, 1)
_PR_SET_THP_DISABLE = 41


def _real_bytes(pool: BlockPool) -> int:
    return os.fstat(pool.fd).st_blocks * 512


def _smaps_kb(address: int, key: str) -> int:
    """A number of this process's mapping that begins at an address."""
    found = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, _, rest = line.partition(" ")
        if not name.endswith(":"):
            found = int(name.split("-")[0], 16) == address
        elif found and name == key:
            return int(rest.split()[0])
    raise LookupError(f"{key} of {address:x}")


def test_a_pool_has_huge_pages_on_a_machine_where_nobody_has_set_anything() -> None:
    release = tuple(int(part) for part in os.uname().release.split(".")[:2])
    if release < _HUGE_PAGES_AT_WILL or not Path("/sys/kernel/mm/transparent_hugepage").exists():
        pytest.skip("the kernel makes no huge pages of shared memory")
    with contextlib.suppress(OSError):  # a machine that tests ran on for hours has none in a row
        Path("/proc/sys/vm/compact_memory").write_text("1")
    pool = BlockPool(32 * BLOCK_BYTES)
    try:
        assert pool.pages in (Pages.COLLAPSED, Pages.RESERVED)
        runs = pool.allocate(16 * BLOCK_BYTES)
        pool.views(runs, 0, 16 * BLOCK_BYTES)
        memory = map_runs(pool.read_only_fd, runs)
        populate(memory)
        if pool.pages is Pages.COLLAPSED:  # those that were reserved are huge by nature
            assert _smaps_kb(ctypes.addressof(memory), "ShmemPmdMapped:") * 1024 == 16 * BLOCK_BYTES
    finally:
        pool.close()


def test_memory_becomes_real_when_it_is_to_be_written_and_not_before() -> None:
    pool = BlockPool(32 * BLOCK_BYTES)
    try:
        before = _real_bytes(pool)
        runs = pool.allocate(16 * BLOCK_BYTES)
        assert _real_bytes(pool) == before <= BLOCK_BYTES
        pool.views(runs, 4 * BLOCK_BYTES + 1, 2 * BLOCK_BYTES)
        assert _real_bytes(pool) - before == 3 * BLOCK_BYTES
    finally:
        pool.close()


def test_blocks_that_come_back_unused_are_not_taken_for_real_ones() -> None:
    pool = BlockPool(8 * BLOCK_BYTES)
    try:
        runs = pool.allocate(8 * BLOCK_BYTES)
        pool.views(runs, 0, 3 * BLOCK_BYTES)
        pool.free(runs)
        assert (pool.ready_bytes, pool.free_bytes) == (3 * BLOCK_BYTES, 8 * BLOCK_BYTES)
        again = pool.allocate(8 * BLOCK_BYTES)
        for view in pool.views(again, 0, 8 * BLOCK_BYTES):
            view[:] = b"\1" * len(view)
        assert _real_bytes(pool) == 8 * BLOCK_BYTES
    finally:
        pool.close()


def test_threads_that_write_into_one_block_at_once_all_find_it_real() -> None:
    """A chunk ends where it ends, so two readers may share a block: what one wrote must not be lost to the other."""
    pool = BlockPool(64 * BLOCK_BYTES)
    piece = BLOCK_BYTES // 4
    try:
        runs = pool.allocate(64 * BLOCK_BYTES)
        together = threading.Barrier(4, timeout=60)

        def write(number: int) -> None:
            for block in range(64):
                together.wait()
                for view in pool.views(runs, block * BLOCK_BYTES + number * piece, piece):
                    view[:] = bytes([number + 1]) * piece

        threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        expected = b"".join(bytes([number + 1]) * piece for number in range(4))
        found = memoryview(map_runs(pool.read_only_fd, runs)).cast("B")
        for block in range(64):
            assert found[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES] == expected
    finally:
        pool.close()


def test_a_piece_is_real_when_all_its_blocks_are_and_that_is_told_once() -> None:
    """A GPU's driver may pin it then; pinning a raw block would take memory that nobody has asked for."""
    pool, told = BlockPool(10 * 4096, block_bytes=4096, piece_bytes=4 * 4096), list[int]()
    pool.on_real(told.append)
    try:
        runs = pool.allocate(10 * 4096)
        assert pool.real_pieces() == ()
        for _ in range(2):
            pool.views(runs, 0, 3 * 4096)
        assert (pool.real_pieces(), told) == ((), [])
        pool.views(runs, 3 * 4096, 1)
        assert (pool.real_pieces(), told) == ((0,), [0])
        pool.views(runs, 8 * 4096, 2 * 4096)
        assert (pool.real_pieces(), told) == ((0, 2), [0, 2]), "the last is as long as what is left"
        pool.free(runs)
        again = pool.allocate(10 * 4096)
        pool.views(again, 0, 10 * 4096)
        assert (pool.real_pieces(), told) == ((0, 1, 2), [0, 2, 1])
    finally:
        pool.close()


def test_pieces_that_become_real_ahead_of_their_use_are_told_of_too() -> None:
    pool = BlockPool(8 * 4096, ready_bytes=8 * 4096, block_bytes=4096, piece_bytes=4 * 4096)
    try:
        while len(pool.real_pieces()) < 2:
            threading.Event().wait(0.001)
        assert pool.ready_bytes == 8 * 4096
    finally:
        pool.close()


_WITHOUT_HUGE_PAGES = f"""
import ctypes, logging
from storage_tiers.tiers import shared_memory as memory
logging.basicConfig(format="%(levelname)s %(message)s", level=logging.INFO)
assert ctypes.CDLL(None).prctl({_PR_SET_THP_DISABLE}, 1, 0, 0, 0) == 0
memory._free_huge_bytes = lambda: 0
pool = memory.BlockPool(4 * memory.BLOCK_BYTES)
runs = pool.allocate(4 * memory.BLOCK_BYTES)
pool.views(runs, 5, 5)[0][:] = b"hello"
print(pool.pages.name, bytes(memoryview(memory.map_runs(pool.read_only_fd, runs)).cast("B")[5:10]).decode())
"""


def test_where_no_huge_pages_can_be_had_small_ones_do_and_it_says_how_to_get_better() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_HUGE_PAGES], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == ["SMALL", "hello"]
    assert done.stderr.startswith("WARNING dram: 8,388,608 bytes in small pages")
    assert "sysctl vm.nr_hugepages=4" in done.stderr
