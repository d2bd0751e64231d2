"""Which nodes a node is told to fetch from."""

from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from schedules.facts import Node, View
from schedules.sources import PEERS_PER_UNIT, TIERS, choose_peers
from tests.schedules.models import node_of

DIGESTS = tuple(f"digest{number}" for number in range(5))
_HELD = st.dictionaries(st.sampled_from(DIGESTS), st.sampled_from(("dram", "ssd", "device")))


def giver(name: str, units: dict[str, str], port: int = 7) -> Node:
    return replace(node_of(name, 0, units=units), peer_port=port)


@st.composite
def views(draw: st.DrawFn) -> View:
    count = draw(st.integers(0, 8))
    return View(tuple(giver(f"node{i}", draw(_HELD), draw(st.sampled_from((0, 7)))) for i in range(count)))


@given(views(), st.integers(0, 8).map("node{}".format))
def test_only_others_that_hold_a_unit_and_give_it_out_are_named_dram_before_ssd(view: View, target: str) -> None:
    chosen = choose_peers(DIGESTS, target, view)
    for digest in DIGESTS:
        holders = {n.name: n.units.get(digest) for n in view.nodes if n.peer_port and n.name != target}
        holders = {name: tier for name, tier in holders.items() if tier in TIERS}
        names = chosen.get(digest, ())
        assert len(names) == len(set(names)) == min(len(holders), PEERS_PER_UNIT)
        assert set(names) <= holders.keys()
        order = [TIERS.index(str(holders[name])) for name in names]
        assert order == sorted(TIERS.index(str(tier)) for tier in holders.values())[: len(order)]


@given(views())
def test_the_order_of_the_nodes_does_not_matter(view: View) -> None:
    assert choose_peers(DIGESTS, "target", view) == choose_peers(DIGESTS, "target", View(view.nodes[::-1]))


def test_nodes_that_hold_the_same_take_turns() -> None:
    digests = [f"unit {number}" for number in range(100)]
    view = View(tuple(giver(f"node{i}", dict.fromkeys(digests, "dram")) for i in range(4)))
    first = Counter(names[0] for names in choose_peers(digests, "target", view).values())
    assert first.keys() == {node.name for node in view.nodes}
    assert max(first.values()) <= 50


def test_nobody_else_holds_it() -> None:
    assert choose_peers(DIGESTS, "node", View((giver("node", dict.fromkeys(DIGESTS, "dram")),))) == {}
