"""What a plan sees no use for."""

from dataclasses import replace

from flows.prewarming.reaping import NOT_PUBLISHED, Drop, drops_of
from schedules.facts import Model, Node, Unit, View
from schedules.foresight.plan import Kept, Plan, Staging
from schedules.foresight.retention import Retention
from tests.flows.prewarming.grounds import NODE


def model(name: str) -> Model:
    return Model(name, f"of {name}", (Unit("embed", f"{name}0", 10), Unit("head", f"{name}1", 20)), False, 1)


A, B = model("a"), model("b")
PLAN = Plan(0.0, 900.0, (), {}, {}, (), {})
FULL: Node = replace(
    NODE, dram_bytes=100, dram_used_bytes=10, ssd_bytes=100, ssd_used_bytes=80,
    units={"a0": "ssd", "a1": "ssd", "b0": "dram", "gone": "ssd"},
)  # fmt: skip


def drops(plan: Plan = PLAN, node: Node = FULL, spared: tuple[str, ...] = (), fuller_than: float = 0.5) -> list[Drop]:
    return drops_of(View((node,)), plan, (A, B), spared, fuller_than)


def gone(found: list[Drop]) -> dict[str, tuple[tuple[str, ...], int]]:
    return {drop.model: (drop.digests, drop.size_bytes) for drop in found}


def test_a_full_node_loses_what_is_worth_nothing_and_every_node_what_is_not_published() -> None:
    assert gone(drops()) == {"a": (("a0", "a1"), 30), "b": (("b0",), 10), NOT_PUBLISHED: (("gone",), 0)}
    assert gone(drops(fuller_than=0.9)) == {NOT_PUBLISHED: (("gone",), 0)}


def test_what_has_worth_in_either_tier_stays() -> None:
    plan = replace(PLAN, ssd={NODE.name: Retention({"a0": 0.5})}, dram={NODE.name: Retention({"b0": 0.1})})
    assert gone(drops(plan)) == {"a": (("a1",), 20), NOT_PUBLISHED: (("gone",), 0)}


def test_what_is_spared_staged_or_kept_up_stays_whole() -> None:
    staging = Staging(NODE.name, A.key, ("embed",), "dram", 10, "remote", 9.0, 1.0, "why")
    for plan, spared in (
        (PLAN, ("a",)),
        (replace(PLAN, stagings=(staging,)), ()),
        (replace(PLAN, kept=(Kept(A.key, 1, 1.0, "why"),)), ()),
        (replace(PLAN, worth={A.key: 0.1}), ()),
    ):
        assert gone(drops(plan, spared=spared)).keys() == {"b", NOT_PUBLISHED}
