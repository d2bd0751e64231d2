"""The table of a replica's states: every pair is walked, and what is not in it cannot happen."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules.lifecycle import TABLE, IllegalTurn, State, Turn, after, draw
from schedules.service import Cold, Replica, Service
from tests.schedules.driven_brain import model_named, wanting

_PAIRS = list(product(State, Turn))
_LEGAL = [pair for pair in _PAIRS if pair in TABLE]
_ILLEGAL = [pair for pair in _PAIRS if pair not in TABLE]


def _replica(state: State = State.WANTED) -> Replica:
    return Replica("g1", Service(model_named("m"), wanting(), 0), 1.0, Cold(None, 1.0), state)


@pytest.mark.parametrize(("state", "turn"), _LEGAL)
def test_a_legal_turn_is_as_the_table_says(state: State, turn: Turn) -> None:
    replica = _replica(state)
    replica.let(turn, 2.0)
    assert replica.state is after(state, turn) is TABLE[state, turn]
    assert replica.since_s == (1.0 if replica.state is state else 2.0)


@pytest.mark.parametrize(("state", "turn"), _ILLEGAL)
def test_an_illegal_turn_raises_and_changes_nothing(state: State, turn: Turn) -> None:
    replica = _replica(state)
    with pytest.raises(IllegalTurn, match=f"a replica that is {state} cannot be {turn}"):
        replica.let(turn, 2.0)
    assert (replica.state, replica.since_s, replica.service.served_s) == (state, 1.0, 0.0)


def test_a_loading_replica_is_never_idle() -> None:
    with pytest.raises(IllegalTurn):
        after(State.STARTING, Turn.IDLE)


def test_what_had_a_group_is_not_gone_before_that_has_stopped() -> None:
    assert [(state, turn) for (state, turn), to in TABLE.items() if to is State.GONE] == [
        (State.WANTED, Turn.GIVEN_UP),
        (State.STARTING, Turn.FAILED),
        (State.STOPPING, Turn.STOPPED),
    ]


@pytest.mark.parametrize("state", [State.STARTING, State.SERVING, State.DRAINING])
def test_a_lost_replica_is_stopped_whatever_it_did(state: State) -> None:
    assert after(state, Turn.LOST) is State.STOPPING


def test_one_that_drains_ends_or_goes_on_as_it_was() -> None:
    assert {turn: to for (state, turn), to in TABLE.items() if state is State.DRAINING} == {
        Turn.KEEP: State.SERVING,
        Turn.IDLE: State.STOPPING,
        Turn.LOST: State.STOPPING,
    }


@given(st.lists(st.sampled_from(Turn)))
def test_starts_and_ends_match_in_any_life(turns: list[Turn]) -> None:
    """A replica that was placed is gone by one failed start or one end, and never comes back."""
    replica, placed, over = _replica(), 0, 0
    for turn in turns:
        if (replica.state, turn) not in TABLE:
            continue
        replica.let(turn, 1.0)
        placed += turn is Turn.PLACED
        over += turn in (Turn.REFUSED, Turn.FAILED, Turn.STOPPED)
        has_group = replica.state in (State.STARTING, State.SERVING, State.DRAINING, State.STOPPING)
        assert placed - over == has_group


def test_every_state_can_be_reached_and_all_but_the_last_be_left() -> None:
    assert set(TABLE.values()) | {State.WANTED} == set(State)
    assert {state for state, _ in TABLE} == set(State) - {State.GONE}


def test_every_turn_can_happen_somewhere() -> None:
    assert {turn for _, turn in TABLE} == set(Turn)


def test_the_diagram_names_every_state_and_turn() -> None:
    drawn = draw()
    assert drawn.startswith("stateDiagram-v2\n    [*] --> wanted\n    gone --> [*]")
    assert all(f"{state} --> {to}: {turn}" in drawn for (state, turn), to in TABLE.items())
    assert len(drawn.splitlines()) == 3 + len(TABLE)
