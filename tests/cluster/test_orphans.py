"""Who is taken for gone: a group's owner that has not renewed it, and nobody else's."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from cluster.orphans import SEEN_FOR_S, Orphans
from cluster.wire.reports import CUT_OFF_S, ORPHANED_S, StageLease

FIRST = StageLease("g", 0, 2, True, False, "theirs", ORPHANED_S)
SECOND = replace(FIRST, rank=1, unrenewed_s=0.0)


def told(orphans: Orphans, at_s: float, *reports: tuple[str, Sequence[StageLease]]) -> list[tuple[str, ...]]:
    """What is found when the nodes report so."""
    return [nodes for node, stages in reports for nodes in orphans.hear(node, stages, at_s).values()]


BOTH = (("b", [SECOND]), ("a", [FIRST]))


def test_a_group_that_nobody_renews_is_found_once_with_its_nodes_by_rank() -> None:
    orphans = Orphans("ours")
    assert told(orphans, 0.0, *BOTH) == []
    assert told(orphans, SEEN_FOR_S, *BOTH) == [("a", "b")]
    assert orphans.nodes_of("g") == ("a", "b")
    assert told(orphans, 2 * SEEN_FOR_S, *BOTH) == []


@pytest.mark.parametrize(
    "other",
    [
        replace(FIRST, owner="ours"), replace(FIRST, unrenewed_s=ORPHANED_S / 2), replace(FIRST, formed=False),
        replace(FIRST, degree=3), replace(FIRST, attended=True, unrenewed_s=CUT_OFF_S / 2),
    ],
    ids=["ours", "renewed", "not formed", "not whole", "held up"],
)  # fmt: skip
def test_others_are_not(other: StageLease) -> None:
    orphans = Orphans("ours")
    for at_s in (0.0, SEEN_FOR_S, 10.0):
        assert told(orphans, at_s, ("b", [SECOND]), ("a", [other])) == []


def test_a_node_that_was_cut_off_for_a_while_makes_no_orphans() -> None:
    """Its first report says of every group that nobody renewed it: the owners could not, and do so next."""
    orphans = Orphans("ours")
    assert told(orphans, 0.0, *BOTH) == []
    assert told(orphans, 1.0, ("a", [replace(FIRST, unrenewed_s=0.1)])) == []
    assert told(orphans, 2.0, *BOTH) == []
    assert told(orphans, 3.0, *BOTH) == [("a", "b")]


def test_a_group_that_loses_its_next_owner_too_is_found_again() -> None:
    orphans = Orphans("ours")
    told(orphans, 0.0, *BOTH)
    assert told(orphans, 1.0, *BOTH)
    adopted = replace(FIRST, owner="another's")
    assert told(orphans, 2.0, ("a", [replace(adopted, unrenewed_s=0.0)])) == []
    assert told(orphans, 3.0, ("a", [adopted])) == []
    assert told(orphans, 4.0, ("a", [adopted])) == [("a", "b")]


def test_what_could_not_be_asked_about_is_found_again() -> None:
    orphans = Orphans("ours")
    told(orphans, 0.0, *BOTH)
    assert told(orphans, 1.0, *BOTH)
    orphans.retry("g")
    assert told(orphans, 2.0, *BOTH) == [("a", "b")]


def test_an_owner_who_is_connected_has_longer() -> None:
    """One whose event loop stood still for three seconds would have lost all it had to its neighbour."""
    orphans, first = Orphans("ours"), replace(FIRST, attended=True, unrenewed_s=CUT_OFF_S)
    told(orphans, 0.0, ("b", [SECOND]), ("a", [first]))
    assert told(orphans, 1.0, ("a", [first])) == [("a", "b")]


def test_a_group_of_a_node_that_is_gone_is_not_whole() -> None:
    orphans = Orphans("ours")
    told(orphans, 0.0, *BOTH)
    orphans.forget("b")
    assert told(orphans, 1.0, ("a", [FIRST])) == []
    assert orphans.nodes_of("g") == ("a",)
    orphans.forget("a")
    assert orphans.nodes_of("g") == ()
