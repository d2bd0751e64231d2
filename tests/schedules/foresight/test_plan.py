"""What single plans say: who gets which room, and why."""

from dataclasses import replace

import pytest

from schedules.facts import Node, Rate, Unit, View
from schedules.foresight.plan import Budgets, Plan, Staging
from schedules.foresight.planner import Ground, make_plan
from schedules.rates import NIC, STORE, formed
from tests.schedules.foresight.plan_worlds import (
    GIB,
    MB,
    STAGING_ONLY,
    certain,
    forecast,
    ground,
    holding,
    model,
    node,
    wanted,
)
from tests.told import budgets_of

A, B, C = model("a"), model("b"), model("c")


def _plan(on: Ground, budgets: Budgets = STAGING_ONLY, every_s: float = 300.0) -> Plan:
    return make_plan(on, budgets, 0.0, every_s)


def _staged(plan: Plan, name: str, tier: str = "dram") -> list[Staging]:
    return [staging for staging in plan.stagings if staging.key.name == name and staging.tier == tier]


def _why(plan: Plan, name: str) -> str:
    return next(each.reason for each in plan.left_out if each.model == name)


# ---- who


def test_a_model_that_is_never_called_gets_nothing_and_is_the_first_to_go() -> None:
    there = holding(node("n0"), B, "dram")
    plan = _plan(ground([there], [wanted(A), wanted(B)], certain({"a": 3, "b": None})))
    assert {staging.key for staging in plan.stagings} == {A.key}
    assert _why(plan, "b") == "Nobody is expected to call it."
    dram, _ = plan.retention("n0")
    assert {dram.worth[digest] for digest in B.digests} == {0.0}
    assert min(dram.worth[digest] for digest in A.digests) > 0.0


def test_a_model_that_the_forecast_does_not_have_is_taken_for_never_called() -> None:
    plan = _plan(ground([node("n0")], [wanted(A), wanted(B)], certain({"a": 3})))
    assert _why(plan, "b") == "Nobody is expected to call it."


def test_a_model_that_is_certain_to_be_called_has_the_room_before_one_that_may_be() -> None:
    small = node("n0", dram_mb=100)
    on = ground([small], [wanted(A), wanted(B)], forecast({"a": 0.1, "b": 9.0}))
    plan = _plan(on, replace(STAGING_ONLY, ssd_share=0.0))
    assert _staged(plan, "b")
    assert not _staged(plan, "a")
    assert _why(plan, "a") == "Others save more in the room that there is."


def test_of_two_that_are_called_for_certain_the_one_that_is_called_sooner_has_the_room() -> None:
    small = node("n0", dram_mb=100)
    plan = _plan(ground([small], [wanted(A), wanted(B)], certain({"a": 14, "b": 1})))
    assert _staged(plan, "b")
    assert not _staged(plan, "a")


def test_of_equals_the_one_of_the_higher_priority_has_the_room() -> None:
    small, calls = node("n0", dram_mb=100), certain({"a": 3, "b": 3})
    first = _plan(ground([small], [wanted(A), wanted(B)], calls))
    other = _plan(ground([small], [wanted(A), wanted(B, priority=1)], calls))
    assert _staged(first, "a")
    assert not _staged(first, "b")
    assert _staged(other, "b")
    assert not _staged(other, "a")


def test_models_that_have_replicas_at_all_times_are_not_planned_for() -> None:
    plan = _plan(ground([node("n0")], [wanted(A, min_replicas=1)], certain({"a": 3})))
    assert not plan.stagings
    assert not plan.worth
    assert _why(plan, "a") == "It has replicas at all times."


def test_a_model_that_fits_no_accelerators_is_left_out() -> None:
    plan = _plan(ground([replace(node("n0"), device_bytes=10 * MB)], [wanted(A)], certain({"a": 3})))
    assert not plan.stagings
    assert _why(plan, "a") == "It does not fit the nodes' accelerators, however it is split."


# ---- where


