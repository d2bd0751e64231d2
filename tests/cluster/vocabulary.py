"""Messages drawn by hypothesis, of every kind there is."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

from cluster import messages

_PARTS_ONLY = {messages.Peer, messages.Phase, messages.Sampling, messages.TokenLogprobs}
"""Travel inside of messages, never alone."""

KINDS: tuple[type, ...] = tuple(
    found
    for found in vars(messages).values()
    if isinstance(found, type)
    and dataclasses.is_dataclass(found)
    and found.__module__ == messages.__name__
    and found not in _PARTS_ONLY
)


def any_message(kind: type) -> st.SearchStrategy[Any]:
    """Any value of the dataclass `kind`, every field drawn."""
    hints = typing.get_type_hints(kind)
    return st.builds(kind, **{field.name: _any(hints[field.name]) for field in dataclasses.fields(kind)})


def _any(hint: Any) -> st.SearchStrategy[Any]:
    if dataclasses.is_dataclass(hint):
        return any_message(hint)  # type: ignore[arg-type]
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple and ... not in parts:
        return st.tuples(*(_any(part) for part in parts))
    if origin is tuple:
        return st.lists(_any(parts[0]), max_size=3).map(tuple)
    if origin is Mapping:
        return st.dictionaries(_any(parts[0]), _any(parts[1]), max_size=3)
    if origin is types.UnionType:
        return st.one_of(*(_any(part) for part in parts))
    return _PLAIN[hint]


_PLAIN: dict[Any, st.SearchStrategy[Any]] = {
    str: st.text(max_size=20),
    int: st.integers(-(2**63), 2**63 - 1),
    float: st.floats(allow_nan=False),
    bool: st.booleans(),
    bytes: st.binary(max_size=20),
    type(None): st.none(),
}
