"""The command that asks for the cheapest cluster."""

import asyncio
import signal
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from firsttoken.commands.options import AsJson, Config, finite, load, open_store, print_json, stderr, stdout

if TYPE_CHECKING:
    from firsttoken.settings import Settings
    from flows.planning.answering import Means
    from flows.planning.asking import Known, Wishes
    from flows.planning.sweeping import Progress, Report
    from schedules.capacity.plan import Plan

_SERVED, _HAD, _PLAYED, _WRITTEN = "What is to be served", "What may be had", "How models are served", "How it is done"
_TERMINATED = 143


def _text(about: str, metavar: str, panel: str) -> Any:
    """An option that the planner reads, so that Prefect's UI and the command line take the same words."""
    return typer.Option(help=about, metavar=metavar, rich_help_panel=panel)


Trace = Annotated[
    str,
    _text(
        "A trace, stored or as others record it; `history` for what was asked of late. Else made up: --rate.",
        "FILE",
        _SERVED,
    ),
]
SloTtft = Annotated[
    str,
    _text("Time to the first token: 2s; by model 'chat*=2s,5s'. Else as the trace has it.", "TIME", _SERVED),
]
SloTpot = Annotated[str, _text("Time of every other token: 50ms. The same holds.", "TIME", _SERVED)]
Attainment = Annotated[
    float, typer.Option(help="The share of requests to be served so.", callback=finite, rich_help_panel=_SERVED)
]
Models = Annotated[
    str,
    _text(
        "Published models, or sizes as 8b,70b, that stand for the trace's in turn; by model 'chat*=8b,70b'. Else those "
        "published: of the same name, and for the others in turn.",
        "MODELS",
        _SERVED,
    ),
]
Rate = Annotated[str, _text("So many requests a second, in the mean; else as the trace has them.", "RATE", _SERVED)]
Duration = Annotated[str, _text("Only so much of the trace: 2h.", "TIME", _SERVED)]
Nodes = Annotated[
    str,
    _text(
        "Machines, each with what an hour costs: h100=4.10,a10=1.20; `cluster` for those that run, by what they have "
        "measured; or a file, types.toml.",
        "TYPES",
        _HAD,
    ),
]
World = Annotated[
    str,
    _text("What `firsttoken fit` has written: `cluster` are its machines, as they were seen to be.", "FILE", _HAD),
]
Price = Annotated[str, _text("Of an hour of a machine that is given none.", "PRICE", _HAD)]
MostMachines = Annotated[int, typer.Option(min=1, max=100_000, help="In all.", rich_help_panel=_HAD)]
Store = Annotated[
    str, _text("What the object store gives to all together: 25gbit. Else as measured, or no limit.", "RATE", _HAD)
]
Dram = Annotated[str, _text("Shares of a machine's dram to try.", "SHARES", _HAD)]
Ssd = Annotated[str, _text("Shares of a machine's ssd to try.", "SHARES", _HAD)]
Currency = Annotated[str, typer.Option(help="Of the prices.", rich_help_panel=_HAD)]
KeepAlive = Annotated[
    str, _text("How long a replica stays after its last request; else as the settings have it.", "TIME", _PLAYED)
]
Degree = Annotated[
    int | None,
    typer.Option(
        min=1, max=256, help="Most nodes of a cold model; else as the settings have it.", rich_help_panel=_PLAYED
    ),
]
KvTokens = Annotated[
    int | None,
    typer.Option(
        min=16, help="Tokens of KV cache of a replica; else as the settings have it.", rich_help_panel=_PLAYED
    ),
]
MostReplicas = Annotated[int, typer.Option(min=1, max=1000, help="Of a model.", rich_help_panel=_PLAYED)]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        help="What written files' names begin with; else the trace's, in the folder `plans` of the home.",
        metavar="PREFIX",
        rich_help_panel=_WRITTEN,
    ),
]
Jobs = Annotated[
    int,
    typer.Option(min=0, max=1024, help="Clusters played at once; 0: as many as cores.", rich_help_panel=_WRITTEN),
]
Dask = Annotated[str, _text("Play at the Dask scheduler there, which is not that of the nodes.", "ADDRESS", _WRITTEN)]
Resume = Annotated[
    bool, typer.Option(help="Use what was played of the same question before.", rich_help_panel=_WRITTEN)
]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of all chance.", rich_help_panel=_WRITTEN)]


