"""Whence a node is told to ask for units, and in which order; what is predicted goes the same ways."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules.facts import Model, Node, Placement, Rate, View
from schedules.ledgers.links import Links
from schedules.ledgers.shares import Transfer
from schedules.placing.holders import GIVERS, PEERS_PER_UNIT, TIERS
from schedules.placing.policies import POLICIES
from schedules.placing.sources import Sources, from_peer, peer_of, store_first
from schedules.rates import NIC, STORE
from tests.schedules.models import measured_views, model_of, models, node_of, objectives, question_of, rates_of
from tests.told import objectives_of

DIGESTS = tuple(f"digest{number}" for number in range(5))
_HELD = st.dictionaries(st.sampled_from(DIGESTS), st.sampled_from(("dram", "ssd", "device")))


def giver(name: str, units: dict[str, str], port: int = 7) -> Node:
    return replace(node_of(name, 0, units=units), peer_port=port)


@st.composite
def views(draw: st.DrawFn) -> View:
    count = draw(st.integers(0, 8))
    return View(tuple(giver(f"node{i}", draw(_HELD), draw(st.sampled_from((0, 7)))) for i in range(count)))


def asked(view: View, target: Node, digests: tuple[str, ...] = DIGESTS) -> dict[str, tuple[str, ...]]:
    return dict(zip(digests, Sources(digests, view).of(target), strict=True))


@given(views(), st.integers(0, 8).map("node{}".format))
def test_a_units_list_is_its_own_tier_then_others_that_give_it_dram_before_ssd_then_the_store(
    view: View, name: str
) -> None:
    target = view.node(name) or giver(name, {})
    for digest, sources in asked(view, target).items():
        assert sources[-1] == STORE
        own, rest = (sources[:1], sources[1:-1]) if sources[0] in TIERS else ((), sources[:-1])
        assert own == ((target.units[digest],) if target.units.get(digest) in TIERS else ())
        holders = {n.name: n.units.get(digest) for n in view.nodes if n.peer_port and n.name != target.name}
        holders = {name: tier for name, tier in holders.items() if tier in TIERS and target.peer_port}
        names = [peer_of(source) for source in rest]
        assert len(names) == len(set(names)) == min(len(holders), PEERS_PER_UNIT)
        assert set(names) <= holders.keys()
        order = [TIERS.index(str(holders[str(name)])) for name in names]
        assert order == sorted(TIERS.index(str(tier)) for tier in holders.values())[: len(order)]


@given(views())
def test_the_order_of_the_nodes_does_not_matter(view: View) -> None:
    target = giver("target", {})
    assert asked(view, target) == asked(View(view.nodes[::-1]), target)


def test_nodes_that_hold_the_same_take_turns() -> None:
    view = View(tuple(giver(f"node{i}", dict.fromkeys(UNITS, "dram")) for i in range(4)))
    first = Counter(peer_of(sources[0]) for sources in asked(view, giver("target", {}), UNITS).values())
    assert first.keys() == {node.name for node in view.nodes}
    assert max(first.values()) <= 50


def test_nobody_else_holds_it() -> None:
    lone = giver("node", dict.fromkeys(DIGESTS, "dram"))
    assert set(asked(View((lone,)), lone).values()) == {("dram", STORE)}
    assert set(asked(View((lone,)), giver("other", {}, port=0)).values()) == {(STORE,)}, "it does not ask others"


def test_what_only_a_node_with_little_of_the_model_holds_comes_from_there() -> None:
    """Of a crowd that has most of the model those with most were asked alone: a layer that a fine-tune has of its own, on
    one node, came from the store."""
    crowd = [giver(f"a{i:02}", dict.fromkeys(DIGESTS[:4], "ssd")) for i in range(GIVERS + 4)]
    view = View((*crowd, giver("few", {DIGESTS[4]: "ssd"})))
    assert asked(view, giver("target", {}))[DIGESTS[4]] == (from_peer("few"), STORE)


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
    found = asked(held_by(cards, store), giver("target", {}), UNITS)
    from_store = [unit for unit, sources in found.items() if store_first(sources)]
    assert len(from_store) == pytest.approx(100 * share, abs=1)
    assert all((found[unit][0], found[unit][-1]) == (STORE, STORE) for unit in from_store), "and again at last"
    gaps = [UNITS.index(b) - UNITS.index(a) for a, b in pairwise(from_store)]
    assert not gaps or max(gaps) - min(gaps) <= 1, "spread evenly, so that both ways are used all the time"


def test_what_nobody_holds_is_not_counted() -> None:
    view = held_by({"target": 25e6}, 25e6)
    target = view.node("target")
    assert target is not None
    found = asked(view, target, (*UNITS, "other"))
    assert found["other"] == (STORE,)
    assert {found[unit] for unit in UNITS} == {("dram", STORE)}


# ---- placements


@pytest.mark.parametrize("policy", sorted(POLICIES))
@given(data=st.data())
def test_what_a_placement_orders_is_what_was_predicted(policy: str, data: st.DataObject) -> None:
    """The router predicted one way for a unit, the client chose another: its own list of peers, its own share of the
    store, and the node held units back that nobody had reckoned with."""
    model = data.draw(models())
    question = question_of(model, data.draw(measured_views(model)), data.draw(objectives()))
    chosen = POLICIES[policy].decide(question).chosen
    if chosen is None or chosen.placement is None:
        return
    sizes = {unit.name: unit.size_bytes for unit in model.units}
    expected: Counter[str] = Counter()
    for rank, stage in enumerate(chosen.placement.stages):
        node = question.view.node(stage.node)
        assert node is not None
        assert len(stage.sources) == len(stage.units)
        assert set(stage.held_back) <= set(stage.later) <= set(stage.units)
        for unit, sources in zip(stage.units, stage.sources, strict=True):
            assert sources[-1] == STORE
            assert node.peer_port or not any(map(peer_of, sources))
            if sources[0] not in TIERS:
                later = "/later" if unit in stage.later else ""
                expected[f"new/{rank}/{sources[0]}{later}"] += sizes[unit]
    assert {t.name: t.remaining_bytes for t in chosen.transfers} == dict(expected)


def _rows_first(store: float | None, dram_bytes: int, degree: int = 2, links: Links | None = None) -> Placement:
    """Where a model of 60 bytes starts, 20 of them an embedding that can be read by rows."""
    model: Model = model_of([20, 10, 10, 10, 10], rows_first=True)
    limit = {} if store is None else {STORE: Rate(store, store, 1)}
    nodes = [replace(node_of(name, 40), rates=rates_of() | limit, dram_bytes=dram_bytes) for name in "ab"]
    question = question_of(model, View(tuple(nodes)), objectives_of(max_degree=degree, kv_tokens=1), links=links)
    found = POLICIES["fixed"].decide(question).outcome
    assert isinstance(found, Placement)
    return found


def test_where_the_store_limits_all_an_embedding_that_nobody_waits_for_is_held_back() -> None:
    first, last = _rows_first(store=10.0, dram_bytes=100).stages
    assert (first.later, first.held_back, last.held_back) == (("unit0",), ("unit0",), ())


def test_an_embedding_is_not_held_back_where_that_helps_nobody_or_its_memory_is_not_certain() -> None:
    for placement in (_rows_first(store=None, dram_bytes=100), _rows_first(store=10.0, dram_bytes=20)):
        assert [stage.held_back for stage in placement.stages] == [(), ()]
        assert placement.stages[0].later == ("unit0",)


def test_an_embedding_is_not_held_back_where_others_are_about_to_fill_the_memory() -> None:
    """Each of two starts took the same free dram for certain; the embedding that came last found none, and the group was
    lost in the middle of an answer."""
    links = Links({"nic:a": 10.0, "nic:b": 10.0}, 0.0)
    links.begin([Transfer(f"other/0/{name}", (f"nic:{name}",), 80, queue=name) for name in "ab"], 0.0)
    assert all(not stage.held_back for stage in _rows_first(store=10.0, dram_bytes=100, links=links).stages)
    assert any(stage.held_back for stage in _rows_first(store=10.0, dram_bytes=200, links=links).stages)
