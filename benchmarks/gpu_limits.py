"""What a device, its bus and a disk can do by the plainest means, in the same run as what is held against them.

python -m benchmarks.gpu_limits DEVICE  -> the rates of a device as one line of JSON
"""

import json
import mmap
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
_DEADLINE_S = 120.0
_READERS, _BLOCK_BYTES = 8, 16 << 20
_RUNS, _COPIES = 5, 8


@dataclass(frozen=True)
class DeviceLimits:
    """Of memory on the device what a copy within it reads and writes together; on a CPU all three are copies in memory."""

    pinned_bytes_per_s: float
    pageable_bytes_per_s: float
    memory_bytes_per_s: float


def device_limits(device: str, size_bytes: int) -> DeviceLimits:
    """Measured by a process of its own with buffers of that size. CalledProcessError if it cannot be."""
    command = [sys.executable, "-m", "benchmarks.gpu_limits", device, str(size_bytes)]
    done = subprocess.run(command, text=True, check=True, cwd=_ROOT, stdout=subprocess.PIPE, timeout=_DEADLINE_S)
    return DeviceLimits(**json.loads(done.stdout.splitlines()[-1]))


def disk_bytes_per_s(folder: Path, size_bytes: int) -> float:
    """Several threads read a file past the page cache; it is made in the folder, and removed."""
    path, count = folder / "limit", max(1, size_bytes // _BLOCK_BYTES)
    buffers = [mmap.mmap(-1, _BLOCK_BYTES) for _ in range(_READERS)]
    fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_DIRECT, 0o600)
    try:
        buffers[0][:] = os.urandom(_BLOCK_BYTES)
        for index in range(count):
            os.pwrite(fd, buffers[0], index * _BLOCK_BYTES)
        os.fsync(fd)

        def read(reader: int) -> None:
            for index in range(reader, count, _READERS):
                if os.preadv(fd, [buffers[reader]], index * _BLOCK_BYTES) != _BLOCK_BYTES:
                    raise EOFError(path)

        started_s = time.perf_counter()
        with ThreadPoolExecutor(_READERS) as pool:
            list(pool.map(read, range(_READERS)))
        return count * _BLOCK_BYTES / (time.perf_counter() - started_s)
    finally:
        os.close(fd)
        path.unlink()


def _measure(device: str, size_bytes: int) -> DeviceLimits:
    import torch

    on_gpu = device.startswith("cuda")
    synchronize: Callable[[], None] = torch.cuda.synchronize if on_gpu else lambda: None

    def best(target: torch.Tensor, source: torch.Tensor, copies: int) -> float:
        found = float("inf")
        for _ in range(_RUNS):
            synchronize()
            started_s = time.perf_counter()
            for _ in range(copies):
                target.copy_(source, non_blocking=True)
            synchronize()
            found = min(found, (time.perf_counter() - started_s) / copies)
        return size_bytes / found

    target, other = (torch.ones(size_bytes, dtype=torch.uint8, device=device) for _ in range(2))
    pageable = torch.ones(size_bytes, dtype=torch.uint8)
    pinned = pageable.pin_memory() if on_gpu else pageable
    return DeviceLimits(best(target, pinned, 1), best(target, pageable, 1), 2 * best(target, other, _COPIES))


def main() -> None:
    print(json.dumps(asdict(_measure(sys.argv[1], int(sys.argv[2])))))


if __name__ == "__main__":
    main()
