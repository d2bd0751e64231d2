"""What is told of prewarming: each request counts once, and figures are of the trace where they are worst."""

from dataclasses import replace

import pytest

from benchmarks.prewarm import Row, closed, figures, row, show
from benchmarks.prewarm_workload import Played, bursty
from schedules.systems.prewarming import CHOSEN, compared
from schedules.traces.changing import during

TRACE = during(bursty(2.0, 3), 0.0, 900.0)
TINY = Played("tiny", TRACE, 600.0)


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return [row(TINY, system, 1) for system in compared(TRACE)]


def test_every_request_that_counts_found_its_model_somewhere(rows: list[Row]) -> None:
    for each in rows:
        assert each.requests == int((TRACE.at_s >= 600.0).sum())
        assert each.device + each.dram + each.ssd + each.peer + each.remote == pytest.approx(1.0)
        assert each.unserved == 0
        assert 0.0 < each.p50_s <= each.p95_s <= each.p99_s


def test_who_keeps_nothing_finds_nothing_nearer_than_a_peer_s_accelerator_and_who_knows_all_is_no_colder_than_who_does_not(
    rows: list[Row],
) -> None:
    by_name = {each.system: each for each in rows}
    assert by_name["nothing"].ssd == 0.0
    assert by_name["oracle"].device > by_name["lru"].device > by_name["nothing"].device


def test_figures_are_of_the_trace_where_they_are_worst(rows: list[Row], capsys: pytest.CaptureFixture[str]) -> None:
    slower = [
        replace(each, trace="other", p95_s=each.p95_s * (9.0 if each.system == CHOSEN.name else 1.0)) for each in rows
    ]
    found = {each.name: each for each in figures([*rows, *slower])}
    assert len(found) == 5
    assert {each.against for each in found.values()} == {"other"}
    show(rows)
    assert "warmserve" in capsys.readouterr().out


def test_a_gap_is_closed_by_as_much_as_is_saved_of_what_could_be() -> None:
    assert closed(3.0, 2.0, 1.0) == 0.5
    assert closed(3.0, 4.0, 1.0) == -0.5
    assert closed(1.0, 1.0, 1.0) == 1.0
