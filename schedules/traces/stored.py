"""A trace as a file: numpy's .npz, one array a column as it lies in memory, and `facts`, the rest as JSON in UTF-8.

A million requests are 24 MB that open in milliseconds, with every number as it was; numpy alone reads it. Text takes seconds,
and has no place for where a trace is from: who wants it gets it by `export`.
"""

import csv
import json
import struct
import zipfile
import zlib
from dataclasses import asdict
from typing import IO, Any, Protocol

import numpy as np

from schedules.traces.errors import BadTrace
from schedules.traces.trace import COLUMNS, Provenance, Target, Trace

VERSION = 1
_AT_ONCE = 100_000
MAGIC = b"PK\x03\x04"
_BROKEN = (
    ValueError, KeyError, TypeError, AttributeError, EOFError, OSError, NotImplementedError, RecursionError, MemoryError,
    struct.error, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


class Writes(Protocol):
    """What text is written to."""

    def write(self, text: str, /) -> object:
        """Add it."""
        ...


def write(trace: Trace, into: IO[bytes]) -> None:
    """The whole file."""
    facts = {
        "version": VERSION,
        "models": trace.models,
        "duration_s": trace.duration_s,
        "targets": trace.targets,
        "provenance": asdict(trace.provenance),
    }
    told = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    np.savez(into, allow_pickle=False, facts=told, **{name: getattr(trace, name) for name in COLUMNS})


def read(source: IO[bytes]) -> Trace:
    """The trace of a file; BadTrace if it is none, damaged, or of a version to come."""
    try:
        with np.load(source, allow_pickle=False) as file:
            facts = json.loads(file["facts"].tobytes())
            version = facts["version"]
            columns = {name: _column(file[name], name) for name in COLUMNS} if version == VERSION else {}
    except _BROKEN as error:
        raise BadTrace("this is no trace of ours, or damaged") from error
    if version != VERSION:
        raise BadTrace(f"the trace is of version {version}: this program reads version {VERSION}")
    try:
        provenance = _provenance(facts["provenance"])
        targets = tuple(Target(*map(_limit, target)) for target in facts["targets"])
        models, duration_s = tuple(map(_text, facts["models"])), float(facts["duration_s"])
    except _BROKEN as error:
        raise BadTrace("what the trace says of itself is damaged") from error
    return Trace(models=models, duration_s=duration_s, provenance=provenance, targets=targets, **columns)


def _column(array: Any, name: str) -> Any:
    if array.dtype.kind not in ("f" if name == "at_s" else "iu") or array.ndim != 1:
        raise ValueError(name)
    return array


def _provenance(known: dict[str, Any]) -> Provenance:
    seed = known["seed"]
    return Provenance(_text(known["source"]), tuple(map(_text, known["steps"])), None if seed is None else int(seed))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _limit(value: object) -> float | None:
    return None if value is None else float(value)  # type: ignore[arg-type]


def export(trace: Trace, into: Writes) -> None:
    """CSV with a header, which is read again as it was but for its end after the last request, targets, provenance and models
    that nobody called."""
    writer = csv.writer(into, lineterminator="\n")
    writer.writerow(COLUMNS)
    for begin in range(0, len(trace), _AT_ONCE):
        at_s, model, *tokens = (getattr(trace, name)[begin : begin + _AT_ONCE].tolist() for name in COLUMNS)
        writer.writerows(zip(map(repr, at_s), (trace.models[i] for i in model), *tokens, strict=True))
