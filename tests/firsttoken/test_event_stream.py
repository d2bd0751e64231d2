"""Server-sent events, in whatever pieces they come."""

from collections.abc import Sequence
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from firsttoken.event_stream import Event, EventReader

_STREAM = (
    "\ufeff: a comment\r\n"
    "data: one\n\n"
    "event: named\rid: 7\rdata:  two\rdata\rdata: more\r\r"
    "data: A\u2028B\u0085C\x0bD\x1cE\r\n\r\n"
    "nothing: of ours\n\n"
    "data: unfinished\n"
).encode()
_EVENTS = [
    Event(comment="a comment"), Event(data="one"), Event(data=" two\n\nmore"), Event(data="A\u2028B\u0085C\x0bD\x1cE"),
]  # fmt: skip


def _read(pieces: Sequence[bytes]) -> list[Event]:
    reader = EventReader()
    return [event for piece in pieces for event in reader.feed(piece)]


@given(st.lists(st.integers(0, len(_STREAM)), max_size=12))
def test_events_end_where_the_standard_says_however_the_bytes_are_cut(cuts: list[int]) -> None:
    """An answer that held a line separator of Unicode was cut there, and its second half was no JSON."""
    bounds = [0, *sorted(cuts), len(_STREAM)]
    assert _read([_STREAM[start:end] for start, end in pairwise(bounds)]) == _EVENTS


@given(st.binary(max_size=60))
def test_any_bytes_at_all_are_read_without_an_error(data: bytes) -> None:
    assert _read([data]) == _read([data[at : at + 1] for at in range(len(data))])


def test_an_event_comes_out_with_its_last_byte() -> None:
    reader = EventReader()
    assert [list(reader.feed(piece)) for piece in (b"data: x", b"\n", b"\n", b"\n")] == [[], [], [Event("x")], []]
