"""Lines of text as a trace. It opens nothing: who has the lines gives them, as text with or without their ends."""

import csv
import json
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from schedules.traces.errors import BadTrace
from schedules.traces.formats import (
    Format,
    Reading,
    has_header,
    listed,
    named,
    places,
    places_without_header,
    recognise,
)
from schedules.traces.lengths import Task, draw
from schedules.traces.times import UNIX_FROM_S, date_ns, number_s, unit_s
from schedules.traces.trace import LONGEST_S, MOST_REQUESTS, MOST_TOKENS, Provenance, Trace, check_name, in_order

_Row = Mapping[str, Any]
_MINUTE_S = 60.0
_LATEST_S = 2e10
"""Seconds since 1970: the year 2603."""
_PROBLEMS = (BadTrace, csv.Error)


@dataclass(frozen=True)
class Wanting:
    """What a trace is given that it does not have: one model's `name`, lengths of a task or as in another trace, and what
    clients ask for: `max_tokens`, or the answer's length where that is more. `seed` is for what is drawn."""

    name: str
    lengths: Task | Trace
    max_tokens: int
    seed: int


class Parsed(NamedTuple):
    """A trace; whether its models and lengths were recorded; how many lines were passed over, what the first of them had
    wrong, and what else is worth a word."""

    trace: Trace
    format: str
    has_models: bool
    has_lengths: bool
    skipped: int
    first_problem: str
    notes: tuple[str, ...]


def parse(lines: Iterable[str], source: str, reading: Reading, wanting: Wanting) -> Parsed:
    """The trace that the lines are. BadTrace says what is wrong, and in which line; BadWish what is with the reading."""
    found = _Collected(reading.skip_bad)
    rows, known, roles = _open(iter(lines), reading, found)
    if known.minutes:
        _count_minutes(rows, roles, found, np.random.default_rng(wanting.seed))
    else:
        _collect(rows, roles, unit_s(reading.unit or known.unit), found)
    return _finish(found, known, roles, source, wanting)


@dataclass
class _Collected:
    """Columns as far as they are read, after so many `blank` lines. Dates are kept in nanoseconds until the first of all is
    known."""

    skip_bad: bool
    blank: int = 0
    at_s: Any = field(default_factory=lambda: array("d"))
    at_ns: Any = field(default_factory=lambda: array("q"))
    model: Any = field(default_factory=lambda: array("i"))
    tokens: dict[str, Any] = field(default_factory=lambda: {name: array("i") for name in ("prompt", "answer", "max")})
    names: dict[str, int] = field(default_factory=dict)
    skipped: int = 0
    first_problem: str = ""
    before: int = 0
    raised: int = 0
    duration_s: float = 0.0

    def pass_over(self, line: int, problem: Exception) -> None:
        """A line that cannot be read: BadTrace unless such are skipped."""
        if not self.skip_bad:
            raise self.at(line, problem) from problem
        self.skipped += 1
        self.first_problem = self.first_problem or str(self.at(line, problem))

    def at(self, line: int, problem: Exception | str) -> BadTrace:
        """The problem with the number of its line; line 1 is the first that is not blank."""
        return BadTrace(f"line {self.blank + line}: {problem}")

    def place(self, name: str) -> int:
        """The model's number."""
        if name not in self.names:
            check_name(name)
            self.names[name] = len(self.names)
        return self.names[name]


_Numbered = Iterator[tuple[int, _Row]]


def _open(lines: Iterator[str], reading: Reading, found: _Collected) -> tuple[_Numbered, Format, dict[str, str]]:
    """Its rows, which format they are of, and which column has which role."""
    first = next(lines, None)
    while first is not None and not first.strip():
        first, found.blank = next(lines, None), found.blank + 1
    if first is None:
        raise BadTrace("there is nothing in it")
    wanted = named(reading.format)
    lines = chain([first], lines)
    if wanted.json if wanted is not None else first.lstrip().startswith(("{", "[")):
        return _open_json(first, lines, reading, wanted, found)
    rows = csv.reader(lines, delimiter=_delimiter(first), skipinitialspace=True)
    try:
        header = next(rows)
    except csv.Error as error:
        raise found.at(1, error) from error
    if not has_header(header) and not (wanted is not None and wanted.columns):
        roles = places_without_header(header, reading.columns)
        keys = [str(place) for place in range(1, len(header) + 1)]
        return _csv_rows(chain([header], rows), rows, keys, found), wanted or FORMAT_WITHOUT_HEADER, roles
    keys = [cell.strip() for cell in header]
    told = [key for key in keys if key]
    if len(set(told)) < len(told):
        raise BadTrace(f"two columns have the same name: {listed(keys)}")
    known = wanted or recognise(keys, json=False)
    return _csv_rows(rows, rows, keys, found), known, places(known, reading.columns, keys)


