"""Nodes as they are kept: whatever is reported in whatever order, they are what one look at all of them would find."""

from collections.abc import Mapping
from dataclasses import replace

from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from schedules.events import NodeReported
from schedules.facts import Node, Rate, View
from schedules.ledgers.links import Links
from schedules.ledgers.nodes import Nodes, link_rates, ranks_of
from schedules.placing.holders import holders_of
from schedules.placing.sources import Sources
from schedules.rates import NIC, STORE
from tests.schedules.models import node_of

_NAMES = st.sampled_from([f"node{i}" for i in range(5)])
_UNITS = st.dictionaries(st.sampled_from([f"digest{i}" for i in range(4)]), st.sampled_from(("dram", "ssd")))
_SPEEDS = st.none() | st.sampled_from([1.0, 2.0, 5.0])


def _node(name: str, units: Mapping[str, str], nic: float | None = None, store: float | None = None) -> Node:
    known = {quantity: Rate(mean, mean, 1) for quantity, mean in ((NIC, nic), (STORE, store)) if mean is not None}
    return replace(node_of(name, 100, units=dict(units)), rates=known)


class KeptNodes(RuleBasedStateMachine):
    """Beside `Nodes`, what was last said of each node."""

    def __init__(self) -> None:
        super().__init__()
        self.nodes, self.links = Nodes(), Links({}, 0.0)
        self.heard: dict[str, Node] = {}
        self.drained: set[str] = set()
        self.silent: set[str] = set()

    @rule(name=_NAMES, units=_UNITS, nic=_SPEEDS, store=_SPEEDS, reserved=st.integers(0, 3), gives=st.booleans())
    def report(
        self, name: str, units: dict[str, str], nic: float | None, store: float | None, reserved: int, gives: bool
    ) -> None:
        node = replace(_node(name, units, nic, store), device_reserved_bytes=reserved, peer_port=int(gives))
        before = self.heard[name].units if name in self.heard else {}
        gained = {digest: tier for digest, tier in units.items() if before.get(digest) != tier}
        self.nodes.report(NodeReported(node, gained, tuple(before.keys() - units.keys())))
        self.heard[name] = node
        self.silent.discard(name)

    @rule(name=_NAMES)
    def leave(self, name: str) -> None:
        self.nodes.leave(name)
        self.heard.pop(name, None)
        self.silent.discard(name)

    @rule(name=_NAMES)
    def silence(self, name: str) -> None:
        self.nodes.silence(name)
        self.silent |= {name} & self.heard.keys()

    @rule(name=_NAMES)
    def hear(self, name: str) -> None:
        self.nodes.hear(name)
        self.silent.discard(name)

    @rule(name=_NAMES, drained=st.booleans())
    def drain(self, name: str, drained: bool) -> None:
        (self.nodes.drain if drained else self.nodes.undrain)(name)
        (self.drained.add if drained else self.drained.discard)(name)

    @invariant()
    def the_view_is_as_if_made_anew(self) -> None:
        shown = sorted(self.heard.keys() - self.silent)
        expected = View(tuple(replace(self.heard[name], draining=name in self.drained) for name in shown))
        view = self.nodes.view()
        assert view == expected
        found, anew = ranks_of(view), ranks_of(expected)
        assert (found.by_name, list(found.by_memory)) == (anew.by_name, list(anew.by_memory))
        assert list(found.by_network) == list(anew.by_network)
        for digest in (f"digest{i}" for i in range(4)):
            assert set(view.holding(digest)) == {n.name for n in self.heard.values() if digest in n.units}

    @invariant()
    def what_was_found_of_where_units_lie_is_as_if_found_anew(self) -> None:
        view = self.nodes.view()
        store = link_rates(View(tuple(self.heard.values()))).get(STORE)  # silent nodes' links keep their rates
        anew, sizes = View(view.nodes), (7, 8, 9)
        anew = View(view.nodes, ranks=replace(ranks_of(anew), store_bytes_per_s=store))
        for digests in (("digest0", "digest1"), ("digest1", "digest2", "digest3")):
            kept, found = holders_of(digests, view), holders_of(digests, anew)
            assert (kept.names, kept.best, kept.first) == (found.names, found.best, found.first)
            for node in view.nodes:
                assert Sources(digests, view).of(node) == Sources(digests, anew).of(node)
                known = sizes[: len(digests)]
                assert kept.far_and_near(node, known) == found.far_and_near(node, known)

    @invariant()
    def the_ledger_of_links_that_hears_of_changes_alone_has_every_rate(self) -> None:
        self.links.change(self.nodes.take_changed_links(), 0.0)
        assert self.links.rates == self.nodes.link_rates == link_rates(View(tuple(self.heard.values())))
        assert self.nodes.take_changed_links() == {}


TestKeptNodes = KeptNodes.TestCase
TestKeptNodes.settings = hypothesis_settings(max_examples=100, stateful_step_count=30, deadline=None)


def test_a_silent_node_is_not_in_the_view_and_is_again_with_its_next_report() -> None:
    nodes, node = Nodes(), _node("a", {"digest0": "ssd"}, 2.0)
    nodes.report(NodeReported(node, node.units))
    nodes.silence("a")
    assert (nodes.view().nodes, nodes.view().node("a")) == ((), None)
    assert nodes.link_rates == {"nic:a": 2.0, "out:a": 2.0}, "what is under way there goes on as far as one knows"
    nodes.report(NodeReported(node, {}))
    assert nodes.view().nodes == (node,)


def test_what_is_known_of_a_node_that_left_is_not_held_for_its_next_life() -> None:
    nodes, node = Nodes(), _node("a", {"digest0": "ssd"}, 2.0)
    nodes.report(NodeReported(node, node.units))
    nodes.leave("a")
    assert nodes.view().holding("digest0") == ()
    assert nodes.link_rates == {}
    nodes.report(NodeReported(node, {}))
    assert set(nodes.view().holding("digest0")) == {"a"}


def test_of_a_node_that_is_new_it_may_be_said_that_it_lost_what_nobody_holds() -> None:
    nodes, node = Nodes(), _node("a", {"digest0": "ssd"}, 2.0)
    nodes.report(NodeReported(node, {}, ("digest1",)))
    assert set(nodes.view().holding("digest0")) == {"a"}
    assert nodes.view().holding("digest1") == ()


def test_a_view_is_made_anew_only_when_the_nodes_change() -> None:
    nodes, node = Nodes(), _node("a", {})
    nodes.report(NodeReported(node, {}))
    view = nodes.view()
    assert nodes.view() is view
    nodes.drain("a")
    found = nodes.view().node("a")
    assert found is not None
    assert found.draining
    assert nodes.view().ranks is not None
    assert ranks_of(nodes.view()).by_memory == []


@given(st.dictionaries(_NAMES, _SPEEDS))
def test_no_node_is_without_a_rate_where_one_is_measured(speeds: dict[str, float | None]) -> None:
    rates = link_rates(View(tuple(_node(name, {}, nic) for name, nic in speeds.items())))
    assert set(rates) == (
        {f"{way}:{name}" for way in ("nic", "out") for name in speeds} if any(speeds.values()) else set()
    )
