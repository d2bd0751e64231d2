"""What a person sees at the terminal: progress, tables, notes."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.status import Status
from rich.text import Text

from firsttoken.views.moves import moves_table
from firsttoken.views.tables import Table, open_table
from storage_tiers.threads import WORKERS

if TYPE_CHECKING:
    from firsttoken.frontend import ColdStart, PhaseOfStart
    from firsttoken.local import Step
    from storage_tiers.checkpoint import Checkpoint
    from storage_tiers.model_store import ModelStore
    from storage_tiers.publishing.progress import UnitProgress


class Steps:
    """A line per component of a platform that comes up or ends; plain lines where there is no terminal. Use it as the
    platform's report."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.settle()

    def __call__(self, step: "Step") -> None:
        if not self._console.is_terminal:
            if step.phase not in ("starting", "stopping"):
                self._console.print(f"{step.component} {_words(step)}", highlight=False, soft_wrap=True)
        elif step.phase == "restarting":
            self._console.print(f"{step.component} ended ({step.detail}): starting it again", style="yellow")
        else:
            self._show(step)

    def settle(self) -> None:
        """Leave the lines as they are; what comes later gets lines of its own."""
        if self._live is not None:
            self._live.stop()
        self._live, self._tasks = None, {}

    def _show(self, step: "Step") -> None:
        if self._live is None:
            self._live = Progress(
                SpinnerColumn(finished_text="[green]✓"),
                TextColumn("{task.description:12}"),
                TextColumn("{task.fields[words]}", style="dim"),
                console=self._console,
            )
            self._live.start()
        begins = step.phase in ("starting", "stopping")
        if step.component not in self._tasks:
            self._tasks[step.component] = self._live.add_task(step.component, total=1, words="")
        self._live.update(self._tasks[step.component], completed=0 if begins else 1, words=_words(step))
        if self._live.finished:
            self.settle()


def _words(step: "Step") -> str:
    if step.phase in ("starting", "stopping"):
        return step.phase
    if step.phase == "restarting":
        return f"ended ({step.detail}): starting it again"
    return f"{step.phase} after {step.seconds:.1f} s"


class Waiting:
    """Notes on a cold start while nothing else can be shown; they vanish with the first text."""

    def __init__(self, console: Console) -> None:
        self._status = Status("waiting", console=console) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.over()

    def note(self, text: str) -> None:
        """Show `text` in place of the last note."""
        if self._status is not None:
            self._status.update(text)

    def over(self) -> None:
        """No more notes."""
        if self._status is not None:
            self._status.stop()
            self._status = None


class UnitBar:
    """A bar of bytes and rate for a pass over a model's units, where there is a terminal; use `show` as the pass's report."""

    def __init__(self, verb: str, name: str, first_note: str, console: Console) -> None:
        columns = (
            TextColumn(f"{verb} {{task.description}}"),
            BarColumn(bar_width=20),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[unit]}", style="dim"),
        )
        self._bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._bar.add_task(name, total=None, unit=first_note)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._bar.stop()

    def show(self, progress: "UnitProgress") -> None:
        """The pass is that far."""
        unit = progress.unit.rsplit("/", 1)[-1]
        self._bar.update(self._task, completed=progress.bytes_done, total=progress.bytes_total, unit=unit)

    def full(self, size_bytes: int) -> None:
        """The pass is over, or there was nothing to do."""
        self._bar.update(self._task, completed=size_bytes, total=size_bytes, unit="")


def publish_with_progress(
    source: str,
    name: str,
    store: "ModelStore",
    console: Console,
    *,
    dtype: str | None = None,
    in_place: bool = False,
    workers: int = WORKERS,
) -> "Checkpoint":
    """Publish with a bar on `console`; StorageError says what is wrong with the source."""
    with UnitBar("indexing" if in_place else "publishing", name, "reading the source", console) as bar:
        from storage_tiers.publishing.publish import publish

        checkpoint = publish(source, name, store, dtype=dtype, in_place=in_place, workers=workers, progress=bar.show)
        bar.full(checkpoint.size_bytes)
        return checkpoint


def url_table(urls: Mapping[str, str]) -> Table:
    """Where things are."""
    names = {
        "page": "Overview",
        "api": "API (OpenAI)",
        "docs": "API reference",
        "prefect": "Prefect UI",
        "dask": "Dask dashboard",
    }
    table = Table.grid(padding=(0, 2))
    for name, url in urls.items():
        table.add_row(names.get(name, name), url)
    return table


def model_table(models: Sequence[Mapping[str, Any]]) -> Table:
    """The published models; of one that cannot be opened the reason."""
    table = Table("model", "dtype", "layers", "size", "version", box=None)
    for model in models:
        if "error" in model:
            table.add_row(model["name"], "cannot be opened", "", "", Text(model["error"], style="red"))
            continue
        size = decimal(model["size_bytes"])
        table.add_row(model["name"], model["dtype"], str(model["layers"]), size, model["version"])
    return table