FORMAT_WITHOUT_HEADER = Format("csv without a header", {})


def _open_json(
    first: str, lines: Iterator[str], reading: Reading, wanted: Format | None, found: _Collected
) -> tuple[_Numbered, Format, dict[str, str]]:
    try:
        keys = [str(key) for key in _json_row(first)]
    except BadTrace as error:
        raise found.at(1, error) from error
    known = wanted or recognise(keys, json=True)
    return _json_rows(lines, found), known, places(known, reading.columns, keys)


def _delimiter(line: str) -> str:
    return max(",\t;", key=line.count)


def _csv_rows(rows: Iterator[list[str]], reader: Any, keys: Sequence[str], found: _Collected) -> _Numbered:
    """A request with line ends in it has the number of its last line."""
    while True:
        try:
            row = next(rows, None)
            if row is None:
                return
            if not row or row == [""]:
                continue
            if len(row) != len(keys):
                raise BadTrace(f"it has {len(row)} columns, the first line {len(keys)}")
        except _PROBLEMS as problem:
            found.pass_over(reader.line_num, problem)
        else:
            yield reader.line_num, dict(zip(keys, row, strict=True))


def _json_rows(lines: Iterator[str], found: _Collected) -> _Numbered:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = _json_row(line)
        except BadTrace as problem:
            found.pass_over(number, problem)
        else:
            yield number, row


def _json_row(line: str) -> _Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadTrace(f"{line.strip()[:40]!r} is not JSON") from error
    if not isinstance(row, dict):
        raise BadTrace(f"{line.strip()[:40]!r} is no JSON object: there is to be one a line")
    return row


def _collect(rows: _Numbered, roles: Mapping[str, str], unit: float, found: _Collected) -> None:
    time, model, duration = roles["time"], roles.get("model"), roles.get("duration")
    lengths = [(roles[name], column) for name, column in found.tokens.items() if name in roles]
    for number, row in rows:
        try:
            at = _time(_cell(row, time), unit, found)
            if duration is not None:
                at = _begin(at, _cell(row, duration), unit)
            place = found.place(_cell(row, model)) if model is not None else 0
            tokens = [_length(_cell(row, name), name) for name, _ in lengths]
        except BadTrace as problem:
            found.pass_over(number, problem)
            continue
        if at < 0 and duration is not None:
            found.before += 1
            continue
        (found.at_ns if isinstance(at, int) else found.at_s).append(at)
        found.model.append(place)
        for (_, column), length in zip(lengths, tokens, strict=True):
            column.append(max(1, length))
            found.raised += length == 0
        if len(found.model) > MOST_REQUESTS:
            raise found.at(number, f"more than {MOST_REQUESTS:,} requests")


def _cell(row: _Row, column: str) -> str:
    if column not in row:
        raise BadTrace(f"it has no {column!r}")
    value = row[column]
    if value is None or isinstance(value, bool | list | dict):
        raise BadTrace(f"its {column!r} is neither a number nor text")
    return value.strip() if isinstance(value, str) else str(value)


def _time(text: str, unit: float, found: _Collected) -> float | int:
    """Seconds, or nanoseconds of a date; BadTrace if others were of the other kind."""
    at: float | int | None = number_s(text, unit)
    if at is not None:
        if found.at_ns:
            raise BadTrace(f"{text[:40]!r} is a number where the times before it are dates")
        return at
    at = date_ns(text)
    if at is None:
        raise BadTrace(f"{text[:40]!r} is no time")
    if found.at_s:
        raise BadTrace(f"{text[:40]!r} is a date where the times before it are numbers")
    return at


def _begin(end: float | int, text: str, unit: float) -> float | int:
    took_s = number_s(text, unit)
    if took_s is None:
        raise BadTrace(f"{text[:40]!r} is no duration")
    return end - round(took_s * 1e9) if isinstance(end, int) else end - took_s


def _length(text: str, column: str) -> int:
    try:
        value = float(text)
        if value != int(value):
            raise ValueError(text)
    except (ValueError, OverflowError) as error:
        raise BadTrace(f"{text[:40]!r} is no number of tokens, in {column!r}") from error
    if not 0 <= value <= MOST_TOKENS:
        raise BadTrace(f"{text[:40]} tokens, in {column!r}, are not from 0 to {MOST_TOKENS:,}")
    return int(value)


