"""What the live measurements of prewarming make of what they saw."""

import pytest

from benchmarks.prewarm_beside import Beside
from benchmarks.prewarm_part import Part, slowest


def _start(*sources: str) -> dict[str, object]:
    fetches = [{"name": f"fetch {number}", "where": f"node-0 from {source}"} for number, source in enumerate(sources)]
    return {"phases": [{"name": "form group", "where": "front end"}, *fetches]}


@pytest.mark.parametrize(
    ("sources", "tier"),
    [
        (("dram", "dram"), "dram"),
        (("dram", "ssd"), "ssd"),
        (("ssd", "remote"), "network"),
        (("dram", "peer node-1"), "network"),
        (("dram", "ssd and remote"), "network"),
    ],
    ids=["dram", "ssd", "store", "peer", "both"],
)
def test_a_cold_start_counts_where_the_slowest_of_its_units_was(sources: tuple[str, ...], tier: str) -> None:
    assert slowest(_start(*sources)) == tier


def test_shares_are_of_the_cold_starts() -> None:
    part = Part((0.1, 0.2, 0.3), {"dram": 3, "network": 1})
    assert (part.share("dram"), part.share("ssd")) == (0.75, 0.0)


def test_a_slowdown_is_that_of_the_round_in_the_middle() -> None:
    found = Beside((1.0, 2.0, 4.0), (1.1, 2.0, 8.0), (1.0, 2.0, 4.0))
    assert found.slowdown(found.same_s) == pytest.approx(1.1)
    assert found.slowdown(found.others_s) == 1.0
    assert found.spread(found.others_s) == 0.0