def test_it_comes_in_order_of_use_and_what_may_come_while_the_group_is_formed_is_worth_little() -> None:
    plan = _plan(ground([node("n0")], [wanted(A)], certain({"a": 3})))
    (staging,) = _staged(plan, "a")
    assert staging.units == tuple(unit.name for unit in A.units)
    dram, _ = plan.retention("n0")
    worth = [dram.worth[digest] for digest in A.digests]
    assert worth == sorted(worth, reverse=True)
    assert worth[-1] > 0.5 * worth[0]  # a unit takes a second over the card, and forming half of one
    fast = node("n0", rates={**node("n0").rates, NIC: Rate(100.0 * MB, 100.0 * MB, 9)})
    dram, _ = _plan(ground([fast], [wanted(A)], certain({"a": 3}))).retention("n0")
    assert [dram.worth[digest] > 0.5 * dram.worth[A.digests[0]] for digest in A.digests] == [True] * 6 + [False] * 4


def test_a_model_is_spread_over_the_nodes_that_start_it_together_with_its_first_layers_where_most_memory_is_free() -> (
    None
):
    bus = {"bus": Rate(20.0 * MB, 20.0 * MB, 9)}  # so slow that several copy faster than one
    nodes = [node(f"n{i}") for i in range(4)]
    nodes = [replace(each, rates={**each.rates, **bus}) for each in nodes]
    nodes[2] = replace(nodes[2], device_bytes=3000 * MB)
    plan = _plan(ground(nodes, [wanted(A, max_degree=4)], certain({"a": 3})), replace(STAGING_ONLY, link_share=1.0))
    staged = {staging.node: staging.units for staging in _staged(plan, "a")}
    assert sorted(unit for units in staged.values() for unit in units) == sorted(unit.name for unit in A.units)
    assert len(staged) == 4
    assert staged["n2"][0] == "embed"


def test_it_stays_whole_on_one_node_where_that_is_as_fast() -> None:
    nodes = [node(f"n{i}") for i in range(4)]
    slow = {formed(degree): Rate(5.0, 5.0, 9) for degree in (2, 4)}
    nodes = [replace(each, rates={**each.rates, **slow}) for each in nodes]
    plan = _plan(ground(nodes, [wanted(A, max_degree=4)], certain({"a": 3})), replace(STAGING_ONLY, link_share=1.0))
    assert len({staging.node for staging in _staged(plan, "a")}) == 1


def test_it_is_where_most_of_it_is_already_and_only_the_rest_comes() -> None:
    half = dict.fromkeys(A.digests[:5], "dram")
    nodes = [node("n0"), replace(node("n1"), units=half, dram_used_bytes=50 * MB)]
    (staging,) = _staged(_plan(ground(nodes, [wanted(A)], certain({"a": 3}))), "a")
    assert (staging.node, staging.units) == ("n1", tuple(unit.name for unit in A.units[5:]))


def test_a_second_copy_is_worth_little() -> None:
    nodes = [holding(node(name), A, "dram") for name in ("n0", "n1")]
    plan = _plan(ground(nodes, [wanted(A)], certain({"a": 3})))
    assert not plan.stagings
    assert _why(plan, "a") == "All that helps it is where it should be."
    first, second = (sum(plan.dram[name].worth.values()) for name in ("n0", "n1"))
    assert min(first, second) < 0.2 * max(first, second)


def test_units_that_fine_tunes_share_are_brought_once_and_count_for_both() -> None:
    tuned = replace(A, name="tuned", digest="t", units=(*A.units[:-1], Unit("head", "tuned/head", 10 * MB)))
    plan = _plan(ground([node("n0")], [wanted(A), wanted(tuned)], certain({"a": 3, "tuned": 3})))
    assert sum(staging.size_bytes for staging in plan.stagings) == A.size_bytes + 10 * MB
    dram, _ = plan.retention("n0")
    assert dram.worth[A.digests[8]] > 1.5 * dram.worth[A.digests[9]]