def _count_minutes(rows: _Numbered, roles: Mapping[str, str], found: _Collected, rng: np.random.Generator) -> None:
    """Each call at some moment of its minute."""
    at_s, model, total, minutes = [], [], 0, 0
    for number, row in rows:
        try:
            counts = np.array([_length(_cell(row, key), key) for key in row if key.isdigit()], np.int64)
            place = found.place(_cell(row, roles["model"]))
        except BadTrace as problem:
            found.pass_over(number, problem)
            continue
        calls = int(counts.sum())
        total, minutes = total + calls, max(minutes, len(counts))
        if total > MOST_REQUESTS:
            raise found.at(number, f"more than {MOST_REQUESTS:,} requests")
        at_s.append((np.repeat(np.arange(len(counts)), counts) + rng.random(calls)) * _MINUTE_S)
        model.append(np.full(calls, place, np.int32))
    found.duration_s = minutes * _MINUTE_S
    found.at_s = np.minimum(np.concatenate([*at_s, np.empty(0)]), found.duration_s)
    found.model = np.concatenate([*model, np.empty(0, np.int32)])


def _finish(found: _Collected, known: Format, roles: Mapping[str, str], source: str, wanting: Wanting) -> Parsed:
    if not len(found.model):
        more = f"; {found.skipped} lines could not be read, the first: {found.first_problem}" if found.skipped else ""
        raise BadTrace(f"there is no request in it{more}")
    at_s, notes = _from_the_first(found)
    if (np.diff(at_s) < 0).any():
        notes += [] if known.minutes or "duration" in roles else ["it was not in the order of arrival, and is now"]
    if found.before:
        notes.append(f"{found.before} requests that had begun before the trace did are left out")
    if found.raised:
        notes.append(f"{found.raised} lengths of 0 tokens count as 1")
    prompt, answer, most = _lengths(found, len(at_s), wanting)
    names = tuple(found.names) or (wanting.name,)
    duration_s = max(found.duration_s, float(at_s.max()))
    if duration_s > LONGEST_S:
        raise BadTrace(f"it lasts {duration_s / 86_400 / 365:,.0f} years: say which unit its times are in")
    has_lengths = "prompt" in roles and "answer" in roles
    words = [f"read as {known.name}", *notes, *([] if has_lengths else ["lengths drawn"])]
    words += [f"{found.skipped} lines skipped"] if found.skipped else []
    provenance = Provenance(source, tuple(words), None if has_lengths and not known.minutes else wanting.seed)
    trace = in_order(at_s, (np.asarray(found.model), prompt, answer, most), names, duration_s, provenance)
    models = "model" in roles
    return Parsed(trace, known.name, models, has_lengths, found.skipped, found.first_problem, tuple(notes))


def _from_the_first(found: _Collected) -> tuple[NDArray[np.float64], list[str]]:
    """Seconds; dates are counted from the first of them."""
    if len(found.at_ns):
        at_ns = np.asarray(found.at_ns, np.int64)
        return (at_ns - at_ns.min()) / 1e9, [f"counted from {np.datetime64(int(at_ns.min()), 'ns')}"]
    at_s = np.asarray(found.at_s, np.float64)
    first_s = float(at_s.min())
    if first_s < UNIX_FROM_S:
        return at_s, []
    if first_s > _LATEST_S:
        raise BadTrace(f"its times begin at {first_s:g} s, that is no date: say which unit they are in")
    return at_s - first_s, [f"counted from {np.datetime64(int(first_s), 's')}"]


def _lengths(found: _Collected, count: int, wanting: Wanting) -> list[NDArray[np.int32]]:
    """Of prompts, answers, and what clients ask for. Those that were not recorded are drawn, each by its own."""
    recorded = {name: np.asarray(column, np.int32) for name, column in found.tokens.items()}
    drawn = draw(wanting.lengths, count, np.random.default_rng(wanting.seed + 1))
    prompt = recorded["prompt"] if len(recorded["prompt"]) else drawn[0]
    answer = recorded["answer"] if len(recorded["answer"]) else np.minimum(drawn[1], wanting.max_tokens)
    asked = recorded["max"] if len(recorded["max"]) else np.full(count, wanting.max_tokens, np.int32)
    return [prompt, answer, np.maximum(asked, answer)]
