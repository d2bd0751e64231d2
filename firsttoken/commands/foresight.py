"""The commands that look ahead: what is expected to be called, and what is to be where before it is."""

import asyncio
import contextlib
import signal
import time
from typing import TYPE_CHECKING, Annotated

import typer

from firsttoken.commands.options import AsJson, Config, load, open_store, print_json, stderr, stdout

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from firsttoken.settings import Settings
    from flows.errors import NothingKnown
    from flows.foreseeing.carry import Carried
    from flows.foreseeing.gather import Sources
    from flows.foreseeing.look import Looked
    from flows.foreseeing.make import Made, Wish
    from flows.front_end import FrontEnd

Horizon = Annotated[
    str, typer.Option(help="How far to look ahead: 15min. Else as the settings have it.", metavar="TIME")
]
Method = Annotated[
    str,
    typer.Option(help="Who forecasts, by a name of docs/forecast.md. Else as the settings have it.", metavar="NAME"),
]
_TERMINATED = 143


def forecast(
    model: Annotated[str, typer.Argument(help="Name of a model; without it all of them are shown.")] = "",
    horizon: Horizon = "",
    method: Method = "",
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Without MODEL, show that many.")] = 30,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Show what came for a model until now, and how many requests are expected next, with bounds.

    Example: firsttoken forecast smollm2 --horizon 15min
    """
    from firsttoken.local import running_settings
    from firsttoken.views.forecast import forecast_figures, likeliest, of_all, of_model

    settings = running_settings(load(config))
    looked = asyncio.run(_looked(settings, _wish(settings, horizon, method, "")))
    models = looked.forecast.models
    if model and model not in models:
        _check_published(settings, model)
        raise _nothing_came(settings, model)
    if as_json:
        rows = [models.index(model)] if model else likeliest(looked)[:limit]
        found = [forecast_figures(looked, row) for row in rows]
        print_json(found[0] if model else found)
        return
    console = stdout()
    for part in of_model(looked, model, console.width) if model else of_all(looked, limit):
        console.print(part)


def prewarm(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan with its reasons, and do nothing of it.")
    ] = False,
    models: Annotated[
        str, typer.Option(help="Plan for these alone: a,b. What others have stays as it is.", metavar="MODELS")
    ] = "",
    horizon: Horizon = "",
    method: Method = "",
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Plan what is to be where before it is asked for, and carry that out, as the prewarm flow does.

    Ctrl-C ends what is being brought at once; what has come stays. Exit status 1 if some of it could not be brought.

    Example: firsttoken prewarm --dry-run
    """
    from firsttoken.local import running_settings

    settings = running_settings(load(config))
    wish = _wish(settings, horizon, method, models)
    try:
        made, carried = asyncio.run(_prewarmed(settings, wish, dry_run=dry_run, shown=not as_json))
    except asyncio.CancelledError:  # by SIGTERM
        raise typer.Exit(_TERMINATED) from None
    if as_json:
        from firsttoken.views.prewarm import plan_figures

        print_json(plan_figures(made, carried))
    failed = [each for each in carried or () if each.why]
    for each in failed:
        typer.echo(
            f"{each.staging.key.name} is not in {each.staging.tier} of {each.staging.node}: {each.why}", err=True
        )
    if failed:
        raise typer.Exit(1)


def _wish(settings: "Settings", horizon: str, method: str, models: str) -> "Wish":
    """By the settings but for what is typed. Unclear if that cannot be meant."""
    from firsttoken.components import foresight_of
    from flows.errors import Unclear
    from flows.foreseeing.make import Wish
    from flows.foreseeing.methods import METHODS
    from flows.planning.typed import parts
    from flows.prewarming.chosen import chosen

    foresight = foresight_of(settings)
    by, name = chosen(foresight, horizon, {}), method or foresight.forecaster
    if name not in METHODS:
        raise Unclear(f"there is no method {name[:40]!r}: there are {', '.join(METHODS)}")
    every_s = foresight.every_s or by.horizon_s
    names = tuple(dict.fromkeys(parts(models, "models")))
    return Wish(METHODS[name], by.budgets, foresight.history_s, by.horizon_s, every_s, names)


async def _looked(settings: "Settings", wish: "Wish") -> "Looked":
    from flows.foreseeing.look import look

    with _there(settings):
        return await look(_front_end(settings), wish.forecaster, wish.history_s, wish.horizon_s, time.time())


def _check_published(settings: "Settings", model: str) -> None:
    """UnknownModel if it is not."""
    from flows.errors import UnknownModel
    from storage_tiers.errors import Missing

    try:
        open_store(settings).open(model)
    except Missing as error:
        raise UnknownModel(
            f"nobody has called {model[:100]!r}, and it is not published: see `firsttoken models`"
        ) from error


def _nothing_came(settings: "Settings", model: str) -> "NothingKnown":
    from flows.errors import NothingKnown

    days = settings.prewarm.history_s / 86_400
    return NothingKnown(
        f"no request came for {model} in the last {days:g} d: there is nothing to make a forecast of yet"
    )


def _front_end(settings: "Settings") -> "FrontEnd":
    from firsttoken.home import frontend_url
    from firsttoken.operator_key import operator_key
    from flows.front_end import FrontEnd

    return FrontEnd(frontend_url(settings), operator_key(settings))


@contextlib.contextmanager
def _there(settings: "Settings") -> "Iterator[None]":
    """NotUp if no front end answers."""
    import httpx

    from firsttoken.errors import NotUp
    from firsttoken.home import away
    from flows.errors import FrontEndAway

    try:
        yield
    except FrontEndAway as error:
        if isinstance(error.__cause__, httpx.ConnectError):
            raise NotUp(away(settings)) from error
        raise


async def _prewarmed(
    settings: "Settings", wish: "Wish", *, dry_run: bool, shown: bool
) -> "tuple[Made, Sequence[Carried] | None]":
    """The plan, and what became of its stagings; None if it was not carried out."""
    from firsttoken.components import foresight_of
    from firsttoken.reached import cluster_of
    from firsttoken.views.prewarm import of_plan
    from flows.foreseeing.gather import Sources
    from flows.foreseeing.make import make

    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    with _there(settings):
        async with cluster_of(settings) as cluster:
            sources = Sources(_front_end(settings), cluster, open_store(settings), foresight_of(settings).objectives_of)
            made = await make(sources, wish, time.time())
            if shown:
                console = stdout()
                for part in of_plan(made, wish.budgets):
                    console.print(part)
            if dry_run:
                return made, None
            return made, await _carried_out(sources, made, alone=bool(wish.models))


async def _carried_out(sources: "Sources", made: "Made", *, alone: bool) -> "Sequence[Carried]":
    """Nodes are told what to keep and the front end what is its part, and then it is brought. A plan for some models alone
    does not say what the others are worth: of that only what is brought is done."""
    from rich import progress

    from flows.foreseeing.carry import retain, stage

    plan, console = made.plan, stderr()
    left_s = plan.until_s - time.time()
    if not alone:
        for failed in await retain(sources.cluster, plan, sorted({*plan.dram, *plan.ssd})):
            typer.echo(failed, err=True)
        for ignored in (await sources.front_end.planned(plan))["ignored"]:
            typer.echo(f"no replica of {ignored['model']} is kept: {ignored['reason']}", err=True)
    columns = (
        progress.TextColumn("bringing"), progress.BarColumn(bar_width=20), progress.DownloadColumn(),
        progress.TransferSpeedColumn(), progress.TextColumn("{task.fields[words]}", style="dim"),
    )  # fmt: skip
    with progress.Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=sum(staging.size_bytes for staging in plan.stagings), words="")
        carried = await stage(
            sources.cluster, sources.store, plan.stagings, left_s,
            lambda done_bytes, words: bar.update(task, completed=done_bytes, words=words),
        )  # fmt: skip
    done, fetched_bytes = sum(not each.why for each in carried), sum(each.fetched_bytes for each in carried)
    typer.echo(f"{done} of {len(carried)} stagings are there, {fetched_bytes:,} bytes were fetched for them", err=True)
    return carried