def test_nodes_of_one_box_are_one_place_and_keep_the_same() -> None:
    nodes = [replace(node(name), box="box") for name in ("n0", "n1")]
    plan = _plan(ground(nodes, [wanted(A, max_degree=2)], certain({"a": 3})))
    assert len(_staged(plan, "a")) == 1
    assert plan.dram["n0"] == plan.dram["n1"]


# ---- whence, and in what time


def test_it_comes_from_the_nodes_own_ssd_else_from_another_node_that_gives_else_from_the_store() -> None:
    here, there = node("n0"), replace(holding(node("n1"), B, "ssd"), device_bytes=0)
    here = holding(here, A, "ssd")
    on = ground([here, there], [wanted(A), wanted(B), wanted(C)], certain({"a": 3, "b": 3, "c": 3}))
    plan = _plan(on, replace(STAGING_ONLY, link_share=1.0))
    assert {staging.key.name: staging.source for staging in plan.stagings if staging.node == "n0"} == {
        "a": "ssd",
        "c": "remote",
    } | ({"b": "peer"} if any(s.key.name == "b" and s.node == "n0" for s in plan.stagings) else {})
    alone = _plan(replace(on, view=View((here, replace(there, peer_port=0, units=there.units)))))
    assert all(staging.source != "peer" for staging in alone.stagings)
    assert plan.moved_bytes == sum(s.size_bytes for s in plan.stagings if s.source != "ssd")


def test_what_the_links_have_no_time_for_is_cut_from_its_end_and_then_left_out() -> None:
    on = ground([node("n0")], [wanted(A)], certain({"a": 3}))
    (cut,) = _staged(_plan(on, replace(STAGING_ONLY, link_share=0.25), 12.0), "a")
    assert cut.units == ("embed", "layer.0000", "layer.0001")  # three seconds of ten
    none = _plan(on, replace(STAGING_ONLY, link_share=0.0))
    assert not none.stagings
    assert _why(none, "a") == "Its bytes would not come in time over the links, or are more than may be moved."


def test_what_is_due_within_a_minute_has_that_minute_of_the_links() -> None:
    on = ground([node("n0")], [wanted(A), wanted(B)], certain({"a": 0, "b": 4}))
    plan = _plan(on, replace(STAGING_ONLY, link_share=0.1))
    (soon,) = _staged(plan, "a")
    assert len(soon.units) == 6  # of a card of a unit a second
    assert [staging.key.name for staging in plan.stagings] == ["a", "b"]
    assert (soon.before_s, _staged(plan, "b")[0].before_s) == (60.0, 240.0)


def test_the_store_is_a_link_of_all_nodes_together() -> None:
    nodes = [node(f"n{i}", dram_mb=150) for i in range(2)]
    limited = [replace(each, rates={**each.rates, STORE: Rate(10.0 * MB, 10.0 * MB, 9)}) for each in nodes]
    models, calls = [wanted(A), wanted(B)], certain({"a": 3, "b": 3})
    tight = replace(STAGING_ONLY, link_share=0.5)
    free = _plan(ground(nodes, models, calls), tight, 20.0)
    held = _plan(ground(limited, models, calls), tight, 20.0)
    assert free.moved_bytes == 200 * MB
    assert held.moved_bytes == 100 * MB


def test_no_more_bytes_are_moved_than_may_be_but_ssds_are_no_network() -> None:
    nodes = [holding(node("n0"), A, "ssd")]
    on = ground(nodes, [wanted(A), wanted(B)], certain({"a": 3, "b": 3}))
    plan = _plan(on, replace(STAGING_ONLY, moved_bytes=40 * MB))
    assert plan.moved_bytes == 40 * MB
    assert sum(staging.size_bytes for staging in _staged(plan, "a")) == A.size_bytes


# ---- what is spent


