"""What is known of nodes, put together from reports that say what has changed, whatever becomes of them on their way."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from cluster.node.unit_journal import KEPT_VERSIONS, UnitJournal
from cluster.roster import Missed, Roster
from schedules.events import NodeReported
from tests.cluster.reports import ReportingNode

_UNITS = st.dictionaries(st.sampled_from("abcdef"), st.sampled_from(["dram", "ssd"]))


def heard(roster: Roster, node: ReportingNode, now_s: float = 0.0) -> NodeReported:
    """The node is asked, and what it says is taken."""
    known = roster.known.get(node.name)
    life, version = (known.life, known.version) if known is not None else ("", 0)
    event = roster.hear(node.answer(life, version), now_s, asked=True)
    assert isinstance(event, NodeReported)
    return event


@given(st.lists(st.tuples(_UNITS, st.sampled_from(["comes", "is missed", "comes late"])), max_size=20))
def test_whatever_is_missed_or_late_the_units_are_those_of_the_node(steps: list[tuple[dict[str, str], str]]) -> None:
    """Each step is a change of the node's units and the fate of the report of it; who misses something asks."""
    node, roster, late = ReportingNode("n"), Roster(), []
    heard(roster, node)
    for units, fate in steps:
        node.journal.note(units)
        report = node.tell()
        if fate == "is missed":
            continue
        if fate == "comes late":
            late.append(report)
            continue
        for came in (report, *late):
            if isinstance(roster.hear(came, 0.0, asked=False), Missed):
                heard(roster, node)
        late.clear()
        assert roster.known["n"].node.units == units
        assert {digest for digest in "abcdef" if roster.view().holding(digest)} == set(units)


@given(st.lists(_UNITS, max_size=12))
def test_what_is_told_as_gained_and_lost_is_what_changed(states: list[dict[str, str]]) -> None:
    node, roster, known = ReportingNode("n"), Roster(), dict[str, str]()
    heard(roster, node)
    for units in states:
        node.journal.note(units)
        event = roster.hear(node.tell(), 0.0, asked=False)
        assert isinstance(event, NodeReported)
        for digest in event.lost:
            del known[digest]
        assert all(known.get(digest) != tier for digest, tier in event.gained.items())
        known |= event.gained
        assert known == units == event.node.units


def test_a_report_in_which_no_unit_changed_copies_none() -> None:
    node, roster = ReportingNode("n"), Roster()
    node.journal.note({"a": "ssd"})
    heard(roster, node)
    units = roster.known["n"].node.units
    node.tell()
    event = roster.hear(node.tell(dram_used_bytes=7), 5.0, asked=False)
    assert isinstance(event, NodeReported)
    assert event.node.units is units
    assert event.node.dram_used_bytes == 7
    assert (event.gained, event.lost) == ({}, ())
    assert roster.known["n"].heard_s == 5.0


def test_a_node_that_nobody_knows_is_asked_for_all() -> None:
    node, roster = ReportingNode("n"), Roster()
    missed = roster.hear(node.tell(), 0.0, asked=False)
    assert isinstance(missed, Missed)
    assert (missed.life, missed.version) == ("", 0)
    assert roster.view().nodes == ()


def test_another_life_of_a_node_begins_with_nothing_of_the_one_before() -> None:
    """A late report of the old one changes nothing either, for whose life it is only the node itself can say."""
    roster, old, new = Roster(), ReportingNode("n", "old"), ReportingNode("n", "new")
    old.journal.note({"a": "dram"})
    heard(roster, old)
    new.journal.note({"b": "ssd"})
    assert isinstance(roster.hear(new.tell(), 0.0, asked=False), Missed)
    event = heard(roster, new)
    assert (event.gained, event.lost) == ({"b": "ssd"}, ("a",))
    assert isinstance(roster.hear(old.tell(), 0.0, asked=False), Missed)
    assert roster.known["n"].life == "new"


def test_what_is_forgotten_holds_nothing() -> None:
    roster = Roster()
    for name in ("one", "other"):
        node = ReportingNode(name)
        node.journal.note({"a": "dram"})
        heard(roster, node)
    assert roster.forget("one") is not None
    assert list(roster.view().holding("a")) == ["other"]
    assert roster.forget("one") is None
    assert roster.forget("other") is not None
    assert list(roster.view().holding("a")) == []


def test_a_journal_that_is_too_short_tells_all() -> None:
    journal = UnitJournal()
    states = itertools.cycle([{"a": "dram"}, {"a": "ssd"}])
    for _ in range(KEPT_VERSIONS + 2):
        journal.note(next(states))
    assert journal.since(1).base == 0
    assert journal.since(journal.version + 1).base == 0
    recent = journal.since(journal.version - 1)
    assert (recent.base, recent.gained, recent.lost) == (journal.version - 1, {"a": "ssd"}, ())