def plan(
    trace: Trace = "",
    slo_ttft: SloTtft = "",
    slo_tpot: SloTpot = "",
    attainment: Attainment = 0.99,
    models: Models = "",
    rate: Rate = "",
    duration: Duration = "",
    nodes: Nodes = "cluster",
    world: World = "",
    price: Price = "",
    most_machines: MostMachines = 64,
    store: Store = "",
    dram: Dram = "1,0.5,0.25",
    ssd: Ssd = "1,0.5,0.25",
    currency: Currency = "$",
    keep_alive: KeepAlive = "",
    degree: Degree = None,
    kv_tokens: KvTokens = None,
    most_replicas: MostReplicas = 1000,
    out: Out = None,
    jobs: Jobs = 0,
    dask: Dask = "",
    resume: Resume = True,
    seed: Seed = 0,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Find the cheapest cluster that serves a trace within its service levels; say what binds, and what else would be.

    Clusters are played: firsttoken's own scheduler decides, under a virtual clock. Writes a report (HTML), the plan (JSON)
    and settings for machines (TOML). Ctrl-C loses nothing: the same command goes on. Exit status 1 if no cluster will do.

    Example: firsttoken plan --trace hour.npz --slo-ttft 2s --slo-tpot 50ms --price 4.10

    Example: firsttoken plan --rate 2 --duration 1h --models 8b,70b --slo-ttft 5s --nodes h100=4.10,a10=1.20
    """
    from firsttoken.local import running_settings
    from flows.planning.asking import Wishes
    from flows.planning.written import check_prefix, write

    settings = running_settings(load(config))
    frontend = settings.frontend
    wishes = Wishes(
        trace=trace, node_types=nodes, keep_alive=keep_alive or f"{frontend.keep_alive_s:g}s",
        degree=degree or frontend.degree, kv_tokens=kv_tokens or frontend.kv_tokens, models=models,
        slo_ttft=slo_ttft, slo_tpot=slo_tpot, attainment=attainment, most_machines=most_machines, rate=rate,
        duration=duration, price=price, store=store, dram=dram, ssd=ssd, currency=currency,
        most_replicas=most_replicas, seed=seed, world=world,
    )  # fmt: skip
    prefix = out or _beside_others(settings, trace)
    check_prefix(prefix)
    found = _played(settings, wishes, _means(settings, dask, jobs, resume=resume))
    files = write(found, prefix, datetime.now(UTC))
    _show(found, as_json=as_json)
    for path in (files.report, files.document, *files.settings.values()):
        typer.echo(f"written: {path}", err=True)
    if found.chosen is None:
        raise typer.Exit(1)


def _means(settings: "Settings", dask: str, jobs: int, *, resume: bool) -> "Means":
    from firsttoken.components import tls_of
    from flows.planning.answering import Means
    from flows.planning.sweeping import crew_of

    crew = crew_of(dask, jobs, settings.scheduler_address, tls_of(settings) if dask else None)
    return Means(crew, settings.plans_dir, resume)


def _beside_others(settings: "Settings", trace: str) -> Path:
    settings.plans_dir.mkdir(parents=True, exist_ok=True)
    return settings.plans_dir / (Path(trace).name.partition(".")[0] or "plan")


def _show(found: "Plan", *, as_json: bool) -> None:
    if as_json:
        from schedules.capacity.spoken import to_json

        print_json(to_json(found))
        return
    from firsttoken.views.plan import shown

    console = stdout()
    for part in shown(found, console.width):
        console.print(part)


def _played(settings: "Settings", wishes: "Wishes", means: "Means") -> "Plan":
    """The plan. Whoever is interrupted is told how far it is, and that nothing is lost."""
    from rich import progress

    console, latest = stderr(), list["Progress"]()
    words = progress.TextColumn("{task.fields[words]}", style="dim")
    columns = (progress.TextColumn("playing"), progress.BarColumn(bar_width=20), progress.TimeElapsedColumn(), words)
    with progress.Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=1.0, words="looking at what is asked")

        def report(told: "Progress") -> None:
            latest[:] = [told]
            bar.update(task, completed=told.share, words=told.words)

        try:
            return asyncio.run(_answered(settings, wishes, means, report))
        except (KeyboardInterrupt, asyncio.CancelledError) as error:
            stopped = error
    typer.echo(f"stopped; {latest[0].words.partition(';')[0] if latest else 'nothing was played'}", err=True)
    if latest:
        typer.echo("what was played is kept: the same command goes on from there", err=True)
    raise typer.Exit(130 if isinstance(stopped, KeyboardInterrupt) else _TERMINATED)


async def _answered(settings: "Settings", wishes: "Wishes", means: "Means", report: "Report") -> "Plan":
    from flows.planning.answering import answered
    from flows.planning.published import StoreModels

    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    known = await _known(settings, wishes)
    return await answered(wishes, StoreModels(open_store(settings)), known, means, report)


async def _known(settings: "Settings", wishes: "Wishes") -> "Known":
    from firsttoken.errors import NotUp
    from firsttoken.home import away, frontend_url
    from flows.errors import FrontEndAway
    from flows.front_end import FrontEnd
    from flows.planning.answering import known_of

    try:
        return await known_of(wishes, FrontEnd(frontend_url(settings), ""), time.time())
    except FrontEndAway as error:
        raise NotUp(f"{away(settings)}; or name machines with their prices, as --nodes h100=4.10") from error
