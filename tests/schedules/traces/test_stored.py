"""Traces as files: what is written is read."""

import io
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from schedules.traces.errors import BadTrace
from schedules.traces.stored import export, read, write
from schedules.traces.trace import COLUMNS, Trace
from tests.schedules.traces import made
from tests.schedules.traces.made import requests_of, trace, traces

TWO = trace((0.0, "a", 10, 1), (1.5, "b", 20, 2), duration_s=4.0)


def stored(given: Trace) -> io.BytesIO:
    file = io.BytesIO()
    write(given, file)
    file.seek(0)
    return file


@given(traces())
def test_a_stored_trace_is_read_as_it_was(whole: Trace) -> None:
    assert read(stored(whole)) == whole


@given(traces(fewest=1))
def test_an_exported_trace_has_its_requests(whole: Trace) -> None:
    text = io.StringIO()
    export(whole, text)
    found = made.read(io.StringIO(text.getvalue(), newline="")).trace
    assert requests_of(found) == requests_of(whole)
    assert found.max_tokens.tolist() == whole.max_tokens.tolist()


def test_numpy_alone_reads_it() -> None:
    with np.load(stored(TWO), allow_pickle=False) as file:
        assert file["at_s"].tolist() == [0.0, 1.5]
        assert json.loads(file["facts"].tobytes())["models"] == ["a", "b"]


def changed(**what: Any) -> io.BytesIO:
    """The file with other columns, or other facts."""
    with np.load(stored(TWO)) as file:
        arrays = {name: file[name] for name in (*COLUMNS, "facts")}
    facts = json.loads(arrays["facts"].tobytes())
    facts |= {name: value for name, value in what.items() if name not in COLUMNS}
    arrays |= {name: np.array(value) for name, value in what.items() if name in COLUMNS}
    arrays["facts"] = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    file.seek(0)
    return file


def test_a_version_to_come_is_said() -> None:
    with pytest.raises(BadTrace, match="of version 2: this program reads version 1"):
        read(changed(version=2))


@pytest.mark.parametrize(
    "what",
    [
        {"models": [1, 2]}, {"models": None}, {"duration_s": "long"}, {"targets": [[1]]}, {"targets": [["x", 1], [1, 1]]},
        {"provenance": {}}, {"provenance": {"source": 1, "steps": [], "seed": None}}, {"at_s": ["x", "y"]},
        {"at_s": [[0.0, 1.0]]}, {"model": [0.0, 1.0]}, {"model": [0, 9]}, {"at_s": [2.0, 1.0]}, {"max_tokens": [1]},
    ],
)  # fmt: skip
def test_a_file_that_says_what_no_trace_can_is_refused(what: dict[str, Any]) -> None:
    with pytest.raises(BadTrace):
        read(changed(**what))


def test_a_damaged_file_is_refused_wherever_it_is_cut() -> None:
    whole = stored(TWO).getvalue()
    for end in range(0, len(whole) - 1, 97):
        with pytest.raises(BadTrace, match="no trace of ours, or damaged"):
            read(io.BytesIO(whole[:end]))


def test_an_array_of_objects_is_not_unpickled() -> None:
    file = io.BytesIO()
    np.savez(file, facts=np.array([object], dtype=object))
    file.seek(0)
    with pytest.raises(BadTrace):
        read(file)
