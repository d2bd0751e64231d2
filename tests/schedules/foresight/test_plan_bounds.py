"""What holds for every plan, whatever it is made on."""

from collections import Counter, defaultdict

import pytest

from schedules.foresight.plan import Plan
from schedules.foresight.planner import Ground, make_plan
from schedules.foresight.spoken import plan_as_json, read_plan
from tests.schedules.foresight.plan_worlds import drawn

SEEDS = range(25)
EVERY_S = 120.0


def _sizes(ground: Ground) -> dict[str, int]:
    return {unit.digest: unit.size_bytes for wanted in ground.models for unit in wanted.model.units}


def _staged(ground: Ground, plan: Plan, tier: str) -> dict[str, set[str]]:
    """Digests that come to the tier, by node."""
    units = {(w.model.key, unit.name): unit.digest for w in ground.models for unit in w.model.units}
    found = defaultdict[str, set[str]](set)
    for staging in plan.stagings:
        if staging.tier == tier:
            found[staging.node] |= {units[staging.key, name] for name in staging.units}
    return found


@pytest.mark.parametrize("seed", SEEDS)
def test_what_comes_is_worth_more_than_what_goes_for_it_and_has_room(seed: int) -> None:
    """Whatever goes by the plan's own ranks to make room for what comes is worth less than that."""
    ground, budgets = drawn(seed)
    plan, sizes = make_plan(ground, budgets, 0.0, EVERY_S), _sizes(drawn(seed)[0])
    for tier, share in (("dram", budgets.dram_share), ("ssd", budgets.ssd_share)):
        for name, comes in _staged(ground, plan, tier).items():
            node = ground.view.node(name)
            assert node is not None
            retention = plan.retention(name)[0 if tier == "dram" else 1]
            budget_bytes = node.dram_bytes if tier == "dram" else node.ssd_bytes
            there = {digest for digest, where in node.units.items() if tier in ("ssd", where)}
            ranked = sorted(comes | there, key=lambda d: (retention.worth[d], d in there), reverse=True)
            used, stays = 0, set[str]()
            for digest in ranked:
                used += sizes[digest]
                if used <= budget_bytes:
                    stays.add(digest)
            assert comes <= stays
            assert sum(sizes[digest] for digest in comes) <= share * budget_bytes


@pytest.mark.parametrize("seed", SEEDS)
def test_what_comes_to_ssd_gets_through_dram(seed: int) -> None:
    """A node makes room there of what is worth no more by the plan's own ranks: what has none was staged again and again, and
    refused."""
    ground, budgets = drawn(seed)
    plan, sizes = make_plan(ground, budgets, 0.0, EVERY_S), _sizes(ground)
    units = {(w.model.key, unit.name): unit.digest for w in ground.models for unit in w.model.units}
    in_use = defaultdict[str, set[str]](set)
    for wanted in ground.models:
        for name in {name for names in ground.running.get(wanted.model.key, ()) for name in names}:
            in_use[name].update(wanted.model.digests)
    there = {node.name: {d for d, tier in node.units.items() if tier == "dram"} for node in ground.view.nodes}
    for staging in plan.stagings:
        node, (dram, _) = ground.view.node(staging.node), plan.retention(staging.node)
        assert node is not None
        for digest in [units[staging.key, name] for name in staging.units]:
            if staging.tier == "dram":
                there[node.name].add(digest)
                continue
            stays = [d for d in there[node.name] if d in in_use[node.name] or dram.of(d) > dram.of(digest)]
            assert sum(sizes[each] for each in stays) + sizes[digest] <= node.dram_bytes


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_comes_to_where_it_is_already_or_to_a_node_that_drains(seed: int) -> None:
    ground, budgets = drawn(seed)
    plan = make_plan(ground, budgets, 0.0, EVERY_S)
    for tier in ("dram", "ssd"):
        for name, comes in _staged(ground, plan, tier).items():
            node = ground.view.node(name)
            assert node is not None
            assert not node.draining
            assert all(node.units.get(digest) not in ("dram", tier) for digest in comes)
    in_dram, on_ssd = _staged(ground, plan, "dram"), _staged(ground, plan, "ssd")
    assert all(in_dram[name].isdisjoint(comes) for name, comes in on_ssd.items())


@pytest.mark.parametrize("seed", SEEDS)
def test_the_links_have_the_time_and_no_more_is_moved_than_may_be(seed: int) -> None:
    ground, budgets = drawn(seed)
    plan = make_plan(ground, budgets, 0.0, EVERY_S)
    takes_s, remote_bytes = Counter[str](), 0
    for staging in plan.stagings:
        node = ground.view.node(staging.node)
        assert node is not None
        assert staging.size_bytes > 0
        assert staging.before_s > 0.0
        if staging.source != "ssd":
            near = {
                u.name
                for w in ground.models
                if w.model.key == staging.key
                for u in w.model.units
                if u.digest in node.units
            }
            far_bytes = sum(_size(ground, staging.key.name, unit) for unit in staging.units if unit not in near)
            takes_s[staging.node] += far_bytes / node.rates["nic"].mean
        remote_bytes += staging.size_bytes if staging.source != "ssd" else 0
    assert all(seconds <= budgets.link_share * EVERY_S + 1e-6 for seconds in takes_s.values())
    if budgets.moved_bytes is not None and all(not node.units for node in ground.view.nodes):
        assert remote_bytes <= budgets.moved_bytes


def _size(ground: Ground, model: str, unit: str) -> int:
    units = next(wanted.model.units for wanted in ground.models if wanted.model.name == model)
    return next(each.size_bytes for each in units if each.name == unit)


@pytest.mark.parametrize("seed", SEEDS)
def test_accelerators_are_used_by_their_share_alone_and_saved_seconds_are_some(seed: int) -> None:
    ground, budgets = drawn(seed)
    plan = make_plan(ground, budgets, 0.0, EVERY_S)
    whole = {w.model.key: w.model.size_bytes for w in ground.models}
    device_bytes = sum(node.device_bytes for node in ground.view.nodes)
    assert sum(whole[kept.key] for kept in plan.kept) <= budgets.device_share * device_bytes
    assert all(staging.saved_s >= 0.0 for staging in plan.stagings)
    assert all(kept.replicas == 1 and kept.saved_s > 0.0 for kept in plan.kept)
    assert all(saved_s >= 0.0 for saved_s in plan.worth.values())


@pytest.mark.parametrize("seed", SEEDS)
def test_each_model_is_done_something_for_or_told_why_not_and_each_reason_is_a_sentence(seed: int) -> None:
    ground, budgets = drawn(seed)
    plan = make_plan(ground, budgets, 0.0, EVERY_S)
    done = {staging.key.name for staging in plan.stagings} | {kept.key.name for kept in plan.kept}
    left_out = [each.model for each in plan.left_out]
    assert sorted([*done, *left_out]) == sorted(wanted.model.name for wanted in ground.models)
    for reason in [each.reason for each in (*plan.stagings, *plan.kept, *plan.left_out)]:
        assert reason.endswith(".")
        assert "nan" not in reason
        assert "inf " not in reason
        assert "-0" not in reason


@pytest.mark.parametrize("seed", SEEDS)
def test_the_same_ground_gives_the_same_plan_which_can_be_told(seed: int) -> None:
    ground, budgets = drawn(seed)
    plan = make_plan(ground, budgets, 0.0, EVERY_S)
    again, same_budgets = drawn(seed)
    assert make_plan(again, same_budgets, 0.0, EVERY_S) == plan
    assert read_plan(plan_as_json(plan)) == plan
