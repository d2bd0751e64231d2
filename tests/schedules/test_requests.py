"""A request as a value: its rooms, its table, and what stays of it when it goes on elsewhere."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules.facts import ModelKey
from schedules.requests import TABLE, IllegalTurn, Request, Stand, Turn, room_tokens


def _request() -> Request:
    return Request("r", ModelKey("m", "d"), 20, 10, 1.0, 60.0, 64, 1.0)


@pytest.mark.parametrize(
    ("tokens", "room"),
    [(1, 64), (64, 64), (65, 96), (96, 96), (97, 128), (129, 192), (193, 256), (1000, 1024), (1025, 1536)],
)
def test_rooms_come_in_few_sizes(tokens: int, room: int) -> None:
    assert room_tokens(tokens, 16384) == room


@given(st.integers(1, 40_000), st.integers(1, 40_000))
def test_a_room_holds_its_request_and_wastes_at_most_half(tokens: int, most: int) -> None:
    room = room_tokens(tokens, most)
    assert tokens <= room <= max(tokens, most)
    assert room <= max(64, tokens * 3 // 2 + 1)


@given(st.integers(1, 10_000), st.integers(0, 1000))
def test_more_tokens_never_need_a_smaller_room(tokens: int, more: int) -> None:
    assert room_tokens(tokens, 16384) <= room_tokens(tokens + more, 16384)


def test_it_waits_runs_and_goes_on_elsewhere_with_what_it_has() -> None:
    running = _request().assigned("g1").progressed(3).progressed(1)
    assert (running.stand, running.group, running.generated, running.attempts) == (Stand.RUNNING, "g1", 4, 1)
    again = running.broken(7.0)
    assert (again.stand, again.group, again.held_s, again.tokens) == (Stand.HELD, "", 7.0, 24)
    assert again.assigned("g2").attempts == 2
    assert (again.arrived_s, again.deadline_s, again.room, again.name) == (1.0, 60.0, 64, "r")


def test_one_that_is_shifted_goes_on_there_or_stays_and_neither_is_an_attempt() -> None:
    shifting = _request().assigned("g1").progressed(3).shifting("g2").progressed(1)
    assert (shifting.stand, shifting.group, shifting.to, shifting.generated) == (Stand.SHIFTING, "g1", "g2", 4)
    shifted, stayed = shifting.shifted(), shifting.stayed()
    assert (shifted.stand, shifted.group, shifted.to, shifted.attempts) == (Stand.RUNNING, "g2", "", 1)
    assert (stayed.stand, stayed.group, stayed.to, stayed.attempts) == (Stand.RUNNING, "g1", "", 1)
    assert shifting.broken(9.0).to == ""


def test_progress_changes_what_is_generated_and_nothing_else() -> None:
    before = _request().assigned("g1")
    after = before.progressed(2)
    changed = [name for name in Request._fields if getattr(before, name) != getattr(after, name)]
    assert changed == ["generated"]


def test_a_request_is_a_value() -> None:
    request = _request()
    with pytest.raises(AttributeError):
        request.generated = 1  # type: ignore[misc]
    assert request.progressed(1) is not request
    assert request.generated == 0


@pytest.mark.parametrize(("stand", "turn"), list(product(Stand, Turn)))
def test_what_the_table_does_not_name_cannot_happen(stand: Stand, turn: Turn) -> None:
    running = _request().assigned("g1")
    shifting = running.shifting("g2")
    standing = {Stand.HELD: _request(), Stand.RUNNING: running, Stand.SHIFTING: shifting, Stand.OVER: running.ended()}
    request = standing[stand]

    def happens() -> Request:
        match turn:
            case Turn.ASSIGNED:
                return request.assigned("g2")
            case Turn.SHIFT:
                return request.shifting("g2")
            case Turn.SHIFTED:
                return request.shifted()
            case Turn.STAYED:
                return request.stayed()
            case Turn.BROKEN:
                return request.broken(2.0)
            case Turn.ENDED:
                return request.ended()

    if (stand, turn) in TABLE:
        assert happens().stand is TABLE[stand, turn]
    else:
        with pytest.raises(IllegalTurn, match=f"a request that is {stand} cannot be {turn}"):
            happens()


def test_what_is_over_stays_over() -> None:
    assert not [turn for stand, turn in TABLE if stand is Stand.OVER]
