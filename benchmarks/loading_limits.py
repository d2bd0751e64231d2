"""What the disk and the link can do: the same bytes by the plainest means, into memory that is ready. No more is possible.

Loaders for loading_worker; all is read before the first tensor is handed out, so Measured.loaded_s is reading alone.
"""

import http.client
import json
import mmap
import os
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import botocore.session
import crc32c
import torch
from botocore.config import Config

from benchmarks.loading_ours import model_store, tensors_in
from benchmarks.loading_worker import Job, Load, Measured
from storage_tiers.checkpoint import UnitIndex

THREADS = 4
RANGE_BYTES = 16 << 20
PRESIGNED_S = 3600
_CHECKED_RANGES = 32
_MADV_POPULATE_WRITE = 23

Range = tuple[int, int, memoryview]
"""Index of a unit, offset in it, and where its bytes belong."""


def ready_memory(size_bytes: int) -> mmap.mmap:
    """Private memory in huge pages where the kernel gives them, made real."""
    memory = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    memory.madvise(_MADV_POPULATE_WRITE)
    return memory


def units_of(job: Job) -> Sequence[UnitIndex]:
    """The units of the job's model."""
    return model_store(job.store_url, job.store_options).open(job.model).units


def read_ranges(
    units: Sequence[UnitIndex], buffers: Sequence[mmap.mmap], reader: Callable[[], Callable[[Range], None]]
) -> None:
    """Fill the buffers range by range with some threads; each thread has a `reader` of its own."""
    ranges = iter([
        (index, start, memoryview(buffers[index])[start : min(start + RANGE_BYTES, unit.size_bytes)])
        for index, unit in enumerate(units)
        for start in range(0, unit.size_bytes, RANGE_BYTES)
    ])  # fmt: skip
    lock = threading.Lock()
    errors: list[BaseException] = []

    def work() -> None:
        try:
            read = reader()
            while not errors:
                with lock:
                    wanted = next(ranges, None)
                if wanted is None:
                    return
                read(wanted)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def unit_tensors(units: Sequence[UnitIndex], buffers: Sequence[mmap.mmap]) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of units that lie in buffers."""
    for unit, buffer in zip(units, buffers, strict=True):
        yield from tensors_in(unit, buffer).items()


def into_memory(job: Job, reader: Callable[[Sequence[UnitIndex]], Callable[[], Callable[[Range], None]]]) -> Load:
    """A load of all units into ready memory by threads that each call what `reader` makes."""
    units = units_of(job)
    buffers = [ready_memory(unit.size_bytes) for unit in units]
    make = reader(units)

    def load() -> Iterator[tuple[str, torch.Tensor]]:
        read_ranges(units, buffers, make)
        yield from unit_tensors(units, buffers)

    return load


def raw_disk(job: Job, stack: ExitStack) -> Load:
    """The job's files, one per unit, by threads past the page cache."""
    fds = [os.open(path, os.O_RDONLY | os.O_DIRECT) for path in job.files]
    for fd in fds:
        stack.callback(os.close, fd)

    def read(wanted: Range) -> None:
        index, start, view = wanted
        done = 0
        while done < len(view):
            count = os.preadv(fds[index], [view[done:]], start + done)
            if not count:
                raise EOFError(job.files[index])
            done += count

    return into_memory(job, lambda _units: lambda: read)


def checksum_cpu_s_per_gb() -> float:
    """What one thread takes to find the checksums of bytes in memory, as every load does: no less than that."""
    memory = memoryview(ready_memory(_CHECKED_RANGES * RANGE_BYTES))
    taken = []
    for start in range(0, len(memory), RANGE_BYTES):
        since_s = time.thread_time()
        crc32c.crc32c(memory[start : start + RANGE_BYTES])
        taken.append(time.thread_time() - since_s)
    return statistics.median(taken) / (RANGE_BYTES / 1e9)


def plain_http(job: Job, stack: ExitStack) -> Load:
    """The units by ranges over a connection per thread, from addresses signed beforehand."""
    client = botocore.session.get_session().create_client(
        "s3",
        region_name="us-east-1",
        endpoint_url=job.store_options["endpoint_url"],
        aws_access_key_id=job.store_options["key"],
        aws_secret_access_key=job.store_options["secret"],
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
    )
    bucket = urlsplit(job.store_url).netloc
    endpoint = urlsplit(job.store_options["endpoint_url"])

    def reader(units: Sequence[UnitIndex]) -> Callable[[], Callable[[Range], None]]:
        paths = [
            client.generate_presigned_url(
                "get_object", {"Bucket": bucket, "Key": f"{job.model}/{unit.key}"}, PRESIGNED_S
            ).removeprefix(f"{endpoint.scheme}://{endpoint.netloc}")
            for unit in units
        ]

        def connect() -> Callable[[Range], None]:
            connection = http.client.HTTPConnection(endpoint.netloc, timeout=60)
            stack.callback(connection.close)
            return lambda wanted: _get_range(connection, paths[wanted[0]], wanted)

        return connect

    return into_memory(job, reader)


def _get_range(connection: http.client.HTTPConnection, path: str, wanted: Range) -> None:
    _, start, view = wanted
    connection.request("GET", path, headers={"Range": f"bytes={start}-{start + len(view) - 1}"})
    answer = connection.getresponse()
    if answer.status != 206:
        raise RuntimeError(f"the store answered {answer.status} to a range: {answer.read(500)!r}")
    done = 0
    while done < len(view):
        count = answer.readinto(view[done:])
        if not count:
            raise EOFError(path)
        done += count
    answer.read()


def fio(file: Path) -> Measured:
    """What fio reads of one file with as many threads and blocks as we, into huge pages as ours are. Needs fio.

    On small pages it is less than half as fast, since the kernel must pin each of them: huge ones are asked of malloc.
    """
    share = file.stat().st_size // THREADS // RANGE_BYTES * RANGE_BYTES
    command = [
        "fio", "--name=read", f"--filename={file}", "--rw=read", "--direct=1", f"--bs={RANGE_BYTES}", "--iomem_align=2M",
        "--ioengine=psync", "--thread", f"--numjobs={THREADS}", f"--size={share}", f"--offset_increment={share}",
        "--group_reporting", "--readonly", "--output-format=json",
    ]  # fmt: skip
    huge = os.environ | {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=huge)
    job = json.loads(done.stdout)["jobs"][0]
    size_bytes, bytes_per_s = job["read"]["io_bytes"], job["read"]["bw_bytes"]
    seconds = size_bytes / bytes_per_s
    return Measured(seconds, seconds, (job["usr_cpu"] + job["sys_cpu"]) / 100 * seconds, size_bytes, 0)
