"""The figures as tables and as results: what was published beside what was played, and the error."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.papers import cold_starts
from benchmarks.papers.beds import OURS
from benchmarks.papers.calibration import POINTS, Calibration
from benchmarks.papers.cold_starts import Compared, errors, of_systems
from benchmarks.papers.hydraserve import (
    FIGURE9_ATTAINED,
    FIGURE11_ATTAINED,
    FIGURE13_CELL,
    FIGURE13_COST,
    FIGURE13_TPOT,
    HYDRA,
    HYDRA_CACHE,
    SLLM,
    TASKS,
    VLLM,
    Cell,
    Spread,
)
from benchmarks.papers.loading import Row
from benchmarks.papers.tables import Shown
from benchmarks.report import Result
from schedules.systems import SYSTEMS

PUBLISHED = (VLLM, SLLM, HYDRA, HYDRA_CACHE)
WITHIN_POINT, WITHIN_RATIO = 0.10, 0.15


@dataclass(frozen=True)
class Seen:
    """Of a cell under one system: shares of requests whose first token was in time, of all and by task; over models what
    a token takes and what serving costs, in the ratio to plain serving; and the share that waited for a start."""

    attained: float
    by_task: Mapping[str, float]
    tpot: Spread
    cost: Spread
    cold: float


@dataclass
class Found:
    """Results, and tables of them."""

    results: list[Result] = field(default_factory=list)
    tables: list[Shown] = field(default_factory=list)

    def add(
        self, name: str, value: float, better: str = "lower", limit: float | None = None, against: str = "goal"
    ) -> None:
        """A share or a number."""
        unit = "cells" if "cells" in name else "fraction"
        word = against if limit is not None else None
        self.results.append(Result(name, value, unit, "lower" if better == "lower" else "higher", limit, word))


# ---- figure 7


def figure7(found: Found, calibration: Calibration, *, leave_out: bool) -> None:
    """All of its points, played with constants that were fitted to them; and those of models that were left out."""
    compared = cold_starts.played(POINTS, calibration)
    largest, mean, _ = errors(of_systems(compared, cold_starts.HYDRASERVE))
    found.add("fig7_error_max", largest, limit=WITHIN_POINT)
    found.add("fig7_error_mean", mean)
    found.add("fig7_all_error_max", errors(compared)[0], limit=WITHIN_POINT)
    found.add("fig7_all_error_mean", errors(compared)[1])
    parts = {"left_one_out": cold_starts.alone, "left_half_out": cold_starts.halves} if leave_out else {}
    rows = [("all points", *_errors(compared))]
    for name, part in parts.items():
        left = cold_starts.left_out(part)
        largest, mean, _ = errors(of_systems(left, cold_starts.HYDRASERVE))
        found.add(f"fig7_{name}_error_max", largest)
        found.add(f"fig7_{name}_error_mean", mean)
        rows.append((name.replace("_", " "), *_errors(left)))
    found.tables.append(_figure7_table(compared, calibration))
    note = (
        f"Relative errors. {calibration.constants} constants against {len(POINTS)} points. Left one out: each model's points "
        "by constants fitted to the other models; left half out: every other model by size."
    )
    columns = ("fitted to", "HydraServe's 24, largest", "mean", "all 60, largest", "mean")
    found.tables.append(Shown("Figure 7: errors", note, columns, rows))
    found.tables.append(_constants(calibration))


def _errors(compared: Sequence[Compared]) -> tuple[str, ...]:
    ours, every = errors(of_systems(compared, cold_starts.HYDRASERVE)), errors(compared)
    return tuple(f"{value:.1%}" for value in (*ours[:2], *every[:2]))


def _figure7_table(compared: Sequence[Compared], calibration: Calibration) -> Shown:
    systems = tuple(dict.fromkeys(each.point.system for each in compared))
    by_point = {each.point: each for each in compared}
    rows = []
    for gpu, name in dict.fromkeys((each.point.gpu, each.point.model) for each in compared):
        points = [next(p for p in by_point if p[:3] == (gpu, system, name)) for system in systems]
        cells = [
            f"{by_point[p].published_s:.2f} / {by_point[p].played_s:.2f} ({by_point[p].error:+.0%})" for p in points
        ]
        ours_s = cold_starts.ours_s(gpu, name, calibration, SYSTEMS["firsttoken"])
        rows.append((f"{gpu}, {name}", *cells, f"{ours_s:.2f}"))
    note = (
        "Seconds from a request to its first token, of a model that is nowhere: published / played. firsttoken decides for "
        "itself how many nodes it takes, with HydraServe's costs of a start."
    )
    return Shown("Figure 7: cold starts", note, ("", *systems, OURS), rows)


def _constants(calibration: Calibration) -> Shown:
    rows = [(name, *(f"{vars(costs)[name]:,.3g}" for costs in calibration.costs.values()))
            for name in vars(next(iter(calibration.costs.values())))]  # fmt: skip
    rows.append(("store_bytes_per_s", *([f"{calibration.store_bytes_per_s:,.3g}"] * len(calibration.costs))))
    note = "What was fitted: bytes a second, and seconds. The store is one for both."
    return Shown("Figure 7: constants", note, ("", *calibration.costs), rows)


# ---- figure 9


def figure9(found: Found, seen: Mapping[tuple[str, Cell], Seen], cells: Sequence[Cell]) -> None:
    """Attainment by cell, theirs and ours."""
    played = {system: {cell: seen[system, cell].attained for cell in cells} for system in (*PUBLISHED, OURS)}
    wrong = [cell for cell in cells if not _alike([played[s][cell] for s in PUBLISHED])]
    off = [abs(played[s][c] / FIGURE9_ATTAINED[s][c] - 1) for s in PUBLISHED for c in cells]
    ratio = [
        abs(played[s][c] / played[VLLM][c] / (FIGURE9_ATTAINED[s][c] / FIGURE9_ATTAINED[VLLM][c]) - 1)
        for s in PUBLISHED[1:]
        for c in cells
    ]
    found.add("fig9_cells_in_another_order", len(wrong), limit=0)
    found.add("fig9_error_max", max(off))
    found.add("fig9_error_mean", sum(off) / len(off))
    found.add("fig9_ratio_error_max", max(ratio), limit=WITHIN_RATIO)
    found.add("fig9_ratio_error_mean", sum(ratio) / len(ratio))
    below = [c for c in cells if played[OURS][c] <= played[HYDRA_CACHE][c]]
    below_published = [c for c in cells if played[OURS][c] <= FIGURE9_ATTAINED[HYDRA_CACHE][c]]
    found.add("fig9_cells_below_hydraserve", len(below), limit=0)
    found.add("fig9_cells_below_published_hydraserve", len(below_published), limit=0)
    found.add("fig9_least_attained", min(played[OURS].values()), "higher")
    rows = [_cell_row(cell, played, seen) for cell in cells]
    note = (
        "Share of requests whose first token came within their model's time: published / played. firsttoken has HydraServe's "
        "costs of a start. Cold: the share of its requests that waited for a start."
    )
    found.tables.append(Shown("Figure 9: service levels", note, ("cell", *PUBLISHED, OURS, "cold"), rows))


def _cell_row(
    cell: Cell, played: Mapping[str, Mapping[Cell, float]], seen: Mapping[tuple[str, Cell], Seen]
) -> tuple[str, ...]:
    both = [f"{FIGURE9_ATTAINED[s][cell]:.1%} / {played[s][cell]:.1%}" for s in PUBLISHED]
    name = f"CV {cell.cv:g}, {cell.rate_per_s:g}/s"
    return (name, *both, f"{played[OURS][cell]:.1%}", f"{seen[OURS, cell].cold:.0%}")


def _alike(values: Sequence[float]) -> bool:
    """Whether they rise, as the published ones do in each cell."""
    return list(values) == sorted(values)


# ---- figures 11 and 13


def figure11(found: Found, seen: Mapping[str, Seen]) -> None:
    """Of one cell, by task."""
    off = [abs(seen[s].by_task[t] / FIGURE11_ATTAINED[s][t] - 1) for s in PUBLISHED for t in TASKS]
    found.add("fig11_error_max", max(off))
    found.add("fig11_error_mean", sum(off) / len(off))
    rows = [
        (s, *(f"{FIGURE11_ATTAINED[s][t]:.1%} / {seen[s].by_task[t]:.1%}" for t in TASKS)) for s in PUBLISHED
    ]  # fmt: skip
    rows.append((OURS, *(f"{seen[OURS].by_task[t]:.1%}" for t in TASKS)))
    found.tables.append(Shown("Figure 11: by task", "CV 8, 0.6/s: published / played.", ("", *TASKS), rows))


def figure13(found: Found, seen: Mapping[str, Seen]) -> None:
    """Of one cell, by model, over plain serving."""
    hydra = seen[HYDRA]
    found.add("fig13_tpot_mean", hydra.tpot.mean, limit=FIGURE13_TPOT.mean, against="published")
    found.add("fig13_tpot_error", abs(hydra.tpot.mean / FIGURE13_TPOT.mean - 1))
    found.add("fig13_cost_mean", hydra.cost.mean, limit=FIGURE13_COST.mean, against="published")
    found.add("fig13_cost_error", abs(hydra.cost.mean / FIGURE13_COST.mean - 1))
    ours = seen[OURS]
    found.add("fig13_ours_cost_mean", ours.cost.mean, limit=FIGURE13_COST.mean, against="published HydraServe")
    found.add("fig13_ours_tpot_mean", ours.tpot.mean)
    published = f"{FIGURE9_ATTAINED[HYDRA][FIGURE13_CELL]:.1%}"
    rows = [(f"{HYDRA}, published", *_spread(FIGURE13_TPOT), *_spread(FIGURE13_COST), published)]
    rows += [
        (name, *_spread(each.tpot), *_spread(each.cost), f"{each.attained:.1%}")
        for name, each in seen.items()
        if name != VLLM
    ]
    note = "CV 8, 0.6/s. Over the models that were called: the ratio to serverless vLLM of time per output token and of cost."
    columns = ("", "TPOT mean", "median", "largest", "cost mean", "median", "largest", "attained")
    found.tables.append(Shown("Figure 13: what it costs", note, columns, rows))


def _spread(spread: Spread) -> tuple[str, ...]:
    return tuple("" if value is None else f"{value:.3f}" for value in spread)


# ---- ServerlessLLM


def loading(found: Found, table: Sequence[Row]) -> None:
    """Its table."""
    predicted = [row for row in table if not row.fitted]
    found.add("loading_error_max", max(abs(row.error) for row in predicted))
    found.add("loading_error_mean", sum(abs(row.error) for row in predicted) / len(predicted))
    found.tables.append(
        Shown(
            "ServerlessLLM: loading",
            "Seconds until a model is on its GPU. Fitted rows gave the rates of their machine.",
            ("machine", "model", "from", "GB", "published", "played", "error", ""),
            list(_loading_rows(table)),
        )
    )


def _loading_rows(table: Sequence[Row]) -> Iterator[tuple[str, ...]]:
    for row in table:
        loaded = row.loaded
        yield (
            loaded.machine, loaded.model, loaded.tier, f"{row.size_bytes / 1e9:.1f}", f"{loaded.serverlessllm_s:.3f}",
            f"{row.played_s:.3f}", f"{row.error:+.1%}", "fitted" if row.fitted else "",
        )  # fmt: skip
