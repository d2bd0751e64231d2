"""The table of states: every pair is walked, and what is not in it cannot happen."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules.lifecycle import TABLE, Action, Event, IllegalMove, Replica, State, draw, handle

_PAIRS = list(product(State, Event))
_LEGAL = [pair for pair in _PAIRS if pair in TABLE]
_ILLEGAL = [pair for pair in _PAIRS if pair not in TABLE]


@pytest.mark.parametrize(("state", "event"), _LEGAL)
def test_a_legal_move_is_as_the_table_says(state: State, event: Event) -> None:
    to, actions = TABLE[state, event]
    replica, done = handle(Replica(state, 1.0), event, 2.0)
    assert replica.state is to
    assert done == actions


@pytest.mark.parametrize(("state", "event"), _ILLEGAL)
def test_an_illegal_move_raises_and_changes_nothing(state: State, event: Event) -> None:
    replica = Replica(state, 1.0)
    with pytest.raises(IllegalMove, match=f"{event} cannot happen to a replica that is {state}"):
        handle(replica, event, 2.0, held=1)
    assert replica == Replica(state, 1.0)


@pytest.mark.parametrize(("state", "event"), _LEGAL)
def test_since_changes_with_the_state_and_only_then(state: State, event: Event) -> None:
    replica, _ = handle(Replica(state, 1.0), event, 2.0)
    assert replica.since_s == (1.0 if replica.state is state else 2.0)


def test_the_first_arrival_starts_a_replica_and_the_next_ones_wait() -> None:
    replica, first = handle(Replica(State.COLD, 0.0), Event.ARRIVED, 1.0)
    replica, second = handle(replica, Event.ARRIVED, 2.0, held=1)
    assert Action.START in first
    assert second == (Action.HOLD,)
    assert replica == Replica(State.STARTING, 1.0)


def test_a_loading_replica_is_never_idle() -> None:
    with pytest.raises(IllegalMove):
        handle(Replica(State.STARTING, 0.0), Event.IDLE, 1.0)


def test_requests_held_while_it_stopped_start_it_again() -> None:
    replica, actions = handle(Replica(State.STOPPING, 0.0), Event.STOPPED, 1.0, held=2)
    assert replica == Replica(State.STARTING, 1.0)
    assert actions == (Action.START,)


def test_without_held_requests_it_stays_cold() -> None:
    assert handle(Replica(State.STOPPING, 0.0), Event.STOPPED, 1.0) == (Replica(State.COLD, 1.0), ())


@pytest.mark.parametrize("event", [Event.FAILED, Event.LOST])
def test_a_start_that_fails_rejects_who_waits_and_does_not_start_over(event: Event) -> None:
    replica, actions = handle(Replica(State.STARTING, 0.0), event, 1.0, held=3)
    assert replica.state is State.COLD
    assert actions == (Action.REJECT,)


def test_a_lost_replica_replays_its_requests_before_it_is_stopped() -> None:
    replica, actions = handle(Replica(State.SERVING, 0.0), Event.LOST, 1.0)
    assert replica.state is State.STOPPING
    assert actions == (Action.REPLAY, Action.STOP)


def test_a_replica_that_drains_is_given_nothing_new_and_ends_when_it_is_done() -> None:
    replica, actions = handle(Replica(State.SERVING, 0.0), Event.DRAIN, 1.0)
    assert (replica, actions) == (Replica(State.DRAINING, 1.0), ())
    for event in (Event.ARRIVED, Event.DRAIN):
        with pytest.raises(IllegalMove):
            handle(replica, event, 2.0)
    assert handle(replica, Event.IDLE, 3.0) == (Replica(State.STOPPING, 3.0), (Action.STOP,))


def test_what_a_draining_replica_had_begun_is_replayed_if_it_is_lost() -> None:
    replica, actions = handle(Replica(State.DRAINING, 0.0), Event.LOST, 1.0)
    assert (replica.state, actions) == (State.STOPPING, (Action.REPLAY, Action.STOP))


@given(st.lists(st.tuples(st.sampled_from(Event), st.integers(0, 3))))
def test_whoever_arrives_is_held_or_forwarded_and_whoever_is_held_has_a_start_coming(
    events: list[tuple[Event, int]],
) -> None:
    """At any time starts and ends match: START only from cold, RELEASE or REJECT end a start, STOP ends a replica."""
    replica, starts, stops = Replica(State.COLD, 0.0), 0, 0
    for now, (event, held) in enumerate(events):
        if (replica.state, event) not in TABLE:
            continue
        replica, actions = handle(replica, event, float(now), held)
        starts += (Action.START in actions) - (Action.RELEASE in actions) - (Action.REJECT in actions)
        stops += (Action.STOP in actions) - (event is Event.STOPPED)
        assert starts == (replica.state is State.STARTING)
        assert stops == (replica.state is State.STOPPING)
        if event is Event.ARRIVED:
            assert len({Action.HOLD, Action.FORWARD} & set(actions)) == 1


def test_every_state_can_be_reached_and_left() -> None:
    assert {to for to, _ in TABLE.values()} == set(State)
    assert {state for (state, _), (to, _) in TABLE.items() if to is not state} == set(State)


def test_the_diagram_names_every_state_event_and_move() -> None:
    drawn = draw()
    assert drawn.startswith("stateDiagram-v2\n    [*] --> cold")
    assert all(name in drawn for name in (*State, *Event, *Action))
    assert all(f"{state} --> {to}: {event}" in drawn for (state, event), (to, _) in TABLE.items())
