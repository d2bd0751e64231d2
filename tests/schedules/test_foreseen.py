"""The brain and a plan of prewarming: what it keeps is there before anybody asks, and takes nothing from those who do."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from schedules.actions import Assign, Hurry, Start, Stop
from schedules.events import PrewarmPlanned
from schedules.facts import ModelKey
from schedules.foresight.plan import Kept, Plan
from schedules.lifecycle import State
from schedules.limits import KEEP_UP_AFTER_S
from tests.schedules.driven_brain import SIZE_BYTES, DrivenBrain, model_named, node_named, wanting

PLAN_S = 100.0
SEEN = wanting(keep_alive_s=5.0)
"""Models whose replicas go soon."""


def _plan(
    kept: Mapping[ModelKey, int] | None = None, worth: Mapping[ModelKey, float] | None = None, saved_s: float = 10.0
) -> PrewarmPlanned:
    """Of a clock of its own."""
    made_s = 1.7e9
    each = tuple(Kept(key, count, saved_s, "as it is") for key, count in (kept or {}).items())
    return PrewarmPlanned(Plan(made_s, made_s + PLAN_S, (), {}, {}, each, worth or {}))


def _driven(nodes: int = 1, *models: str) -> tuple[DrivenBrain, list[ModelKey]]:
    """Nodes that have room for one replica each."""
    driven = DrivenBrain([node_named(name) for name in "abcd"[:nodes]])
    return driven, [driven.know(model_named(name), SEEN) for name in models]


def test_what_is_kept_starts_behind_before_anybody_asks_and_stays_until_the_plan_is_over() -> None:
    driven, (key,) = _driven(1, "m")
    driven.tell(_plan({key: 1}))
    (start,) = driven.starts()
    assert start.behind
    driven.run(PLAN_S - 1.0)
    assert driven.states() == [State.SERVING]
    assert driven.brain.plan is not None
    driven.run(2.0)
    assert driven.brain.plan is None
    assert driven.states() == []


def test_who_comes_then_is_served_at_once_and_its_replica_rests_as_ever_once_the_plan_is_over() -> None:
    driven, (key,) = _driven(1, "m")
    driven.tell(_plan({key: 1}))
    driven.run(PLAN_S - 3.0)
    request = driven.ask(key)
    assert driven.actions(Assign) == [Assign(request, "g1", False)]
    driven.run(4.0)
    assert driven.brain.plan is None
    assert driven.states() == [State.SERVING]
    driven.run(SEEN.keep_alive_s)
    assert driven.states() == []


def test_what_the_next_plan_does_not_name_goes_if_it_was_idle_for_long_enough() -> None:
    driven, keys = _driven(2, "m", "n")
    driven.tell(_plan({keys[0]: 1}))
    driven.run(20.0)
    driven.tell(_plan({keys[1]: 1}))
    driven.run(5.0)
    assert driven.states("m") == []
    assert driven.states("n") == [State.SERVING]


def test_a_plan_that_another_has_followed_ends_nothing() -> None:
    driven, (key,) = _driven(1, "m")
    driven.tell(_plan({key: 1}))
    driven.run(PLAN_S / 2)
    driven.tell(_plan({key: 1}))
    driven.run(PLAN_S - 10.0)
    assert driven.states() == [State.SERVING]
    assert driven.brain.plan is not None


def test_what_is_not_even_placed_is_given_up_with_its_plan() -> None:
    driven, keys = _driven(1, "busy", "m")
    driven.run_s = 1000.0
    driven.ask(keys[0])
    driven.run(2.0)
    driven.tell(_plan({keys[1]: 1}))
    assert driven.states("m") == [State.WANTED]
    driven.tell(_plan())
    assert driven.states("m") == []


def test_a_model_that_is_known_later_is_kept_too() -> None:
    driven, _ = _driven(1)
    model = model_named("m")
    driven.tell(_plan({model.key: 1}))
    driven.know(model, SEEN)
    driven.run(20.0)
    assert driven.states() == [State.SERVING]


def test_no_more_are_kept_than_the_model_may_have() -> None:
    driven, (key,) = _driven(3, "m")
    driven.tell(_plan({key: 3}))
    driven.run(10.0)
    assert SEEN.max_replicas == 1
    assert driven.states() == [State.SERVING]


def test_an_older_version_is_not_kept() -> None:
    driven, (old,) = _driven(2, "m")
    driven.know(model_named("m", "m/2"), SEEN, opened=1)
    driven.tell(_plan({old: 1}))
    driven.run(10.0)
    assert driven.starts() == []


# ---- room


def test_nobody_who_is_busy_or_worth_more_goes_for_it() -> None:
    driven, (busy, idle, key) = _driven(2, "busy", "idle", "m")
    driven.run_s = 50.0
    driven.ask(busy)
    driven.run(2.0)
    driven.run_s = 0.5
    driven.ask(idle)
    driven.run(3.0)
    driven.tell(_plan({key: 1}, {idle: 11.0}))
    driven.run(1.0)
    assert driven.actions(Stop) == []
    assert driven.states("m") == [State.WANTED]


def test_who_is_idle_and_worth_less_goes_for_it() -> None:
    driven, (idle, key) = _driven(1, "idle", "m")
    driven.ask(idle)
    driven.run(3.0)
    driven.tell(_plan({key: 1}, {idle: 6.0}))
    driven.run(3.0)
    assert driven.actions(Stop) == [Stop("g1")]
    assert driven.states("m") == [State.SERVING]
    assert driven.starts("m")[0].behind


def test_whoever_waits_comes_first() -> None:
    """There is room for one: it was the kept one's that was wanted before."""
    driven, (busy, key, asked) = _driven(1, "busy", "m", "asked")
    driven.ask(busy)
    driven.run(1.5)
    driven.tell(_plan({key: 1}))
    request = driven.ask(asked)
    driven.run(4.0)
    assert request in driven.ended
    assert [start.key.name for start in driven.starts()][:2] == ["busy", "asked"]


