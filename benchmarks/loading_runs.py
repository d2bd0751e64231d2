"""Carrying out loads in worker processes, cold or warm, and taking medians of several that alternate."""

import json
import os
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import IO, Any

from benchmarks.footprint import Peak
from benchmarks.loading_worker import Job, Measured
from benchmarks.page_cache import evict

ROOT = Path(__file__).resolve().parent.parent
_DEADLINE_S = 300.0


@dataclass(frozen=True)
class Run:
    """A load, and the most memory its process held beside what it had imported."""

    measured: Measured
    peak_bytes: int


@dataclass(frozen=True)
class Options:
    """How often to run, for which figures, and whom to tell."""

    runs: int
    only: Sequence[str]
    say: Callable[[str], None]

    def wanted(self, *names: str) -> bool:
        """Whether any of these figures was asked for."""
        return not self.only or any(fnmatch(name, pattern) for name in names for pattern in self.only)


def run(job: Job, fingerprint: int, cold: Sequence[Path] = ()) -> Run:
    """Carry out a job in a process of its own; `cold` files are put out of the page cache when it is ready.

    RuntimeError if it fails or if what it loaded is not what was saved.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.loading_worker"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    log: list[str] = []
    listener = threading.Thread(target=log.extend, args=(process.stderr,), daemon=True)
    listener.start()
    alarm = threading.Timer(_DEADLINE_S, process.kill)
    alarm.start()
    try:
        with Peak(process.pid) as peak:
            _tell(process.stdin, json.dumps(asdict(job)))
            imported = _answer(process, log)
            _answer(process, log)
            evict(cold)
            _tell(process.stdin, "go")
            measured = Measured(**_answer(process, log))
        _tell(process.stdin, "end")
        process.wait()
    finally:
        alarm.cancel()
        process.kill()
        process.wait()
        listener.join()
        for pipe in (process.stdin, process.stdout, process.stderr):
            pipe.close()
    if measured.fingerprint != fingerprint:
        raise RuntimeError(f"{job.loader} loaded other bytes than were saved")
    return Run(measured, peak.size_bytes - imported["own_bytes"])


def alternate(
    kinds: Mapping[str, Callable[[], Run]], options: Options, rounds: Mapping[str, int] | None = None
) -> dict[str, list[Run]]:
    """Every kind in turn, as often as `options` say or `rounds` for that kind."""
    found: dict[str, list[Run]] = {name: [] for name in kinds}
    for index in range(options.runs):
        for name, carry_out in kinds.items():
            if index < (rounds or {}).get(name, options.runs):
                result = carry_out()
                found[name].append(result)
                m = result.measured
                options.say(f"  {index + 1} {name}: {gb_per_s(m):.3f} GB/s, {m.cpu_s:.2f} CPU-s, {m.seconds:.3f} s")
    return found


def gb_per_s(measured: Measured) -> float:
    """GB of tensors a second, pages touched."""
    return measured.size_bytes / 1e9 / measured.seconds


def median(runs: Sequence[Run], of: Callable[[Measured], float]) -> float:
    """Median of a figure over runs."""
    return statistics.median(of(run.measured) for run in runs)


def _tell(pipe: IO[str], line: str) -> None:
    pipe.write(line + "\n")
    pipe.flush()


def _answer(process: "subprocess.Popen[str]", log: Sequence[str]) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        process.wait(_DEADLINE_S)
        raise RuntimeError(f"a load ended early, exit status {process.returncode}: {os.linesep.join(log[-20:])}")
    answer: dict[str, Any] = json.loads(line)
    return answer
