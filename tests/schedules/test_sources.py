"""Which nodes a node is told to fetch from."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules.facts import Node, Rate, View
from schedules.placing.sources import PEERS_PER_UNIT, TIERS, choose_peers, store_first
from schedules.rates import NIC, STORE
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


def held_by(cards: dict[str, float | None], store: float | None) -> View:
    """Nodes that hold all of a hundred units, with cards of these rates."""
    rates = {} if store is None else {STORE: Rate(store, store, 1)}
    return View(
        tuple(
            replace(
                giver(name, dict.fromkeys(UNITS, "dram")),
                rates=rates | ({} if card is None else {NIC: Rate(card, card, 1)}),
            )
            for name, card in cards.items()
        )
    )


UNITS = tuple(f"unit {number}" for number in range(100))


@pytest.mark.parametrize(
    ("cards", "store", "share"),
    [
        ({"a": 25e6}, 25e6, 0.5),
        ({"a": 25e6, "b": 25e6}, 25e6, 1 / 3),
        ({"a": 25e6}, 75e6, 0.75),
        ({"a": 25e6}, None, 0.0),
        ({"a": None}, 25e6, 0.0),
    ],
    ids=["as much as a peer", "two peers", "three times a peer", "a store that does not limit", "a peer not measured"],
)
def test_a_store_that_limits_is_asked_for_its_share(
    cards: dict[str, float | None], store: float | None, share: float
) -> None:
    found = store_first(UNITS, "target", held_by(cards, store))
    assert len(found) == pytest.approx(100 * share, abs=1)
    assert set(found) <= set(UNITS)
    gaps = [UNITS.index(b) - UNITS.index(a) for a, b in pairwise(found)]
    assert not gaps or max(gaps) - min(gaps) <= 1, "spread evenly, so that both ways are used all the time"


def test_what_nobody_holds_is_not_counted() -> None:
    assert store_first([*UNITS, "other"], "target", held_by({"target": 25e6}, 25e6)) == ()
