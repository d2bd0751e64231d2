"""The papers' figures: the data say what the papers say, and what is played of them is what is told."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from benchmarks.papers.beds import A10_LARGE, V100, bed_two
from benchmarks.papers.calibration import POINTS, Calibration, Point, calibrate, formula_s, rounded
from benchmarks.papers.cold_starts import HYDRASERVE, MODELS, alone, cold_start_s, errors, halves, of_systems, played
from benchmarks.papers.figures import Found, Seen, figure7, figure9
from benchmarks.papers.hydraserve import (
    CELLS,
    FIGURE9_ATTAINED,
    FIGURE11_ATTAINED,
    FIGURE11_CELL,
    FIGURE13_MODELS,
    HYDRA,
    HYDRA_4,
    HYDRA_CACHE,
    SLLM,
    TASKS,
    VLLM,
    Spread,
)
from benchmarks.papers.loading import table
from benchmarks.papers.models import SHAPES, model
from benchmarks.papers.recorded import recorded
from benchmarks.papers.serving import OURS, ratios, serve
from benchmarks.papers.tables import BEGIN, END, Shown, write
from benchmarks.papers.workload import SKEW, lineup, only_called, share_of, task_shares, workload
from schedules.traces.lineup import popularity

PARAMETERS = {
    "OPT-2.7B": 2.65e9, "OPT-6.7B": 6.66e9, "OPT-13B": 12.85e9, "Llama-2-7B": 6.738e9, "Llama-2-13B": 13.016e9,
    "Llama-3-8B": 8.030e9, "Llama-3.1-8B": 8.030e9, "Falcon-7B": 7.217e9, "Qwen3-32B": 32.762e9,
    "R1-Distill-Qwen-32B": 32.764e9,
}  # fmt: skip


@cache
def calibration() -> Calibration:
    return rounded(calibrate())


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_models_have_as_many_parameters_as_they_are_published_with(name: str) -> None:
    assert model(name).size_bytes / 2 == pytest.approx(PARAMETERS[name], rel=2e-3)


def test_figure_7_has_sixty_points_of_which_hydraserve_has_twenty_four() -> None:
    assert len(POINTS) == 60
    assert sum(point.system in HYDRASERVE for point in POINTS) == 24
    assert {halves(name) for name in MODELS} == {0, 1}
    assert len({alone(name) for name in MODELS}) == 7


def test_every_point_of_figure_7_is_played_within_a_tenth() -> None:
    compared = played(POINTS, calibration())
    assert errors(compared)[0] < 0.10
    assert errors(of_systems(compared, HYDRASERVE))[0] < 0.07


@pytest.mark.parametrize("point", [Point("V100", VLLM, "Llama-2-13B"), Point("A10", HYDRA_4, "Llama-2-7B")])
def test_a_start_that_is_played_takes_what_the_fit_thinks_it_takes(point: Point) -> None:
    thought_s = formula_s(point, calibration(), model(point.model).size_bytes)
    assert cold_start_s(point, calibration()) == pytest.approx(thought_s, rel=0.02)


def test_the_shares_of_tasks_make_figure_9_of_figure_11() -> None:
    shares = task_shares()
    assert sum(shares.values()) == pytest.approx(1.0)
    for system, by_task in FIGURE11_ATTAINED.items():
        made = sum(shares[task] * by_task[task] for task in TASKS)
        assert made == pytest.approx(FIGURE9_ATTAINED[system][FIGURE11_CELL], abs=0.005)


def test_the_workload_has_the_models_and_shares_that_are_known() -> None:
    trace = workload(FIGURE11_CELL)
    assert len(lineup(SKEW)) == FIGURE13_MODELS
    assert len(trace) == round(3600 * FIGURE11_CELL.rate_per_s)
    assert share_of(trace) == pytest.approx(task_shares(), abs=0.02)
    assert np.bincount(trace.model)[0] / len(trace) == pytest.approx(popularity(FIGURE13_MODELS, SKEW)[0], abs=0.03)
    assert trace.prompt_tokens.max() <= 1024


def test_a_test_bed_has_its_gpus_in_boxes() -> None:
    nodes = bed_two(HYDRA, calibration())
    assert len(nodes) == 24
    assert len({node.box for node in nodes}) == 6
    assert {node.device_bytes for node in nodes} == {A10_LARGE.gpu_bytes, V100.gpu_bytes}


def test_a_piece_of_a_cell_is_played_the_same_each_time_and_plain_serving_attains_least() -> None:
    trace = only_called(workload(FIGURE11_CELL, duration_s=150.0))
    one, other, plain = (serve(system, trace, calibration()) for system in (HYDRA, HYDRA, VLLM))
    assert np.array_equal(one.outcomes.ttft_s, other.outcomes.ttft_s)
    assert plain.attained < one.attained
    assert sum(share * one.attained_of(task) for task, share in share_of(trace).items()) == pytest.approx(one.attained)
    assert ratios(plain, plain) == (Spread(1.0, 1.0, 1.0), Spread(1.0, 1.0, 1.0))


def test_a_recorded_trace_has_the_presets_models_and_the_wanted_rate(tmp_path: Path) -> None:
    file = tmp_path / "trace.csv"
    rows = [f"app,f{place % 3},{place * 10.0},0.5" for place in range(1, 31)]
    file.write_text("\n".join(["app,func,end_timestamp,duration", *rows]))
    trace = recorded(file)
    assert len(trace) / trace.duration_s == pytest.approx(0.6)
    assert len(trace.models) == 3
    assert all(target.ttft_s for target in trace.targets)


def test_rates_of_a_loader_are_those_of_the_rows_they_are_from() -> None:
    rows = table()
    assert [row.error for row in rows if row.fitted] == pytest.approx([0.0, 0.0], abs=0.01)
    assert max(abs(row.error) for row in rows) < 0.2


# ---- what is told of it


def _seen(attained: float) -> Seen:
    return Seen(attained, {}, Spread(1.0, 1.0, 1.0), Spread(1.0, 1.0, 1.0), 0.5)


def test_cells_in_which_ours_attains_no_more_are_counted() -> None:
    """Less than HydraServe played in one of two, than it published in both; and in one the systems are in another order."""
    one, other = CELLS[0], CELLS[1]
    seen = {
        (system, cell): _seen(value)
        for cell, values in ((one, (0.4, 0.5, 0.6, 0.7, 0.75)), (other, (0.4, 0.6, 0.5, 0.7, 0.65)))
        for system, value in zip((VLLM, SLLM, HYDRA, HYDRA_CACHE, OURS), values, strict=True)
    }
    found = Found()
    figure9(found, seen, (one, other))
    told = {result.name: result.value for result in found.results}
    assert told["fig9_cells_below_hydraserve"] == 1
    assert told["fig9_cells_below_published_hydraserve"] == 2
    assert told["fig9_cells_in_another_order"] == 1
    assert told["fig9_least_attained"] == 0.65


def test_figure_7_is_told_point_by_point() -> None:
    found = Found()
    figure7(found, calibration(), leave_out=False)
    assert [shown.title for shown in found.tables] == [
        "Figure 7: cold starts",
        "Figure 7: errors",
        "Figure 7: constants",
    ]
    assert len(found.tables[0].rows) == 12
    assert {result.name for result in found.results} >= {"fig7_error_max", "fig7_all_error_max"}


def test_tables_are_written_between_the_marks_of_a_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    for _ in range(2):
        write(page, [Shown("title", "note", ("a", "b"), [("1", "2")])], "how")
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert text.count("| 1 | 2 |") == 1
    page.write_text("nothing")
    with pytest.raises(ValueError, match="no place"):
        write(page, [], "how")