def test_nothing_is_kept_in_dram_that_saves_less_than_it_should() -> None:
    on = ground([node("n0")], [wanted(A)], certain({"a": 3}))
    seconds = sum(staging.saved_s for staging in _staged(_plan(on), "a"))
    per_gib_hour = seconds / (A.size_bytes / GIB) / 0.25
    assert _staged(_plan(on, replace(STAGING_ONLY, least_saved_s=0.9 * per_gib_hour)), "a")
    capped = _plan(on, replace(STAGING_ONLY, least_saved_s=1.3 * per_gib_hour))
    assert not _staged(capped, "a")


def test_what_is_there_already_makes_way_only_for_what_saves_clearly_more() -> None:
    there = holding(holding(node("n0", dram_mb=112), A, "dram"), B, "ssd")
    about = _plan(ground([there], [wanted(A), wanted(B)], forecast({"a": 1.0, "b": 1.1})))
    assert [len(staging.units) for staging in _staged(about, "b")] == [2]  # for two of which nobody would wait
    more = _plan(ground([there], [wanted(A), wanted(B)], forecast({"a": 0.1, "b": 1.1})))
    (staging,), (dram, _) = _staged(more, "b"), more.retention("n0")
    comes = [unit.digest for unit in B.units if unit.name in staging.units]
    assert len(comes) > 5
    assert max(dram.worth[digest] for digest in A.digests[8:]) < min(dram.worth[digest] for digest in comes)


def test_what_nobody_here_knows_has_its_room_and_is_worth_what_is_usual() -> None:
    strange = replace(node("n0", dram_mb=200), units={"strange": "dram"}, dram_used_bytes=150 * MB)
    plan = _plan(ground([strange], [wanted(A), wanted(B)], certain({"a": 3, "b": 5})))
    assert sum(staging.size_bytes for staging in plan.stagings if staging.tier == "dram") <= 30 * MB
    dram, _ = plan.retention("n0")
    assert "strange" not in dram.worth
    assert 0.0 < dram.otherwise <= max(dram.worth.values())


# ---- replicas


def test_a_replica_is_kept_where_its_call_is_likely_and_soon_and_not_where_it_is_not() -> None:
    on = ground([node("n0")], [wanted(A), wanted(B)], forecast({"a": 9.0, "b": 0.1}))
    plan = _plan(on, budgets_of(link_share=1.0))
    assert [(kept.key, kept.replicas) for kept in plan.kept] == [(A.key, 1)]
    assert not _staged(plan, "a")  # it comes to the node as its replica does
    assert plan.worth[A.key] > plan.worth[B.key] > 0.0


def test_accelerators_are_used_by_their_share() -> None:
    on = ground([node("n0")], [wanted(A)], certain({"a": 1}))
    assert _plan(on, budgets_of(device_share=0.06, link_share=1.0)).kept
    assert not _plan(on, budgets_of(device_share=0.04, link_share=1.0)).kept  # of 2000 MB it needs 101


def test_no_replica_is_kept_that_saves_less_than_it_should() -> None:
    on = ground([node("n0")], [wanted(A)], certain({"a": 1}))
    assert _plan(on, budgets_of(link_share=1.0, least_saved_device_s=100.0)).kept
    assert not _plan(on, budgets_of(link_share=1.0, least_saved_device_s=1000.0)).kept


def test_one_that_would_have_to_come_needs_free_memory_and_time_on_the_links_and_one_that_is_up_does_not() -> None:
    full = replace(node("n0"), device_reserved_bytes=1950 * MB)
    models, calls = [wanted(A)], certain({"a": 1})
    assert not _plan(ground([full], models, calls), budgets_of(link_share=1.0)).kept
    assert not _plan(ground([node("n0")], models, calls), budgets_of(link_share=0.01)).kept
    up = ground([holding(full, A, "dram")], models, calls, {A.key: [("n0",)]})
    (kept,) = _plan(up, budgets_of(link_share=0.01)).kept
    assert kept.key == A.key
    assert "its replica, which is up, spares" in kept.reason


