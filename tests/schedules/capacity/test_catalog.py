"""Machines to plan with: examples, and those that are there."""

from dataclasses import replace

import pytest

from schedules.capacity.catalog import EXAMPLES, named, of_cluster, store_of
from schedules.capacity.errors import BadQuestion
from schedules.capacity.searching import Search
from schedules.estimates import speeds_of
from schedules.facts import Node, Rate
from schedules.rates import NIC, STORE
from tests.schedules.capacity.small import asked
from tests.schedules.worlds import MB, world_node


def node(name: str, machine: str = "", **more: float) -> Node:
    return replace(world_node(name, nic=more.pop("nic", 100.0 * MB)), machine=machine, **more)  # type: ignore[arg-type]


def test_every_example_can_be_planned_with() -> None:
    assert list(EXAMPLES) == ["L4", "A10", "A100-80", "H100", "H200", "8xH200"]
    for name, kind in EXAMPLES.items():
        speeds = speeds_of(kind.rates, bad=False)
        assert speeds is not None
        assert speeds.formed(8) > speeds.formed(1)
        assert name in Search(asked(kind)).ask(1)[0].cluster.machines


def test_an_example_is_taken_by_its_name_for_the_price_that_is_paid() -> None:
    assert named("h100", 2.5) == replace(EXAMPLES["H100"], price_per_h=2.5)
    with pytest.raises(
        BadQuestion, match="nothing is known of machines 'tpu': examples are L4, A10, A100-80, H100, H200, 8xH200"
    ):
        named("tpu", 1.0)


def test_alike_machines_are_one_type_with_the_medians_of_their_rates() -> None:
    nodes = [
        node("a", "m1", nic=90.0 * MB), node("b", "m1", nic=100.0 * MB),
        node("c", "m2", nic=110.0 * MB), node("d", "m2", nic=120.0 * MB, context_bytes=7),
    ]  # fmt: skip
    (kind,) = of_cluster(nodes, 2.0)
    assert (kind.name, kind.price_per_h, kind.nodes, kind.context_bytes) == ("machine", 2.0, 2, 7)
    assert kind.rates[NIC].mean == 105.0 * MB
    assert kind.rates[NIC].samples == 36
    assert (kind.device_bytes, kind.dram_bytes, kind.ssd_bytes) == (400 * MB, 1000 * MB, 4000 * MB)


@pytest.mark.parametrize(
    "other",
    [node("b", device_bytes=800 * MB), node("b", dram_bytes=100 * MB), node("b", nic=300.0 * MB)],
    ids=["device", "dram", "card"],
)
def test_machines_of_another_kind_are_another_type(other: Node) -> None:
    larger, smaller = of_cluster([node("a"), other], {"machine-1": 3.0, "machine-2": 1.0})
    assert (larger.name, larger.price_per_h, smaller.name, smaller.price_per_h) == ("machine-1", 3.0, "machine-2", 1.0)
    assert larger.device_bytes >= smaller.device_bytes
    with pytest.raises(BadQuestion, match="nothing says what an hour of 'machine-2' costs"):
        of_cluster([node("a"), other], {"machine-1": 3.0})


def test_nodes_that_nobody_measured_are_passed_over_and_some_are_needed() -> None:
    unknown = replace(node("b", device_bytes=800 * MB), rates={})
    assert len(of_cluster([node("a"), unknown], 1.0)) == 1
    with pytest.raises(BadQuestion, match="nothing says how fast the nodes of the cluster are"):
        of_cluster([unknown], 1.0)


def test_what_the_store_gives_is_no_machines() -> None:
    limited = replace(node("a"), rates={**node("a").rates, STORE: Rate(5.0, 5.0, 1)})
    assert STORE not in of_cluster([limited], 1.0)[0].rates
    assert store_of([limited, node("b")]) == 5.0
    assert store_of([node("b")]) is None
