"""One load in a process of its own, made ready first and then measured.

    python -m benchmarks.loading_worker   <- a Job as JSON on stdin

It says {"own_bytes": n} once it has imported what it needs, {} when it is ready, waits for a line, loads, and says what
it measured. A process per load, since allocators, caches and page tables remember the one before.
"""

import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from benchmarks.footprint import own_bytes
from benchmarks.touch import Fingerprint

Load = Callable[[], Iterator[tuple[str, torch.Tensor]]]
"""Brings a checkpoint to memory and yields every tensor with its name, as soon as it can be used."""


@dataclass(frozen=True)
class Job:
    """What to load, and how: `loader` is "module:function", which takes the job and an ExitStack and returns a Load."""

    loader: str
    model: str
    files: tuple[str, ...] = ()
    store_url: str = ""
    store_options: Mapping[str, Any] = field(default_factory=dict)
    ssd_dir: str = ""
    write_behind: bool = False
    reader: str = "auto"


@dataclass(frozen=True)
class Measured:
    """A load from the first read to the last tensor; `loaded_s` leaves out touching the pages."""

    seconds: float
    loaded_s: float
    cpu_s: float
    size_bytes: int
    fingerprint: int


def measure(load: Load) -> Measured:
    """Load, touching every page of each tensor as it comes; all tensors are held until the end."""
    held, found, touching_s = [], Fingerprint(), 0.0
    cpu_s, started_s = _cpu_s(), time.perf_counter()
    for name, tensor in load():
        came_s = time.perf_counter()
        found.add(name, tensor)
        held.append(tensor)
        touching_s += time.perf_counter() - came_s
    seconds = time.perf_counter() - started_s
    return Measured(seconds, seconds - touching_s, _cpu_s() - cpu_s, found.size_bytes, found.value)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries that print do not disturb the answers

    def answer(value: dict[str, Any]) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    job = Job(**json.loads(sys.stdin.readline()))
    module, name = job.loader.split(":")
    prepare = getattr(importlib.import_module(module), name)
    answer({"own_bytes": own_bytes("self")})
    with ExitStack() as stack:
        load = prepare(job, stack)
        answer({})
        sys.stdin.readline()
        answer(asdict(measure(load)))
        sys.stdin.readline()
    os._exit(0)  # some libraries hang or crash when they are torn down; nothing is left to be done


if __name__ == "__main__":
    main()
