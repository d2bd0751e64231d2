"""The page that says how honest the simulator is: its part between two marks is made of a log and its replays."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.honesty_figures import COLD_START, TTFT_MEDIAN, TTFT_P95, Distribution, Judged
from benchmarks.honesty_log import Log
from schedules.fitting.fitted import Fitted

BEGIN, END = "<!-- written by benchmarks/honesty.py: begin -->", "<!-- written by benchmarks/honesty.py: end -->"
_PERCENTILES = (50, 90, 95, 99)


def write(page: Path, text: str) -> None:
    """The text in the place of what is between the marks. ValueError if they are not there."""
    before, found, rest = page.read_text().partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not (found and ended):
        raise ValueError(f"{page} has no place for it: no lines {BEGIN} and {END}")
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


def text(log: Log, world: Fitted, learned: Judged, reported: Judged) -> str:
    """Of the replays in the world that was fitted to what came before the trace, and in the one that the nodes report."""
    return "\n".join(_lines(log, world, learned, reported))


def _lines(log: Log, world: Fitted, learned: Judged, reported: Judged) -> Iterator[str]:
    yield from _run(log)
    yield ""
    both = (learned, reported)
    yield from _table(
        ("error", "goal", "in the fitted world", "in the world as nodes report it"),
        [
            ("TTFT, median", f"{TTFT_MEDIAN:.0%}", *(_share(each.every.median) for each in both)),
            ("TTFT, 95th percentile", f"{TTFT_P95:.0%}", *(_share(each.every.p95) for each in both)),
            ("TTFT, mean", "", *(_share(each.every.mean) for each in both)),
            ("TTFT, Kolmogorov-Smirnov distance", "", *(f"{each.every.ks:.3f}" for each in both)),
            ("its p-value", "", *(f"{each.every.ks_p:.3f}" for each in both)),
            ("time per output token, median", "", *(_share(each.tpot.compared.median) for each in both)),
            ("single cold starts alike", f"{COLD_START:.0%}", *(f"{each.single.mae:.1%}" for each in both)),
            ("each of them, median", "", *(f"{np.median(each.single.errors):.1%}" for each in both)),
            ("all single cold starts", "", *(f"{each.single.mae_of_all:.1%}" for each in both)),
        ],
    )
    single = learned.single
    yield (
        f"\nOf {single.seen} cold starts {single.pairs} were cold when played too. Of these {len(single.alike_live_s)} are "
        "alike.\n"
    )
    yield from _table(
        ("seconds, live / played", "live", "played", "mean", *(f"p{p}" for p in _PERCENTILES), "KS", "KS p"),
        [_row(each) for each in (*learned.ttft, learned.tpot)],
    )
    yield "\nWhat was fitted, in the units of `schedules/rates.py`:\n"
    yield from _table(
        ("node", "quantity", "fitted", "reported", "from", "samples", "odd"),
        [
            (each.node or "all", each.name, f"{each.value:.4g}", "" if each.reported is None else f"{each.reported:.4g}",
             each.whence, str(each.samples), str(each.outliers))
            for each in world.quantities
            if each.samples
        ],
    )  # fmt: skip


def _run(log: Log) -> Iterator[str]:
    run, found = log.run, log.machine
    lost = ", ".join(f"{name} killed after {at_s:.0f} s" for at_s, _, name in log.troubles)
    moved = sum(move["step"] == "done" for move in log.moves)
    yield (
        f"`python benchmarks/honesty.py --write docs/honesty.md`, seed {run['seed']}: {len(log.trace)} requests for "
        f"{len(log.models)} models in {run['seconds']:.0f} s, {run['bursts']} bursts of {run['burst_requests']}; "
        f"{len(log.nodes)} nodes behind {run['bytes_per_s'] * 8 / 1e6:.0f} Mbit/s, {len(log.replayed.starts)} cold starts, "
        f"{moved} of {len(log.moves)} moves done, {lost}."
    )
    load = " and ".join(f"{found[key][0]:.1f}" for key in ("load_before", "load_after"))
    yield (
        f"\n*{found['cores']} cores of {found['cpu']}, {found['memory_gib']:.0f} GiB, Linux {found['kernel']}; load average "
        f"before and after: {load}.*"
    )


def _row(each: Distribution) -> tuple[str, ...]:
    found = each.compared
    pairs = [
        f"{live:.3f} / {played:.3f}"
        for live, played in zip(*(np.percentile(s, _PERCENTILES) for s in (each.live_s, each.played_s)), strict=True)
    ]
    means = f"{each.live_s.mean():.3f} / {each.played_s.mean():.3f}"
    return (each.name, str(found.seen), str(found.played), means, *pairs, f"{found.ks:.3f}", f"{found.ks_p:.3f}")


def _share(error: float) -> str:
    return f"{error:+.1%}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(map(str, row))} |"