def status_tables(report: Mapping[str, Any]) -> tuple[Table, ...]:
    """Nodes, replicas, moves under way and, as far as anything is measured, the nodes' rates in the mean, from the front
    end's status."""
    nodes = open_table("Nodes")
    for column in ("node", "host", "dram", "ssd", "device", "stage processes"):
        nodes.add_column(column)
    for node in report["nodes"]:
        processes = node["stage_processes"]
        nodes.add_row(
            Text(f"{node['name']} (draining)", style="yellow") if node["draining"] else node["name"],
            node["host"],
            *(_share(node[f"{tier}_bytes"], node[f"{tier}_used_bytes"]) for tier in ("dram", "ssd")),
            _share(node["device_bytes"], node["device_reserved_bytes"]),
            f"{processes['idle']} idle, {processes['busy']} busy",
        )
    replicas = open_table("Replicas")
    for column in ("model", "state", "degree", "nodes", "requests"):
        replicas.add_column(column)
    for replica in report["replicas"]:
        where, degree = ", ".join(replica["nodes"]), str(replica["degree"] or "")
        replicas.add_row(replica["model"], replica["state"], degree, where, str(replica["requests"]))
    moving = moves_table(report["moves"], "Moving") if report["moves"] else None
    measured = _mean_rates(report["nodes"])
    return tuple(table for table in (nodes, replicas, moving, measured) if table is not None)


def _mean_rates(nodes: Sequence[Mapping[str, Any]]) -> Table | None:
    names = sorted({name for node in nodes for name in node["rates"]})
    if not names:
        return None
    table = open_table("Measured, mean", gap=1)
    table.add_column("node")
    for name in names:
        table.add_column(name, justify="right")
    for node in nodes:
        means = [rate_text(name, node["rates"][name]["mean"]) if name in node["rates"] else "" for name in names]
        table.add_row(node["name"], *means)
    return table


def rate_text(name: str, value: float) -> str:
    """A rate in its unit, for a person."""
    from schedules.rates import is_duration

    return f"{value * 1000:,.1f} ms" if is_duration(name) else f"{decimal(int(value))}/s"


def rates_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """What nodes have measured of themselves."""
    table = Table("node", "rate", title="Measured", title_justify="left")
    for column in ("mean", "bad end", "samples"):
        table.add_column(column, justify="right")
    for row in rows:
        mean, bad = rate_text(row["rate"], row["mean"]), rate_text(row["rate"], row["bad"])
        table.add_row(row["node"], row["rate"], mean, bad, str(row["samples"]))
    return table


def ledger_table(start: "ColdStart") -> Table:
    """Where the time of a cold start went."""
    took = "?" if start.ttft_s is None else f"{start.ttft_s:.2f} s"
    title = f"Cold start of {start.model}: degree {start.degree}, first token after {took}"
    table = open_table(title, gap=1)
    table.add_column("phase", no_wrap=True)
    table.add_column("where", no_wrap=True)
    for column in ("start", "end", "bytes", "rate"):
        table.add_column(column, justify="right", no_wrap=True)
    for phase in summarise(start.phases):
        rate = phase.bytes_per_s
        table.add_row(
            phase.name,
            phase.where,
            f"{phase.start_s:.3f} s",
            f"{phase.end_s:.3f} s",
            decimal(phase.size_bytes) if phase.size_bytes else "",
            f"{decimal(int(rate))}/s" if rate else "",
        )
    return table


_WAIT = "wait for"


def summarise(phases: "Sequence[PhaseOfStart]") -> "list[PhaseOfStart]":
    """One row where the same was done in the same place, or waited for, for many units; by start."""
    rows: dict[tuple[str, str], list[PhaseOfStart]] = {}
    for phase in phases:
        verb = phase.name.rpartition(" ")[0]
        rows.setdefault((verb if phase.size_bytes or verb == _WAIT else phase.name, phase.where), []).append(phase)
    summaries = [
        replace(
            same[0],
            name=same[0].name if len(same) == 1 else f"{verb} {len(same)} units",
            start_s=min(phase.start_s for phase in same),
            end_s=max(phase.end_s for phase in same),
            size_bytes=sum(phase.size_bytes for phase in same),
        )
        for (verb, _), same in rows.items()
    ]
    return sorted(summaries, key=lambda phase: phase.start_s)


def _share(total_bytes: int, used_bytes: int) -> str:
    return f"{decimal(used_bytes)} of {decimal(total_bytes)}"


def seconds_since(started_s: float) -> str:
    """How long ago, for a person."""
    return f"{time.monotonic() - started_s:.2f} s"
