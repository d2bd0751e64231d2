"""How every benchmark says what it found: one JSON line with --json, else a table."""

import argparse
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import psutil
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Result:
    """One figure; `limit` and `against` say what it was held against in the same run."""

    name: str
    value: float
    unit: str
    better: Literal["higher", "lower"]
    limit: float | None = None
    against: str | None = None


def machine(accelerator: str | None = None) -> dict[str, object]:
    """What the figures depend on; the accelerator as whoever computed on one calls it."""
    model = next(
        (line.split(":", 1)[1].strip() for line in _cpu_lines() if line.startswith("model name")), platform.processor()
    )
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "accelerator": accelerator,
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def _cpu_lines() -> list[str]:
    try:
        with open("/proc/cpuinfo") as file:
            return file.readlines()
    except OSError:
        return []


def parser(description: str) -> argparse.ArgumentParser:
    """A command line with what all benchmarks take."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--json", action="store_true", help="print one line of JSON instead of a table")
    return made


def report(
    benchmark: str, results: Sequence[Result], as_json: bool, accelerator: str | None = None, **more: object
) -> None:
    """Print what was found; `more` is no single number, and stands in the JSON alone."""
    if as_json:
        found = {"benchmark": benchmark, "machine": machine(accelerator), "results": [asdict(r) for r in results]}
        print(json.dumps({**found, **more}))
        return
    table = Table("result", "value", "unit", "better", "limit", "against", title=benchmark)
    table.columns[0].overflow = "fold"  # a name is told whole however narrow the terminal is
    for r in results:
        limit = "" if r.limit is None else f"{r.limit:.4g}"
        table.add_row(r.name, f"{r.value:.4g}", r.unit, r.better, limit, r.against or "")
    console = Console()
    console.print(table)
    console.print(", ".join(f"{key} {value}" for key, value in machine(accelerator).items() if value is not None))
