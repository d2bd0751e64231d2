"""Many models and little room: who makes room for whom, who waits how long, and that nothing is promised twice."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules import events
from schedules.actions import Assign, Decided, Stop, Why
from schedules.facts import Rate
from schedules.lifecycle import State
from schedules.limits import FAIR_S, SHORTEST_TURN_S, TURN_AFTER_S, Limits
from schedules.placing.decision import Wait
from schedules.rates import STORE
from tests.schedules.driven_brain import SIZE_BYTES, DrivenBrain, model_named, node_named, wanting
from tests.schedules.models import rates_of

# ---- memory


@pytest.mark.parametrize("report_s", [0.0, 0.05, 3.0], ids=["at once", "soon", "late"])
@pytest.mark.parametrize("reserve_s", [0.0, 0.5])
def test_two_cold_starts_at_once_never_take_the_same_room(report_s: float, reserve_s: float) -> None:
    """Both were sent to the node whose last report said that it was empty; one of them was refused there."""
    driven = DrivenBrain([node_named("a"), node_named("b")])
    driven.report_s, driven.reserve_s = report_s, reserve_s
    requests = [driven.ask(driven.know(model_named(f"m{i}"))) for i in range(2)]
    driven.run(10.0)
    assert sorted(start.placement.stages[0].node for start in driven.starts()) == ["a", "b"]
    assert driven.refused_for_memory == 0
    assert set(requests) == set(driven.ended)


def test_a_report_of_before_the_start_does_not_give_its_room_to_another() -> None:
    driven = DrivenBrain([node_named("a")])
    empty = driven.hosts["a"].reports()
    driven.run_s = 10.0
    driven.ask(driven.know(model_named("m0")))
    driven.tell(empty)
    driven.ask(driven.know(model_named("m1")))
    driven.run(0.05)
    driven.tell(empty)
    assert len(driven.starts()) == 1
    driven.run(1.5)
    assert len(driven.starts()) == 1
    assert driven.refused_for_memory == 0


def test_the_room_of_a_group_that_is_lost_is_another_s_once_it_has_stopped() -> None:
    """Its promise ended with it, while its stage was still there and its node had not said so: the next start was refused."""
    driven = DrivenBrain([node_named("a")])
    driven.report_s, driven.stop_s = 0.5, 1.0
    request = driven.ask(driven.know(model_named("m")))
    driven.run(0.2)
    driven.lose("g1")
    driven.run(5.0)
    assert request in driven.ended
    assert driven.refused_for_memory == 0


@given(
    st.lists(st.tuples(st.integers(0, 5), st.floats(0.0, 2.0)), min_size=2, max_size=25),
    st.floats(0.0, 3.0),
    st.floats(0.0, 0.9),
    st.floats(0.0, 2.0),
)
def test_however_late_reports_come_no_node_is_asked_for_more_than_it_has(
    asked: list[tuple[int, float]], report_s: float, reserve_s: float, stop_s: float
) -> None:
    driven = DrivenBrain([node_named("a", 2 * SIZE_BYTES), node_named("b")])
    driven.report_s, driven.reserve_s, driven.stop_s, driven.run_s = report_s, reserve_s, stop_s, 0.3
    keys = [driven.know(model_named(f"m{i}"), wanting(keep_alive_s=2.0)) for i in range(6)]
    for model, pause_s in asked:
        driven.ask(keys[model])
        driven.run(pause_s)
    driven.run(40.0)
    driven.check()
    assert driven.refused_for_memory == 0
    assert len(driven.ended) == len(asked)


# ---- many cold models


def test_three_hundred_requests_for_twenty_cold_models_with_room_for_two_are_all_served_in_turn() -> None:
    """They made room for each other as soon as each was up: hundreds of starts, and most requests were turned away."""
    driven = DrivenBrain([node_named("a"), node_named("b")], limits=Limits(30.0, 1000, 100, consolidate=True))
    driven.form_s, driven.reserve_s, driven.stop_s, driven.report_s = 0.01, 0.005, 0.005, 0.001
    driven.first_s, driven.run_s = 0.005, 0.05
    keys = [driven.know(model_named(f"m{i}"), wanting(kv_tokens=2048)) for i in range(20)]
    for _ in range(15):
        for key in keys:
            driven.ask(key)
    driven.run(30.0)
    driven.check()
    assert len(driven.ended) == 300
    assert not driven.rejected
    assert len(driven.starts()) == 20
    first = list(dict.fromkeys(start.key.name for start in driven.starts()))
    assert first == [f"m{i}" for i in range(20)], "in the order in which they came"
    assert max(driven.ended.values()) < 5.0


def test_a_waiting_model_is_not_overtaken_for_ever_by_those_who_need_less() -> None:
    driven = DrivenBrain([node_named("a", 2 * SIZE_BYTES)])
    driven.run_s = 2.0
    small = [driven.know(model_named(f"s{i}"), wanting(keep_alive_s=0.0)) for i in range(40)]
    units = tuple(replace(unit, size_bytes=2 * unit.size_bytes) for unit in model_named("large").units)
    large = replace(model_named("large"), units=units)
    driven.ask(small[0])
    driven.run(1.0)
    driven.ask(small[1])
    wide = driven.ask(driven.know(large, wanting()))
    for key in small[2:]:
        driven.run(0.7)
        driven.ask(key)
    driven.run(5.0)
    assert driven.assigned.get(wide), driven.states()
    assert driven.ended[wide] < FAIR_S + 10.0


def test_one_that_waits_for_links_does_not_hold_up_those_who_need_only_room() -> None:
    """Who had waited long was overtaken by nobody, also while there was room enough and it waited for its wire alone: nothing
    in the cluster was started any more."""
    driven = DrivenBrain(policy="planned")
    rates = rates_of(nic=1.0) | {STORE: Rate(1.0, 1.0, 9)}
    for name in ("a", "b"):
        driven.join(node_named(name, SIZE_BYTES, rates))
    driven.form_s = 50.0
    driven.ask(driven.know(model_named("promised"), wanting(ttft_s=60.0)))
    driven.ask(driven.know(model_named("waits")))
    assert isinstance(driven.actions(Decided)[-1].decision.outcome, Wait)
    driven.run(FAIR_S + 1.0)
    there = model_named("there")
    units = {unit.digest: "ssd" for unit in there.units}
    driven.join(replace(node_named("c", SIZE_BYTES, rates), units=units))
    driven.ask(driven.know(there))
    assert [start.key.name for start in driven.starts()] == ["promised", "there"]


def test_a_start_s_links_are_others_as_its_first_token_is_there_and_all_of_them_at_its_end() -> None:
    driven = DrivenBrain([node_named("a", 10 * SIZE_BYTES, rates_of(nic=1.0))])
    model = replace(model_named("m"), rows_first=True)
    driven.run_s = 3.0
    driven.ask(driven.know(model, wanting(keep_alive_s=1.0)))

    def under_way() -> list[str]:
        return [transfer.name for transfer in driven.brain._books._links.transfers]

    assert under_way() == ["g1/0/store", "g1/0/store/later"]
    driven.run(1.05)
    assert under_way() == ["g1/0/store", "g1/0/store/later"]
    driven.run(0.1)
    assert under_way() == ["g1/0/store/later"]
    driven.run(5.0)
    assert driven.states() == []
    assert under_way() == []


# ---- turns


def _under_constant_load(seconds: float, other_after_s: float, other_every: int = 8) -> tuple[DrivenBrain, list[str]]:
    """A busy model that is asked every quarter of a second, and another that comes later; room for one."""
    driven = DrivenBrain([node_named("a")])
    busy, other = driven.know(model_named("busy")), driven.know(model_named("other"))
    theirs: list[str] = []
    steps = int(seconds / 0.25)
    for step in range(steps):
        driven.ask(busy)
        if step * 0.25 >= other_after_s and step % other_every == 0:
            theirs.append(driven.ask(other))
        driven.run(0.25)
        driven.check()
    return driven, theirs


@pytest.mark.parametrize("other_after_s", [0.25, 1.0, 3.0, 15.0])
def test_a_busy_model_makes_room_in_its_turn_for_another_that_waits(other_after_s: float) -> None:
    """One that came while the busy model was young was looked at once, two seconds later, and never again: it waited until it
    was told that its start took too long."""
    driven, theirs = _under_constant_load(60.0, other_after_s)
    driven.run(40.0)
    assert all(name in driven.ended for name in theirs)
    assert not driven.rejected
    assert len(driven.ended) == 240 + len(theirs)


def test_each_turn_lasts_a_while_and_no_longer() -> None:
    """A turn lasts for so many times a model's last start. What it had waited for room counted as its start: each turn was
    twice as long as the one before, until whoever waited for its end was turned away."""
    driven, _ = _under_constant_load(60.0, 1.0, other_every=1)
    assigned: dict[str, float] = {}
    for at_s, action in driven.done:
        if isinstance(action, Assign):
            assigned.setdefault(action.group, at_s)
        if isinstance(action, Stop):
            assert at_s - assigned[action.group] >= SHORTEST_TURN_S
    assert not driven.rejected
    assert 6 <= len(driven.starts()) <= 60.0 / SHORTEST_TURN_S
    assert {start.key.name for start in driven.starts()} == {"busy", "other"}


def test_nobody_asks_for_a_turn_before_it_has_waited_a_while() -> None:
    driven = DrivenBrain([node_named("a")])
    busy, other = driven.know(model_named("busy")), driven.know(model_named("other"))
    driven.run_s = 30.0
    driven.ask(busy)
    driven.run(10.0)
    driven.ask(other)
    driven.run(TURN_AFTER_S - 0.1)
    assert driven.states("busy") == [State.SERVING]
    driven.run(0.2)
    assert driven.states("busy") == [State.DRAINING]


def test_one_that_makes_room_for_nobody_any_more_goes_on() -> None:
    driven = DrivenBrain([node_named("a")])
    busy, other = driven.know(model_named("busy")), driven.know(model_named("other"))
    driven.run_s = 20.0
    driven.ask(busy)
    driven.run(10.0)
    request = driven.ask(other)
    driven.run(3.0)
    waits = driven.ask(busy)
    assert driven.running(waits) is None
    driven.leave(request)
    assert driven.states() == [State.SERVING]
    assert driven.running(waits) == "g1"
    assert driven.brain.held == 0
    driven.check()


def test_who_waits_for_a_replica_that_makes_room_has_another_coming() -> None:
    """It waited until the next request for its model came: nobody else asked for another replica."""
    driven = DrivenBrain([node_named("a")])
    busy, other = driven.know(model_named("busy"), wanting(kv_tokens=64)), driven.know(model_named("other"))
    driven.run_s = 4.0
    requests = [driven.ask(busy) for _ in range(5)]
    driven.run(6.0)
    last = driven.ask(other)
    driven.run(60.0)
    assert {*requests, last} == set(driven.ended)


def test_patience_begins_when_the_last_replica_is_gone() -> None:
    """Who had waited in line behind others for longer than a start may take was turned away as soon as the replica made room
    for another model, although its next start had only just begun."""
    driven = DrivenBrain([node_named("a")], limits=Limits(30.0, 1000, 1000, consolidate=True))
    busy, other = driven.know(model_named("busy"), wanting(kv_tokens=64)), driven.know(model_named("other"))
    driven.run_s = 8.0
    requests = [driven.ask(busy) for _ in range(12)]
    driven.run(20.0)
    theirs = driven.ask(other)
    driven.run(120.0)
    assert theirs in driven.ended
    assert set(requests) <= set(driven.ended)


def test_a_more_important_model_is_not_made_to_wait_and_makes_no_room() -> None:
    driven = DrivenBrain([node_named("a")])
    high, low = driven.know(model_named("high"), wanting(priority=1)), driven.know(model_named("low"))
    driven.run_s = 40.0
    driven.ask(high)
    driven.run(2.0)
    request = driven.ask(low)
    driven.run(35.0)
    assert driven.why(request) is Why.UNAVAILABLE
    assert Counter(start.key.name for start in driven.starts()) == {"high": 1}


def test_those_who_make_room_together_are_not_made_to_for_another_meanwhile() -> None:
    """The first had someone waiting, whose next replica ended the second for itself; ending that once more was no legal turn,
    and the event was lost half done."""
    driven = DrivenBrain([node_named("a", 2 * SIZE_BYTES)])
    busy, idle = driven.know(model_named("busy"), wanting(kv_tokens=64)), driven.know(model_named("idle"))
    driven.ask(idle)
    driven.run(3.0)
    driven.run_s = 10.0
    requests = [driven.ask(busy) for _ in range(4)]
    driven.run(8.0)
    units = tuple(replace(unit, size_bytes=2 * unit.size_bytes) for unit in model_named("large").units)
    last = driven.ask(driven.know(replace(model_named("large"), units=units)))
    driven.run(TURN_AFTER_S + 0.1)
    driven.check()
    assert driven.states("busy")[0] is State.DRAINING
    assert driven.states("idle") == []
    driven.run(90.0)
    assert {*requests, last} <= set(driven.ended)


def test_one_that_nobody_makes_room_for_holds_nobody_up() -> None:
    """Behind one that waited for the room of a more important model nothing was started any more, although there was room."""
    driven = DrivenBrain([node_named("a", 2 * SIZE_BYTES), node_named("b", 0)])
    high = driven.know(model_named("high"), wanting(priority=1))
    driven.run_s = 60.0
    driven.ask(high)
    driven.run(2.0)
    units = tuple(replace(unit, size_bytes=2 * unit.size_bytes) for unit in model_named("large").units)
    large = driven.know(replace(model_named("large"), units=units))
    driven.ask(large)
    driven.run(FAIR_S + 3.0)
    driven.ask(driven.know(model_named("small")))
    assert [start.key.name for start in driven.starts()] == ["high", "small"]


def test_a_start_that_fails_leaves_its_links_at_once() -> None:
    driven = DrivenBrain()
    rates = rates_of(nic=1.0) | {STORE: Rate(1.0, 1.0, 9)}
    for name in ("a", "b"):
        driven.join(node_named(name, SIZE_BYTES, rates))
    driven.form_s = 50.0
    promised = driven.ask(driven.know(model_named("promised"), wanting(ttft_s=60.0)))
    driven.ask(driven.know(model_named("waits")))
    driven.run(1.0)
    assert [start.key.name for start in driven.starts()] == ["promised"]
    driven.alive.discard(promised)
    driven.tell(events.RequestLeft(promised))
    driven.tell(events.GroupFailed("g1", "it failed", False))
    driven._stopping.add("g1")
    assert [start.key.name for start in driven.starts()] == ["promised", "waits"]


# ---- kept up


def test_two_that_shall_always_be_there_with_room_for_one_never_end_each_other() -> None:
    """Each ended the other as soon as it was up, for nobody."""
    driven = DrivenBrain([node_named("a")])
    for name in ("m", "n"):
        driven.know(model_named(name), wanting(min_replicas=1, keep_alive_s=1.0))
    driven.run(120.0)
    assert len(driven.starts()) == 1
    assert not driven.actions(Stop)


def test_one_that_was_only_to_be_there_is_for_who_asks_once_somebody_does() -> None:
    """It went on waiting for room that nobody had to make for it: the request was turned away after the time of a start,
    while another model's replica lay idle."""
    driven = DrivenBrain([node_named("a")])
    idle = driven.know(model_named("idle"), wanting(keep_alive_s=1e6))
    driven.ask(idle)
    driven.run(3.0)
    kept = driven.know(model_named("kept"), wanting(min_replicas=1))
    driven.run(10.0)
    assert driven.states("kept") == [State.WANTED]
    request = driven.ask(kept)
    driven.run(5.0)
    assert request in driven.ended
    driven.check()