def test_of_those_that_are_idle_the_least_worth_goes_first_and_of_equals_the_longest_idle() -> None:
    driven, keys = _driven(3, "m0", "m1", "m2", "asked", "more")
    for key in keys[:3]:
        driven.ask(key)
        driven.run(1.5)
    driven.run(1.0)
    driven.tell(_plan(worth={keys[0]: 2.0, keys[2]: 0.0, keys[1]: 1.0}))
    driven.ask(keys[3])
    driven.run(0.5)
    assert driven.actions(Stop) == [Stop("g3")]
    driven.tell(_plan())
    driven.ask(keys[4])
    driven.run(0.5)
    assert driven.actions(Stop)[1:] == [Stop("g1")]


def test_who_was_asked_for_since_the_plan_is_worth_a_start_whatever_that_said() -> None:
    """Calls come in bursts: the plan is of before the first of them."""
    driven, keys = _driven(2, "burst", "other", "asked")
    for key in keys[:2]:
        driven.ask(key)
        driven.run(1.5)
    driven.tell(_plan(worth={keys[0]: 0.0, keys[1]: 0.01}))
    driven.ask(keys[0])
    driven.run(1.0)
    driven.ask(keys[2])
    driven.run(0.5)
    assert driven.actions(Stop) == [Stop("g2")]


def test_who_was_asked_for_is_worth_no_less_than_the_plan_said() -> None:
    driven, keys = _driven(2, "worthy", "other", "asked")
    for key in keys[:2]:
        driven.ask(key)
        driven.run(1.5)
    driven.tell(_plan(worth={keys[0]: 50.0, keys[1]: 2.0}))
    driven.ask(keys[0])
    driven.run(1.0)
    driven.ask(keys[2])
    driven.run(0.5)
    assert driven.actions(Stop) == [Stop("g2")]


def test_what_is_kept_goes_last_but_goes_for_who_has_no_other_room() -> None:
    driven, (key, idle, asked) = _driven(2, "m", "idle", "asked")
    driven.tell(_plan({key: 1}, {idle: 9.0}))
    driven.run(2.0)
    driven.ask(idle)
    driven.run(3.0)
    driven.run_s = 20.0
    driven.ask(asked)
    driven.run(3.0)
    assert driven.states("idle") == []
    assert driven.states("m") == [State.SERVING]
    again = driven.ask(idle)
    driven.run(3.0)
    assert driven.assigned[again]
    assert driven.states("m") != [State.SERVING]


# ---- asked for meanwhile


def test_who_asks_for_what_comes_behind_makes_it_come_at_once_and_only_once() -> None:
    driven, (key,) = _driven(1, "m")
    driven.tell(_plan({key: 1}))
    driven.run(0.5)
    requests = [driven.ask(key), driven.ask(key)]
    assert driven.actions(Hurry) == [Hurry("g1", ("a",))]
    driven.run(3.0)
    assert len(driven.starts()) == 1
    assert driven.actions(Assign) == [Assign(request, "g1", True) for request in requests]


@pytest.mark.parametrize("placed", [False, True], ids=["without room", "waits for another's"])
def test_who_asks_for_what_is_not_ordered_yet_has_a_start_like_any_other(placed: bool) -> None:
    driven, (other, key) = _driven(1, "other", "m")
    driven.run_s = 0.5 if placed else 20.0
    driven.stop_s = 2.0
    driven.ask(other)
    driven.run(2.0)
    driven.tell(_plan({key: 1}))
    assert driven.states("m") == [State.WANTED]
    driven.ask(key)
    driven.run(40.0)
    (start,) = driven.starts("m")
    assert not start.behind
    assert driven.actions(Hurry) == []


def test_who_asks_for_what_found_no_room_does_not_wait_until_that_is_tried_again() -> None:
    """Others are worth more than what is foreseen, but go for whoever asks."""
    driven, (idle, key) = _driven(1, "idle", "m")
    driven.ask(idle)
    driven.run(3.0)
    driven.tell(_plan({key: 1}, {idle: 20.0}))
    driven.run(0.1)
    assert driven.states("m") == [State.WANTED]
    driven.ask(key)
    driven.run(0.5)
    assert len(driven.starts("m")) == 1


def test_what_is_asked_for_while_it_serves_is_nobody_s_hurry() -> None:
    driven, (key,) = _driven(1, "m")
    driven.tell(_plan({key: 1}))
    driven.run(3.0)
    driven.ask(key)
    driven.run(1.0)
    assert driven.actions(Hurry) == []
    assert list(driven.actions(Start)) == driven.starts("m")


def test_room_that_would_cost_others_more_than_it_saves_is_not_taken() -> None:
    """Each of the two that would go is worth less than the one that is kept, both together are worth more."""
    driven = DrivenBrain([node_named("a", 2 * SIZE_BYTES)])
    small = [driven.know(model_named(name)) for name in ("m0", "m1")]
    wide = driven.know(
        replace(model_named("wide"), kv_bytes_per_token=1), wanting(keep_alive_s=5.0, kv_tokens=SIZE_BYTES)
    )
    for key in small:
        driven.ask(key)
    driven.run(3.0)
    driven.tell(_plan({wide: 1}, dict.fromkeys(small, 6.0), saved_s=10.0))
    driven.run(1.0)
    assert driven.actions(Stop) == []
    driven.tell(_plan({wide: 1}, dict.fromkeys(small, 3.0), saved_s=10.0))
    driven.run(KEEP_UP_AFTER_S + 3.0)
    assert driven.states("wide") == [State.SERVING]
