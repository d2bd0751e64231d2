"""Who goes on elsewhere so that another fits: in the least time, and each where it has room."""

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from schedules.placing.covers import MOST_MOVED, Movable, Way, cheapest_cover
from schedules.placing.decision import Move, Running
from tests.schedules.models import model_of

MODEL = model_of([1] * 3)
ROOM = {"x": 100, "y": 100}


def _movable(group: str, size_bytes: int, tokens: int = 0, **takes_s: float) -> Movable:
    """It runs on "n", and could go on elsewhere after so long."""
    running = Running(MODEL, group, {"n": size_bytes}, None, tokens, may_move=True)
    return running, [Way(to, size_bytes, seconds) for to, seconds in takes_s.items()]


def _cover(lack_bytes: int, *movable: Movable, room: Mapping[str, int] = ROOM) -> tuple[float, tuple[Move, ...]] | None:
    return cheapest_cover(lack_bytes, movable, "n", room)


def _groups(found: tuple[float, tuple[Move, ...]] | None) -> dict[str, str]:
    assert found is not None
    return {move.group: move.to for move in found[1]}


def test_the_one_that_goes_on_soonest_goes_where_it_does() -> None:
    found = _cover(10, _movable("slow", 10, x=5.0, y=4.0), _movable("fast", 10, x=3.0, y=2.0))
    assert _groups(found) == {"fast": "y"}
    assert found is not None
    assert found[0] == 2.0


def test_one_that_is_larger_than_what_lacks_covers_it() -> None:
    assert _groups(_cover(4, _movable("large", 8, x=1.0))) == {"large": "x"}


def test_two_small_ones_go_where_that_is_sooner_than_one_large() -> None:
    small = [_movable(name, 5, x=1.0, y=1.0) for name in ("s1", "s2")]
    assert _groups(_cover(10, _movable("large", 10, x=3.0), *small)) == {"s1": "x", "s2": "y"}


def test_room_is_not_given_twice() -> None:
    two = [_movable(name, 5, x=1.0, y=9.0) for name in ("s1", "s2")]
    assert _groups(_cover(10, *two, room={"x": 5, "y": 5})) == {"s1": "x", "s2": "y"}
    assert _cover(10, *two, room={"x": 5}) is None


def test_what_goes_to_several_nodes_is_loaded_at_once_and_what_goes_to_one_in_turn() -> None:
    apart = _cover(10, _movable("s1", 5, x=2.0), _movable("s2", 5, y=2.0))
    assert apart is not None
    assert apart[0] == 2.0
    in_turn = _cover(10, _movable("s1", 5, x=2.0), _movable("s2", 5, x=2.0))
    assert in_turn is not None
    assert in_turn[0] == 4.0


def test_one_that_has_nowhere_to_go_does_not_spoil_the_others_cover() -> None:
    assert _groups(_cover(5, _movable("stuck", 5), _movable("free", 5, y=7.0))) == {"free": "y"}
    assert _cover(5, _movable("stuck", 5)) is None


def test_of_many_those_with_the_fewest_tokens_are_tried() -> None:
    many = [_movable(f"r{tokens}", 5, tokens, x=1.0) for tokens in range(MOST_MOVED + 1)]
    last = many[-1]
    best = (last[0], [Way("x", 5, 0.1)])
    assert _groups(_cover(5, *many[:-1], best)) == {"r0": "x"}


@given(
    st.lists(st.tuples(st.integers(1, 9), st.floats(0.0, 5.0), st.floats(0.0, 5.0)), max_size=5),
    st.integers(1, 20), st.integers(0, 12), st.integers(0, 12),
)  # fmt: skip
def test_whoever_is_moved_covers_it_and_fits(
    sizes: list[tuple[int, float, float]], lack_bytes: int, x_bytes: int, y_bytes: int
) -> None:
    movable = [_movable(f"r{i}", size, x=x_s, y=y_s) for i, (size, x_s, y_s) in enumerate(sizes)]
    found = _cover(lack_bytes, *movable, room={"x": x_bytes, "y": y_bytes})
    if found is None:
        return
    size_of = {running.group: running.reserved_bytes["n"] for running, _ in movable}
    assert sum(size_of[move.group] for move in found[1]) >= lack_bytes
    for to, room_bytes in (("x", x_bytes), ("y", y_bytes)):
        assert sum(size_of[move.group] for move in found[1] if move.to == to) <= room_bytes
