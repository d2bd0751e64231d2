"""The vocabulary: what is said is what is heard, and what is no message is an error."""

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import ProtocolError
from cluster.wire.hello import Hello
from cluster.wire.phases import Phase
from cluster.wire.reports import Done
from cluster.wire.requests import Sampling, Submit, Tokens
from cluster.wire.stages import UnitHere
from cluster.wire.vocabulary import from_wire, load_vocabulary, pack, to_wire, unpack
from tests.cluster.vocabulary import KINDS, any_message
from tests.storage_tiers.handmade import unit_of

_ANY_MESSAGE = st.sampled_from(KINDS).flatmap(any_message)
_JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda below: st.lists(below, max_size=4) | st.dictionaries(st.text() | st.just("kind"), below, max_size=4),
    max_leaves=10,
)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@given(st.data())
def test_every_message_comes_back_as_it_went(kind: type, data: st.DataObject) -> None:
    message = data.draw(any_message(kind))
    heard = unpack(pack(message))
    assert heard == message
    assert type(heard) is kind
    assert from_wire(to_wire(message)) == message


@given(_ANY_MESSAGE)
def test_lists_in_place_of_tuples_are_understood(message: object) -> None:
    """Dask's own serialisation turns one into the other."""
    assert from_wire(msgpack.unpackb(msgpack.packb(to_wire(message)), use_list=True)) == message


@given(_ANY_MESSAGE)
def test_a_message_cannot_be_changed(message: object) -> None:
    with pytest.raises(AttributeError):
        message.kind = "other"  # type: ignore[attr-defined]


_UNIT = to_wire(UnitHere(unit_of("unit", bytes(4096)), ()))["unit"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("digest", "../../x"), ("digest", "A" * 64), ("digest", ""), ("name", "../x"), ("path", "_v/../unit"),
        ("path", "/unit"),
        ("path", "_v/other"), ("chunk_crc32c", []), ("layout", {**_UNIT["layout"], "chunks": 2}),
        ("layout", {**_UNIT["layout"], "chunk_bytes": 0}),
        ("extents", [{"url": "http://x/y?z", "offset_bytes": 0, "size_bytes": 1, "at_bytes": 0}]),
    ],
)  # fmt: skip
def test_a_unit_that_could_not_be_of_a_checkpoint_is_no_message(field: str, value: object) -> None:
    """Nodes make files that are called as orders say: a digest was joined to the path as it stood."""
    assert from_wire({"kind": "UnitHere", "unit": _UNIT, "runs": ()})
    with pytest.raises(ProtocolError):
        from_wire({"kind": "UnitHere", "unit": {**_UNIT, field: value}, "runs": ()})


def test_what_is_no_digest_names_no_file() -> None:
    with pytest.raises(ProtocolError):
        from_wire({"kind": "Evict", "digests": ["../../x"]})


@given(st.binary(max_size=200))
def test_bytes_that_are_no_message_are_a_protocol_error(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        unpack(data)


@given(_JUNK)
def test_values_that_are_no_message_are_a_protocol_error(value: object) -> None:
    with pytest.raises(ProtocolError):
        unpack(msgpack.packb(value))


@given(_ANY_MESSAGE, st.data())
def test_a_message_that_is_cut_short_is_a_protocol_error(message: object, data: st.DataObject) -> None:
    packed = pack(message)
    with pytest.raises(ProtocolError):
        unpack(packed[: data.draw(st.integers(0, len(packed) - 1))])


@given(_ANY_MESSAGE.filter(lambda message: len(to_wire(message)) > 1), st.data())
def test_a_field_of_another_type_is_a_protocol_error(message: object, data: st.DataObject) -> None:
    wire = to_wire(message)
    field = data.draw(st.sampled_from(sorted(wire)))
    with pytest.raises(ProtocolError):
        from_wire({**wire, field: object()})


@pytest.mark.parametrize(
    "wire",
    [
        {"kind": "Hello", "group": "g"},
        {"kind": "Hello", "group": "g", "secret": None},
        {"kind": "Hello", "group": "g", "secret": 5},
        {"kind": "Submit", "request": "r", "tokens": ["a"], "prompt_tokens": 1, "max_tokens": 1, "stop_tokens": []},
        {"kind": "Submit", "request": "r", "tokens": [1.5], "prompt_tokens": 1, "max_tokens": 1, "stop_tokens": []},
        {"kind": "Phase", "name": "n", "where": "w", "start_s": 0.0, "end_s": 1.0},
        {"kind": "Hullo", "group": "g", "secret": "s"},
        {"kind": ["Hello"], "group": "g", "secret": "s"},
        {"kind": None},
        {"group": "g", "secret": "s"},
        {},
        [],
        "Hello",
        5,
        None,
    ],
)
def test_what_does_not_fit_the_vocabulary_is_a_protocol_error(wire: Any) -> None:
    with pytest.raises(ProtocolError, match="not a message"):
        from_wire(wire)


def test_parts_have_defaults_and_travel_whole() -> None:
    submit = Submit("r", (1, 2), 2, 8, (0,))
    assert submit.sampling == Sampling()
    heard = unpack(pack(submit))
    assert isinstance(heard.sampling, Sampling)
    assert unpack(pack(Tokens("r", (1,)))).finish is None
    assert Phase("p", "w", 0.0, 1.0).bytes == 0


def test_there_is_no_pickle_on_the_wire() -> None:
    assert msgpack.unpackb(pack(Hello("g", "s"))) == {
        "kind": "Hello",
        "group": "g",
        "secret": "s",
        "owner": "",
        "kv": False,
    }
    assert msgpack.unpackb(pack(Done())) == {"kind": "Done"}


def test_the_whole_vocabulary_can_be_loaded_ahead() -> None:
    load_vocabulary()
