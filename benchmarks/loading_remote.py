"""From object stores: our doors to them, the link's own limit, and what others read with."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.bucket_server import serve_buckets
from benchmarks.loading_data import BUCKET, Sample, Samples
from benchmarks.loading_runs import Options, Run, alternate, gb_per_s, median, run
from benchmarks.loading_worker import Job, Measured
from benchmarks.needs import Absent, need
from benchmarks.page_cache import warm
from benchmarks.report import Result
from benchmarks.shaped_link import shaped_link

SHAPED_MBIT_PER_S = 200
LOOPBACK_PEERS = {"s3fs": "s3fs", "boto3": "boto3"}


def measure_loopback(samples: Samples, size: str, options: Options) -> list[Result]:
    """From an S3 server on this machine, all in the page cache, and from a folder. Absent without a server."""
    peers = [peer for peer in LOOPBACK_PEERS if options.wanted(f"{peer}_loopback_gb_per_s") and _present(peer, options)]
    door = options.wanted("remote_loopback_gb_per_s", "remote_loopback_cpu_s_per_gb")
    fsspec, folder = options.wanted("remote_loopback_fsspec_gb_per_s"), options.wanted("remote_folder_gb_per_s")
    behind = options.wanted("write_behind_slowdown")
    if not (door or fsspec or folder or behind or peers):
        return []
    sample = samples.get(size)
    options.say(f"over loopback, {sample.size_bytes / 1e9:.2f} GB in the page cache")
    warm(sample.objects)
    with serve_buckets(sample.buckets) as store:
        kinds: dict[str, Callable[[], Run]] = {}
        if door or peers:
            kinds["limit"] = lambda: _load(sample, "loading_limits:plain_http", store)
        if door or behind:
            kinds["s3"] = lambda: _load(sample, "loading_ours:from_remote", store)
        if behind:
            kinds["s3 and to ssd"] = lambda: _load(sample, "loading_ours:from_remote", store, write_behind=True)
        if fsspec:
            kinds["s3 by fsspec"] = lambda: _load(sample, "loading_ours:from_remote", store, reader="fsspec")
        if folder:
            kinds["folder"] = lambda: _load(sample, "loading_ours:from_remote", None)
        for peer in peers:
            kinds[peer] = lambda peer=peer: _load(sample, f"loading_peers:{peer}", store)  # type: ignore[misc]
        found = alternate(kinds, options)
    return _loopback_results(found, peers)


def measure_shaped(samples: Samples, size: str, options: Options) -> list[Result]:
    """From an S3 server behind a link of a set rate. Absent where no such link can be made."""
    if not options.wanted("remote_shaped_ratio_to_limit", "remote_shaped_mbit_per_s"):
        return []
    sample = samples.get(size)
    options.say(f"over a link of {SHAPED_MBIT_PER_S} Mbit/s, {sample.size_bytes / 1e9:.2f} GB")
    warm(sample.objects)
    with (
        shaped_link(SHAPED_MBIT_PER_S) as link,
        serve_buckets(sample.buckets, link.host, link.prefix) as store,
    ):
        found = alternate(
            {
                "limit": lambda: _load(sample, "loading_limits:plain_http", store),
                "ours": lambda: _load(sample, "loading_ours:from_remote", store, write_behind=True),
            },
            options,
        )
    limit, speed = median(found["limit"], _read_gb_per_s), median(found["ours"], gb_per_s)
    return [
        Result("remote_shaped_ratio_to_limit", speed / limit, "ratio", "higher", 1.0, "plain HTTP ranges"),
        Result("remote_shaped_mbit_per_s", speed * 8e3, "Mbit/s", "higher", limit * 8e3, "plain HTTP ranges"),
    ]


def _loopback_results(found: Mapping[str, list[Run]], peers: list[str]) -> list[Result]:
    results = []
    against = "plain HTTP ranges"
    limit = median(found["limit"], _read_gb_per_s) if "limit" in found else None
    if "s3" in found and limit is not None:
        results += [
            Result("remote_loopback_gb_per_s", median(found["s3"], gb_per_s), "GB/s", "higher", limit, against),
            Result("remote_loopback_cpu_s_per_gb", median(found["s3"], _cpu_s_per_gb), "CPU-s/GB", "lower"),
        ]
    for peer in peers:
        speed = median(found[peer], gb_per_s)
        results.append(Result(f"{peer}_loopback_gb_per_s", speed, "GB/s", "higher", limit, against))
    for kind, name in (("s3 by fsspec", "remote_loopback_fsspec_gb_per_s"), ("folder", "remote_folder_gb_per_s")):
        if kind in found:
            results.append(Result(name, median(found[kind], gb_per_s), "GB/s", "higher"))
    if "s3 and to ssd" in found:
        slow, plain = (median(found[name], lambda m: m.seconds) for name in ("s3 and to ssd", "s3"))
        results.append(Result("write_behind_slowdown", slow / plain, "ratio", "lower", 1.0, "no writing behind"))
    return results


def _load(
    sample: Sample, loader: str, store: Mapping[str, Any] | None, write_behind: bool = False, reader: str = "auto"
) -> Run:
    """From the S3 server that `store` are the options for, or from the folder that it serves."""
    with _empty_ssd(sample) as ssd_dir:
        job = Job(
            loader=f"benchmarks.{loader}",
            model=sample.model,
            store_url=sample.store_url if store is None else f"s3://{BUCKET}",
            store_options=store or {},
            ssd_dir=str(ssd_dir),
            write_behind=write_behind,
            reader=reader,
        )
        return run(job, sample.fingerprint)


@contextlib.contextmanager
def _empty_ssd(sample: Sample) -> Iterator[Path]:
    """A folder on the disk that the sample is on."""
    with tempfile.TemporaryDirectory(prefix="ssd-", dir=sample.folder) as folder:
        yield Path(folder)


def _present(peer: str, options: Options) -> bool:
    try:
        need(LOOPBACK_PEERS[peer])
    except Absent as absent:
        options.say(f"absent: {peer}: {absent}")
        return False
    return True


def _read_gb_per_s(measured: Measured) -> float:
    return measured.size_bytes / 1e9 / measured.loaded_s


def _cpu_s_per_gb(measured: Measured) -> float:
    return measured.cpu_s / (measured.size_bytes / 1e9)
