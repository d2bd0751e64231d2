"""Messages drawn by hypothesis, of every kind there is."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

from cluster.wire import forks, hello, kv, meetings, orders, reports, requests, stages
from storage_tiers.checkpoint import Blocks, Extent, TensorSpec, UnitIndex, lay_out

_PARTS_ONLY = {
    orders.Peer,
    orders.Ranked,
    reports.StageLease,
    requests.Sampling,
    requests.TokenLogprobs,
    requests.Grammar,
    kv.KvSource,
}
"""Travel inside of messages, never alone."""

KINDS: tuple[type, ...] = tuple(
    found
    for module in (orders, reports, forks, stages, hello, requests, kv, meetings)
    for found in vars(module).values()
    if isinstance(found, type)
    and dataclasses.is_dataclass(found)
    and found.__module__ == module.__name__
    and found not in _PARTS_ONLY
)


def any_message(kind: type) -> st.SearchStrategy[Any]:
    """Any value of the dataclass `kind`, every field drawn."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return st.builds(kind, **{field.name: _any(hints[field.name]) for field in dataclasses.fields(kind)})


def _any(hint: Any) -> st.SearchStrategy[Any]:
    if hint is UnitIndex:
        return _units()
    if hint == orders.Digest:
        return _DIGESTS
    if dataclasses.is_dataclass(hint):
        return any_message(hint)  # type: ignore[arg-type]
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple and ... not in parts:
        return st.tuples(*(_any(part) for part in parts))
    if origin is tuple:
        return st.lists(_any(parts[0]), max_size=3).map(tuple)
    if origin is Mapping:
        return st.dictionaries(_any(parts[0]), _any(parts[1]), max_size=3)
    if origin is typing.Literal:
        return st.sampled_from(parts)
    if origin in (types.UnionType, typing.Union):
        return st.one_of(*(_any(part) for part in parts))
    return _PLAIN[hint]


_DIGESTS = st.binary(min_size=32, max_size=32).map(bytes.hex)
_NAMES = st.text("abz_09.-", min_size=1, max_size=8).map(lambda name: f"n{name}")


@st.composite
def _units(draw: st.DrawFn) -> UnitIndex:
    """Only what could be of a checkpoint can be made at all."""
    name = draw(_NAMES)
    sizes = draw(st.lists(st.integers(0, 1 << 26), max_size=3))
    layout = lay_out([TensorSpec(f"t{i}", "uint8", (size_bytes,)) for i, size_bytes in enumerate(sizes)])
    checksums = draw(st.lists(st.integers(0, 2**32 - 1), min_size=layout.chunks, max_size=layout.chunks))
    extents = [
        Extent("file:///m/w", draw(st.integers(0, 1 << 40)), tensor.size_bytes, tensor.offset_bytes)
        for tensor in layout.tensors
        if tensor.size_bytes
    ]
    in_place = draw(st.booleans())
    blocks = draw(st.none() | st.builds(Blocks, st.just(4096), st.binary(max_size=8)))
    path = f"_0a/{name}"
    return UnitIndex(name, path, draw(_DIGESTS), layout, tuple(checksums), tuple(extents) if in_place else (), blocks)


_PLAIN: dict[Any, st.SearchStrategy[Any]] = {
    str: st.text(max_size=20),
    int: st.integers(-(2**63), 2**63 - 1),
    float: st.floats(allow_nan=False),
    bool: st.booleans(),
    bytes: st.binary(max_size=20),
    type(None): st.none(),
}
