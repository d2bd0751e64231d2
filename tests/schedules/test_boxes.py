"""Nodes of one box have one card, one dram and one ssd; and what stages have to do beside fetching."""

from dataclasses import replace

import pytest

from schedules.events import NodeReported
from schedules.facts import Placement, Rate, View
from schedules.ledgers.links import Links, nic_link
from schedules.ledgers.nodes import Nodes, link_rates
from schedules.objectives import Objectives
from schedules.placing.decision import Question
from schedules.placing.policies import POLICIES
from schedules.rates import BUS
from schedules.simulation.play import play
from schedules.systems.system import OURS, Startup
from schedules.world.habits import Habits, Misfortune
from tests.schedules.seen import MODEL, Seen
from tests.schedules.test_play import SCENARIO
from tests.schedules.worlds import MB, world_model, world_node

A, B = (replace(world_node(name), box="x") for name in ("a", "b"))
OTHER = world_model("n")
SOON_S = 0.001


def _fetched_s(seen: Seen, group: str) -> float:
    times = seen.world.times(group)
    assert times is not None
    assert times.fetched_s is not None
    return times.fetched_s


def test_nodes_of_a_box_share_its_card() -> None:
    """Two models of 60 MB over one card of 100 MB/s."""
    seen = Seen(A, B, models=(MODEL, OTHER))
    seen.form(A, name="g")
    seen.form(B, name="h", model=OTHER)
    seen.until(10.0)
    assert _fetched_s(seen, "g") == _fetched_s(seen, "h") == pytest.approx(1.2, abs=SOON_S)


def test_what_one_node_of_a_box_fetches_all_of_them_have_and_say_so() -> None:
    seen = Seen(A, B)
    seen.form(A)
    seen.form(B, name="h", now_s=seen.until(0.3))
    seen.until(0.59)
    assert not seen.node("b").units
    now_s = seen.until(2.0)
    assert _fetched_s(seen, "h") == pytest.approx(0.6, abs=SOON_S)
    assert seen.world.moved_bytes == {"remote": 60 * MB}
    assert set(seen.node("b").units.values()) == {"dram"}
    assert seen.node("b").dram_used_bytes == seen.node("a").dram_used_bytes == 60 * MB
    seen.form(B, name="again", now_s=now_s)
    seen.ask("r", now_s, name="again")
    seen.until(4.0)
    assert seen.tokens("r")[0] == pytest.approx(2.5 + 0.006, abs=SOON_S)


def test_what_a_box_lacks_comes_on_when_the_node_that_fetched_it_is_lost() -> None:
    seen = Seen(A, B)
    seen.form(A)
    seen.form(B, name="h")
    seen.until(0.3)
    seen.world.befall(Misfortune.NODE_LOST, "a", 0.3)
    seen.until(2.0)
    assert _fetched_s(seen, "h") == pytest.approx(0.6, abs=SOON_S)
    assert set(seen.node("b").units.values()) == {"dram"}
    seen.world.befall(Misfortune.NODE_LOST, "b", 2.0)
    seen.world.befall(Misfortune.NODE_BACK, "b", 3.0)
    seen.until(4.0)
    assert set(seen.node("b").units.values()) == {"ssd"}


def test_the_dram_of_a_box_is_counted_once() -> None:
    seen = Seen(A, B)
    seen.form(B)
    seen.until(120.0)
    held_byte_s = seen.world.by_minute(120.0).dram_byte_s
    assert held_byte_s[1] == pytest.approx(60 * MB * 60.0)


def test_the_card_of_a_box_is_there_as_long_as_one_of_its_nodes_is() -> None:
    nodes = Nodes()
    for node in (A, B):
        nodes.report(NodeReported(node, {}))
    card = nic_link("x")
    links = Links({}, 0.0)
    links.change(nodes.take_changed_links(), 0.0)
    assert links.rate(card) == 100 * MB
    for name, there in (("a", 100 * MB), ("b", None)):
        nodes.leave(name)
        links.change(nodes.take_changed_links(), 0.0)
        assert links.rate(card) == there


@pytest.mark.parametrize("policy", ["hydraserve", "planned"])
def test_stages_that_fetch_at_once_are_on_nodes_of_different_boxes(policy: str) -> None:
    """One stage would be late, two over one card too."""
    slow = [world_node(name, nic=50.0 * MB, prefill=1e15) for name in ("a", "b", "c")]
    nodes = [replace(node, box=box) for node, box in zip(slow, ("x", "x", "y"), strict=True)]
    wanted_s = 2.0 + 1.0 if policy == "hydraserve" else 1.0
    wanted = Objectives(wanted_s, None, 0, 1, 20.0, 0, 2, 1024)
    view = View(tuple(nodes))
    outcome = POLICIES[policy].decide(Question("s", MODEL, wanted, view, Links(link_rates(view), 0.0), 0.0)).outcome
    assert isinstance(outcome, Placement)
    assert outcome.degree == 2
    assert "c" in outcome.nodes


def test_weights_go_over_the_bus_as_they_come_or_once_all_are_there() -> None:
    """60 MB over a bus of 30 MB/s: two seconds from the order, or from their arrival after 0.6 s."""
    bus = {node.name: replace(node, rates=dict(node.rates) | {BUS: Rate(30e6, 30e6, 9)}) for node in SCENARIO.nodes}
    tail = Startup(tail_s=0.25)
    streams, waits = (
        play(replace(SCENARIO, nodes=tuple(bus.values()), system=replace(OURS, startup=startup)))
        for startup in (tail, replace(tail, streams=False))
    )
    first = int(streams.cold.argmax())
    assert streams.ttft_s[first] == pytest.approx(2.25, abs=0.05)
    assert waits.ttft_s[first] == pytest.approx(2.85, abs=0.05)


def test_a_step_takes_an_engines_own_time_too() -> None:
    steps = Seen(world_node("a"), habits=Habits(step_s=0.1))
    steps.form(world_node("a"))
    steps.ask("r", 0.0)
    steps.until(5.0)
    assert [b - a for a, b in zip(steps.tokens("r"), steps.tokens("r")[1:], strict=False)] == pytest.approx(
        [0.106] * 3, abs=SOON_S
    )
    assert steps.tokens("r")[0] >= 0.7
