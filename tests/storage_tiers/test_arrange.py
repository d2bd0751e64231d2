"""Where a unit's tensors lie on a device: all of each, none over another, what is multiplied together in a row."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage_tiers.checkpoint import ALIGN_BYTES, TensorEntry, TensorSpec, UnitLayout, lay_out
from storage_tiers.tiers.arrange import Arrangement, arrange

_MODULES = (
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj",
    "mlp.down_proj", "input_layernorm", "mlp.experts.0.gate_proj", "mlp.experts.0.up_proj", "q_proj",
)  # fmt: skip
_NAMES = [f"model.layers.0.{module}.{own}" for module in _MODULES for own in ("weight", "bias", "scale")]


def _spec(name: str, rows: int, columns: int, dtype: str = "bfloat16") -> TensorSpec:
    return TensorSpec(f"l.{name}", dtype, (rows, columns))


def _carried_out(layout: UnitLayout, data: bytes) -> tuple[Arrangement, bytearray]:
    """What a device has when all moves are done; it must never be written twice."""
    arrangement = arrange(layout)
    target, written = bytearray(arrangement.size_bytes), bytearray(arrangement.size_bytes)
    for move in arrangement.moves:
        assert move.size_bytes > 0
        into = slice(move.target_offset_bytes, move.target_offset_bytes + move.size_bytes)
        assert into.stop <= arrangement.size_bytes
        assert not any(written[into])
        written[into] = b"\1" * move.size_bytes
        target[into] = data[move.source_offset_bytes : move.source_offset_bytes + move.size_bytes]
    return arrangement, target


def _all_arrived(layout: UnitLayout, arrangement: Arrangement, target: bytearray) -> None:
    data = _distinct(layout)
    for tensor in layout.tensors:
        at = arrangement.offset_bytes[tensor.name]
        found = bytes(target[at : at + tensor.size_bytes])
        assert found == data[tensor.offset_bytes : tensor.offset_bytes + tensor.size_bytes]


def _distinct(layout: UnitLayout) -> bytes:
    return b"".join((at * 2_654_435_761 % 2**32).to_bytes(4, "little") for at in range(layout.stored_bytes // 4))


def _ends(arrangement: Arrangement, layout: UnitLayout) -> dict[str, tuple[int, int]]:
    places = arrangement.offset_bytes
    return {t.name.removeprefix("l."): (places[t.name], places[t.name] + t.size_bytes) for t in layout.tensors}


@st.composite
def _layouts(draw: st.DrawFn) -> UnitLayout:
    names = draw(st.lists(st.sampled_from(_NAMES), unique=True, max_size=14))
    shapes = st.one_of(st.tuples(st.integers(0, 40), st.sampled_from([1, 64, 65])), st.tuples(st.integers(0, 3000)))
    dtypes = st.sampled_from(["bfloat16", "float32", "uint8"])
    return lay_out([TensorSpec(name, draw(dtypes), draw(shapes)) for name in names])


@given(_layouts())
def test_every_byte_of_every_tensor_arrives_and_none_lies_over_another(layout: UnitLayout) -> None:
    arrangement, target = _carried_out(layout, _distinct(layout))
    assert arrangement.size_bytes <= layout.stored_bytes
    assert set(arrangement.offset_bytes) == {tensor.name for tensor in layout.tensors}
    _all_arrived(layout, arrangement, target)


@given(_layouts())
def test_what_is_not_behind_another_of_its_kind_begins_at_a_multiple_of_4_kib(layout: UnitLayout) -> None:
    arrangement = arrange(layout)
    ends = {
        arrangement.offset_bytes[t.name] + t.size_bytes: (t.dtype, t.name.rpartition(".")[2], t.shape[1:])
        for t in layout.tensors
    }
    for tensor in layout.tensors:
        at = arrangement.offset_bytes[tensor.name]
        kind = tensor.dtype, tensor.name.rpartition(".")[2], tensor.shape[1:]
        assert at % ALIGN_BYTES == 0 or ends[at] == kind


@given(_layouts())
def test_moves_read_the_unit_from_its_start_to_its_end(layout: UnitLayout) -> None:
    sources = [move.source_offset_bytes for move in arrange(layout).moves]
    assert sources == sorted(sources)


@pytest.mark.parametrize(
    "order", [("q_proj", "k_proj", "v_proj"), ("k_proj", "other", "q_proj", "v_proj"), ("v_proj", "q_proj", "k_proj")]
)
@pytest.mark.parametrize("own", ["weight", "bias"])
def test_queries_keys_and_values_lie_in_a_row_whatever_their_order(order: Sequence[str], own: str) -> None:
    rows = {"q_proj": 33, "k_proj": 9, "v_proj": 9, "other": 5}
    layout = lay_out([_spec(f"a.{name}.{own}", rows[name], 65) for name in order])
    arrangement, target = _carried_out(layout, _distinct(layout))
    _all_arrived(layout, arrangement, target)
    ends = _ends(arrangement, layout)
    assert ends[f"a.q_proj.{own}"][1] == ends[f"a.k_proj.{own}"][0]
    assert ends[f"a.k_proj.{own}"][1] == ends[f"a.v_proj.{own}"][0]


def test_gates_lie_before_their_ups_each_of_its_own_expert() -> None:
    names = ["e.0.up_proj", "e.1.gate_proj", "e.0.gate_proj", "e.1.up_proj"]
    layout = lay_out([_spec(f"{name}.weight", 3, 65) for name in names])
    ends = _ends(arrange(layout), layout)
    for expert in "01":
        assert ends[f"e.{expert}.gate_proj.weight"][1] == ends[f"e.{expert}.up_proj.weight"][0]


@pytest.mark.parametrize(
    "members",
    [
        [_spec("q_proj.weight", 3, 65), _spec("k_proj.weight", 3, 65, "float32"), _spec("v_proj.weight", 3, 65)],
        [_spec("q_proj.weight", 3, 65), _spec("k_proj.weight", 3, 66), _spec("v_proj.weight", 3, 65)],
        [_spec("q_proj.weight", 3, 65), _spec("k_proj.weight", 3, 65)],
        [_spec("q_proj.weight", 3, 65), _spec("b.k_proj.weight", 3, 65), _spec("v_proj.weight", 3, 65)],
        [_spec("q_proj.scale", 3, 65), _spec("k_proj.scale", 3, 65), _spec("v_proj.scale", 3, 65)],
    ],
    ids=["another type", "another width", "one is missing", "another parent", "another kind"],
)
def test_what_one_product_could_not_do_is_left_alone(members: list[TensorSpec]) -> None:
    layout = lay_out(members)
    assert dict(arrange(layout).offset_bytes) == {tensor.name: tensor.offset_bytes for tensor in layout.tensors}


def test_a_unit_in_which_nothing_moves_is_one_move() -> None:
    layout = lay_out([_spec("a", 7, 65), _spec("b", 3, 3), _spec("c", 100, 64)])
    (move,) = arrange(layout).moves
    assert (move.source_offset_bytes, move.target_offset_bytes) == (0, 0)


def test_tensors_that_share_bytes_stay_where_they_are() -> None:
    """Each would need room of its own, and in all more than the unit was accounted."""
    entries = tuple(TensorEntry(f"t{i}", "uint8", (8192,), 0, 8192) for i in range(3))
    layout = UnitLayout(entries, 8192, 8192, 1)
    arrangement, target = _carried_out(layout, _distinct(layout))
    assert (arrangement.size_bytes, set(arrangement.offset_bytes.values())) == (8192, {0})
    assert bytes(target) == _distinct(layout)
