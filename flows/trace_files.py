"""Traces on disk: opened whatever they are, and written whole or not at all."""

import gzip
import io
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from flows.errors import NotATrace
from schedules.traces.errors import TraceError
from schedules.traces.formats import Reading
from schedules.traces.parsing import Parsed, Wanting, parse
from schedules.traces.stored import MAGIC, export, read, write
from schedules.traces.trace import Trace
from storage_tiers.plain_files import whole

ENDINGS = (".npz", ".csv", ".csv.gz")
LONGEST_LINE = 16 << 20
"""Characters; what has no line ends is no text."""
_GZIP = b"\x1f\x8b"
_REPORT_LINES = 5_000

Report = Callable[[int], None]
"""Told of the bytes of the file that are done."""


def load(path: Path) -> Trace:
    """A trace that was stored here. NotATrace if it is none."""
    with path.open("rb") as file:
        if not _stored(file):
            raise NotATrace(f"{path} is no stored trace: make one of it with `firsttoken traces import {path}`")
        return _named(path, lambda: read(file))


def take(path: Path, reading: Reading, wanting: Wanting, report: Report) -> Parsed:
    """A trace of any kind: stored here, or text, also packed by gzip. NotATrace says what is wrong with it."""
    source = os.fsencode(path.name).decode("utf-8", "replace")
    with path.open("rb") as file:
        if _stored(file):
            return Parsed(_named(path, lambda: read(file)), "stored", True, True, 0, "", ())
        return _named(path, lambda: parse(_lines(file, report), source, reading, wanting))


def _stored(file: io.BufferedReader) -> bool:
    """Whether it begins like one of ours. Nothing is read past, so that a pipe will do."""
    return file.peek(len(MAGIC)).startswith(MAGIC)


def _named(path: Path, do: Callable[[], Any]) -> Any:
    try:
        return do()
    except TraceError as error:
        raise NotATrace(f"{path}: {error}") from error
    except UnicodeDecodeError as error:
        raise NotATrace(f"{path} is not text in UTF-8") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise NotATrace(f"{path} cannot be unpacked: {error}") from error


def _lines(file: io.BufferedReader, report: Report) -> Iterator[str]:
    packed = file.peek(len(_GZIP)).startswith(_GZIP)
    raw = gzip.GzipFile(fileobj=file) if packed else file
    with io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as text:  # type: ignore[type-var]
        number = 0
        while line := text.readline(LONGEST_LINE):
            number += 1
            if len(line) >= LONGEST_LINE:
                raise TraceError(f"line {number} is longer than {LONGEST_LINE >> 20} MiB")
            if number % _REPORT_LINES == 0 and file.seekable():
                report(file.tell())
            yield line


def check_place(path: Path, *, force: bool) -> None:
    """NotATrace if no trace can or may be written there."""
    if not path.name.endswith(ENDINGS) or path.name in ENDINGS:
        raise NotATrace(f"{path} does not end in {', '.join(ENDINGS)}: which of them says how a trace is written")
    if not path.parent.is_dir():
        raise NotATrace(f"there is no folder {path.parent}")
    if path.is_dir() or (path.exists() and not force):
        raise NotATrace(f"{path} is there already: --force replaces it" if not path.is_dir() else f"{path} is a folder")


def save(trace: Trace, path: Path) -> None:
    """The file, whole or not at all, in place of one that was there."""
    with whole(path) as file:
        if path.name.endswith(".npz"):
            write(trace, file)
            return
        packed = gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0) if path.name.endswith(".gz") else None
        text = io.TextIOWrapper(packed or file, encoding="utf-8", newline="")  # type: ignore[type-var]
        export(trace, text)
        text.flush()
        text.detach()
        if packed is not None:
            packed.close()