def test_one_that_is_asked_for_no_more_ends_nobody_for_it() -> None:
    driven = DrivenBrain([node_named("a")])
    busy = driven.know(model_named("busy"), wanting(keep_alive_s=1e6))
    driven.run_s = 10.0
    driven.ask(busy)
    driven.run(3.0)
    kept = driven.know(model_named("kept"), wanting(min_replicas=1))
    driven.leave(driven.ask(kept))
    driven.run(60.0)
    assert not driven.actions(Stop)
    assert driven.states("busy") == [State.SERVING]


def test_one_that_made_room_comes_back_as_soon_as_there_is_some() -> None:
    """It stayed away until somebody asked for it, although it shall always be there."""
    driven = DrivenBrain([node_named("a")])
    driven.know(model_named("kept"), wanting(min_replicas=1))
    driven.run(3.0)
    guest = driven.know(model_named("guest"), wanting(keep_alive_s=2.0))
    driven.ask(guest)
    driven.run(2.0)
    assert driven.states("guest") == [State.SERVING]
    driven.run(10.0)
    assert driven.states("kept") == [State.SERVING]
    assert driven.states("guest") == []


def test_a_replica_that_was_wanted_for_a_crowd_is_not_started_once_the_crowd_is_served() -> None:
    """It was started for nobody as soon as there was room, and others' replicas ended for it."""
    driven = DrivenBrain([node_named("a"), node_named("b")])
    crowd = driven.know(model_named("crowd"), wanting(kv_tokens=64, max_replicas=2))
    other = driven.know(model_named("other"))
    driven.ask(other)
    driven.run(1.2)
    driven.run_s = 1.0
    for _ in range(2):
        driven.ask(crowd)
    driven.ask(other)
    assert driven.states("crowd") == [State.STARTING, State.WANTED]
    driven.run_s = 0.5
    driven.run(1.05)
    driven.tell(events.RequestEnded(next(iter(driven._on))))
    driven.run(20.0)
    assert len(driven.starts("other")) == 1
    assert len(driven.ended) >= 3


def test_the_same_events_give_the_same_actions() -> None:
    def lived() -> list[object]:
        driven, _ = _under_constant_load(20.0, 1.0)
        driven.run(3.0)
        driven.lose(driven.brain.replicas()[0].group)
        driven.run(20.0)
        return driven.done  # type: ignore[return-value]

    assert lived() == lived()
