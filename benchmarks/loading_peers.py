"""What others load with, each as its own documentation says, and an ImportError where it is not installed.

Loaders for loading_worker. What a peer is not made for (holding bytes of a pool, say) is done for it outside the clock.
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlsplit

import torch

from benchmarks.loading_limits import RANGE_BYTES, Range, into_memory, units_of
from benchmarks.loading_ours import tensors_in
from benchmarks.loading_worker import Job, Load
from storage_tiers.checkpoint import UnitIndex

RUNAI_CONCURRENCY = "8"
_S3FS_BATCH = 8

Tensors = Iterator[tuple[str, torch.Tensor]]


def safetensors(job: Job, stack: ExitStack) -> Load:
    from safetensors.torch import load_file

    return lambda: iter(load_file(job.files[0]).items())


def torch_load(job: Job, stack: ExitStack) -> Load:
    return lambda: iter(torch.load(job.files[0], weights_only=True).items())


def torch_load_mmap(job: Job, stack: ExitStack) -> Load:
    return lambda: iter(torch.load(job.files[0], weights_only=True, mmap=True).items())


def fastsafetensors(job: Job, stack: ExitStack) -> Load:
    from fastsafetensors import fastsafe_open

    def load() -> Tensors:
        opened = stack.enter_context(fastsafe_open(filenames=[job.files[0]], device="cpu", nogds=True))
        for name in opened.keys():  # noqa: SIM118  # not a mapping
            yield name, opened.get_tensor(name)

    return load


def runai_streamer(job: Job, stack: ExitStack) -> Load:
    os.environ["RUNAI_STREAMER_CONCURRENCY"] = RUNAI_CONCURRENCY
    from runai_model_streamer import SafetensorsStreamer

    logging.disable(logging.INFO)

    def load() -> Tensors:
        streamer = stack.enter_context(SafetensorsStreamer())
        streamer.stream_file(job.files[0])
        yield from streamer.get_tensors()

    return load


def tensorstore(job: Job, stack: ExitStack) -> Load:
    import tensorstore as ts

    def load() -> Tensors:
        folder, units = _folder(job), units_of(job)
        opened = [
            ts.open({"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{folder}/{unit.path}/"}})
            for unit in units
        ]
        reads = [found.result().read() for found in opened]
        for unit, read in zip(units, reads, strict=True):
            yield from tensors_in(unit, read.result()).items()

    return load


def zarr_python(job: Job, stack: ExitStack) -> Load:
    import zarr

    def load() -> Tensors:
        group: Any = zarr.open_group(_folder(job), mode="r")
        for unit in units_of(job):
            yield from tensors_in(unit, group[unit.path][:]).items()

    return load


def s3fs(job: Job, stack: ExitStack) -> Load:
    """cat_ranges in batches, the fastest way it has; the pieces are copied together, as it cannot read into memory."""
    import s3fs

    fs = s3fs.S3FileSystem(**job.store_options)
    units = units_of(job)
    root = urlsplit(job.store_url).netloc

    buffers = [bytearray(unit.size_bytes) for unit in units]
    ranges = [
        (index, start, min(start + RANGE_BYTES, unit.size_bytes))
        for index, unit in enumerate(units)
        for start in range(0, unit.size_bytes, RANGE_BYTES)
    ]

    def load() -> Tensors:
        for first in range(0, len(ranges), _S3FS_BATCH):
            indices, starts, ends = zip(*ranges[first : first + _S3FS_BATCH], strict=True)
            paths = [f"{root}/{job.model}/{units[index].key}" for index in indices]
            pieces = fs.cat_ranges(paths, list(starts), list(ends), on_error="raise")
            for index, start, end, piece in zip(indices, starts, ends, pieces, strict=True):
                buffers[index][start:end] = piece
        for unit, buffer in zip(units, buffers, strict=True):
            yield from tensors_in(unit, buffer).items()

    return load


def boto3(job: Job, stack: ExitStack) -> Load:
    """Ranges read straight into ready memory by some threads."""
    import boto3
    from botocore.config import Config

    client = boto3.client(
        "s3",
        region_name="us-east-1",
        endpoint_url=job.store_options["endpoint_url"],
        aws_access_key_id=job.store_options["key"],
        aws_secret_access_key=job.store_options["secret"],
        config=Config(s3={"addressing_style": "path"}, max_pool_connections=16),
    )
    bucket = urlsplit(job.store_url).netloc

    def reader(units: Sequence[UnitIndex]) -> Callable[[], Callable[[Range], None]]:
        def read(wanted: Range) -> None:
            index, start, view = wanted
            asked = f"bytes={start}-{start + len(view) - 1}"
            body = client.get_object(Bucket=bucket, Key=f"{job.model}/{units[index].key}", Range=asked)["Body"]
            done = 0
            while done < len(view):
                count = body.readinto(view[done:])
                if not count:
                    raise EOFError(units[index].key)
                done += count
            body.close()

        return lambda: read

    return into_memory(job, reader)


def _folder(job: Job) -> str:
    """The model's zarr group on this machine's disk."""
    return f"{urlsplit(job.store_url).path}/{job.model}"
