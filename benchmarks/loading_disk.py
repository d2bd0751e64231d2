"""From disk and dram: our tiers, the disk's own limit, and what others load with."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median as median_of

from benchmarks.loading_attach import attach_repeatedly
from benchmarks.loading_data import Sample, Samples
from benchmarks.loading_limits import checksum_cpu_s_per_gb, fio
from benchmarks.loading_runs import Options, Run, alternate, gb_per_s, median, run
from benchmarks.loading_worker import Job, Measured
from benchmarks.needs import Absent, need
from benchmarks.page_cache import evict
from benchmarks.report import Result

PEER_RUNS = 3
RAW, FIO = "raw O_DIRECT", "fio"
MEMORY, MEMORY_SIZE = "load_peak_memory_ratio", "1gb"


@dataclass(frozen=True)
class Peer:
    """Another loader: the function in loading_peers, the module it needs, and which form of the sample it reads."""

    name: str
    module: str
    files: Callable[[Sample], list[Path]]


PEERS = (
    Peer("safetensors", "safetensors", lambda sample: [sample.safetensors]),
    Peer("torch_load", "torch", lambda sample: [sample.torch_file]),
    Peer("torch_load_mmap", "torch", lambda sample: [sample.torch_file]),
    Peer("fastsafetensors", "fastsafetensors", lambda sample: [sample.safetensors]),
    Peer("runai_streamer", "runai_model_streamer", lambda sample: [sample.safetensors]),
    Peer("tensorstore", "tensorstore", lambda sample: sample.objects),
    Peer("zarr_python", "zarr", lambda sample: sample.objects),
)


def measure_disk(samples: Samples, size: str, options: Options) -> list[Result]:
    """Cold loads from disk: ours against the disk, and the peers; figures that nobody wants are left out."""
    prefix = f"ssd_{size}"
    ours = options.wanted(*(f"{prefix}_{figure}" for figure in ("ratio_to_limit", "cpu_s_per_gb", "gb_per_s")))
    ours = ours or (size == MEMORY_SIZE and options.wanted(MEMORY))
    peers = [peer for peer in PEERS if options.wanted(f"{peer.name}_{size}_gb_per_s") and _present(peer, options)]
    if not ours and not peers:
        return []
    sample = samples.get(size)
    options.say(f"cold from disk, {sample.size_bytes / 1e9:.2f} GB")
    kinds: dict[str, Callable[[], Run]] = {
        RAW: lambda: _cold(sample, "loading_limits:raw_disk", sample.ssd_files),
    }
    if shutil.which("fio"):
        kinds[FIO] = lambda: _fio(sample)
    else:
        options.say("absent: fio is not installed; the limit is our own raw reader's")
    if ours:
        kinds["ours"] = lambda: _cold(sample, "loading_ours:from_ssd", sample.ssd_files)
    for peer in peers:
        kinds[peer.name] = lambda peer=peer: _cold(sample, f"loading_peers:{peer.name}", peer.files(sample))  # type: ignore[misc]
    found = alternate(kinds, options, {peer.name: PEER_RUNS for peer in peers})
    limit, against = _limit(found)
    own = _ours(prefix, sample, found["ours"], limit, against) if ours else []
    if ours:
        raw = median(found["ours"], gb_per_s) / median(found[RAW], _read_gb_per_s)
        own.append(Result(f"{prefix}_ratio_to_raw", raw, "ratio", "higher", 1.0, RAW))
    return [*own, *_peers(sample, peers, found, limit, against)]


def measure_attach(samples: Samples, size: str, options: Options) -> list[Result]:
    """Attaching what is in dram, from another process."""
    names = (f"dram_attach_{size}_ms", f"dram_attach_touched_{size}_ms")
    if not options.wanted(*names):
        return []
    sample = samples.get(size)
    options.say(f"attaching {sample.size_bytes / 1e9:.2f} GB in dram from another process")
    found = attach_repeatedly(sample, options.runs)
    touched_ms = 1e3 * median_of(one.attach_s + one.touch_s for one in found)
    return [
        Result(names[0], 1e3 * median_of(one.attach_s for one in found), "ms", "lower"),
        Result(names[1], touched_ms, "ms", "lower"),
    ]


def _cold(sample: Sample, loader: str, files: list[Path]) -> Run:
    job = Job(
        loader=f"benchmarks.{loader}",
        model=sample.model,
        files=tuple(map(str, files)),
        store_url=sample.store_url,
        ssd_dir=str(sample.ssd_dir),
    )
    return run(job, sample.fingerprint, cold=files)


def _present(peer: Peer, options: Options) -> bool:
    try:
        need(peer.module)
    except Absent as absent:
        options.say(f"absent: {peer.name}: {absent}")
        return False
    return True


def _fio(sample: Sample) -> Run:
    evict([sample.safetensors])
    return Run(fio(sample.safetensors), 0)


def _limit(found: Mapping[str, list[Run]]) -> tuple[float, str]:
    """The best that the disk gave, in GB/s, and by whom."""
    return max((median(found[name], _read_gb_per_s), name) for name in (RAW, FIO) if name in found)


def _read_gb_per_s(measured: Measured) -> float:
    return measured.size_bytes / 1e9 / measured.loaded_s


def _ours(prefix: str, sample: Sample, runs: list[Run], limit: float, against: str) -> list[Result]:
    """CPU is told without the checksums, which no peer makes, and with them."""
    speed = median(runs, gb_per_s)
    cpu = median(runs, lambda m: m.cpu_s / (m.size_bytes / 1e9))
    results = [
        Result(f"{prefix}_ratio_to_limit", speed / limit, "ratio", "higher", 1.0, against),
        Result(f"{prefix}_gb_per_s", speed, "GB/s", "higher", limit, against),
        Result(f"{prefix}_cpu_s_per_gb", cpu - checksum_cpu_s_per_gb(), "CPU-s/GB", "lower"),
        Result(f"{prefix}_checked_cpu_s_per_gb", cpu, "CPU-s/GB", "lower"),
    ]
    if sample.size == MEMORY_SIZE:
        peak = median_of(one.peak_bytes for one in runs) / sample.size_bytes
        results.append(Result(MEMORY, peak, "ratio", "lower", 1.0, "the model's bytes"))
    return results


def _peers(
    sample: Sample, peers: list[Peer], found: Mapping[str, list[Run]], limit: float, against: str
) -> list[Result]:
    def cpu_s_per_gb(measured: Measured) -> float:
        return measured.cpu_s / (measured.size_bytes / 1e9)

    results = []
    for peer in peers:
        name = f"{peer.name}_{sample.size}"
        results.append(Result(f"{name}_gb_per_s", median(found[peer.name], gb_per_s), "GB/s", "higher", limit, against))
        results.append(Result(f"{name}_cpu_s_per_gb", median(found[peer.name], cpu_s_per_gb), "CPU-s/GB", "lower"))
    return results