def test_a_pipeline_that_is_up_is_kept_by_what_each_of_its_nodes_has_to_spare() -> None:
    nodes = [replace(node(name), device_bytes=120 * MB) for name in ("n0", "n1")]
    up = ground(nodes, [wanted(A, max_degree=2)], certain({"a": 1}), {A.key: [("n0", "n1")]})
    assert _plan(up, budgets_of(device_share=0.5)).kept
    assert not _plan(up, budgets_of(device_share=0.3)).kept


def test_units_in_use_have_their_room_whatever_else_there_is() -> None:
    there = holding(node("n0", dram_mb=120), B, "dram")
    up = ground([there], [wanted(A), wanted(B)], certain({"a": 1, "b": None}), {B.key: [("n0",)]})
    assert not _staged(_plan(up), "a")
    assert _staged(_plan(replace(up, running={})), "a")


def test_nothing_is_staged_on_ssd_that_does_not_get_through_dram() -> None:
    there = holding(node("n0", dram_mb=105), B, "dram")
    up = ground([there], [wanted(A), wanted(B)], certain({"a": 3, "b": None}), {B.key: [("n0",)]})
    assert not _staged(_plan(up), "a", "ssd")
    assert _why(_plan(up), "a") == "The dram that it would come through is full of what saves more there."
    assert _staged(_plan(replace(up, running={})), "a", "ssd")


def test_a_running_model_needs_less_in_dram_than_one_that_is_gone() -> None:
    there = holding(node("n0"), A, "dram")
    gone = ground([there], [wanted(A)], certain({"a": 2}))
    up = replace(gone, running={A.key: [("n0",)]})
    assert _plan(up).dram["n0"].worth[A.digests[0]] < 0.5 * _plan(gone).dram["n0"].worth[A.digests[0]]


# ---- what is not known


def test_a_node_of_which_nothing_was_measured_is_told_of_and_gets_nothing() -> None:
    plan = _plan(ground([replace(node("n0"), rates={})], [wanted(A)], certain({"a": 3})))
    assert not plan.stagings
    assert not plan.dram
    assert _why(plan, "n0") == "How fast node n0 is was not measured yet: nothing is brought there."
    assert _why(plan, "a") == "There is no node that can be planned for."


def _draining(name: str) -> Node:
    return replace(node(name), draining=True)


def test_without_nodes_or_with_none_but_draining_ones_there_is_nothing_to_do() -> None:
    for nodes in ([], [_draining("n0")]):
        plan = _plan(ground(nodes, [wanted(A)], certain({"a": 3})))
        assert (plan.stagings, plan.kept, plan.dram, plan.ssd) == ((), (), {}, {})


def test_a_plan_is_good_for_the_forecasts_horizon_or_until_the_next_one() -> None:
    on = ground([node("n0")], [], certain({}))
    assert make_plan(on, budgets_of(), 30.0, 60.0).until_s == 900.0
    assert make_plan(on, budgets_of(), 890.0, 60.0).until_s == 950.0
    with pytest.raises(ValueError, match="every 0"):
        make_plan(on, budgets_of(), 0.0, 0.0)


# ---- in words


def test_a_reason_says_how_likely_when_whence_and_what_it_spares() -> None:
    (staging,) = _staged(_plan(ground([node("n0")], [wanted(A)], certain({"a": 3}))), "a")
    assert staging.reason == (
        "a is called in about 3 min; with this in dram of n0, from the store, it can start in 0.51 s where it would take "
        "10.01 s."
    )
    (staging,) = _staged(_plan(ground([node("n0")], [wanted(A)], forecast({"a": 0.5}))), "a")
    assert staging.reason.startswith("a is called with a probability of 39%, most likely in about ")
    plan = _plan(ground([node("n0")], [wanted(A)], certain({"a": 0})), budgets_of(link_share=1.0))
    assert plan.kept[0].reason == (
        "a is called within a minute; a replica on n0 spares whoever calls a start of 10.01 s."
    )
