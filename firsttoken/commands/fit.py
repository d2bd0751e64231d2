"""The command that fits the simulator's world to what happened on this cluster."""

import asyncio
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from firsttoken.commands.options import AsJson, Config, load, print_json, stderr, stdout
from firsttoken.commands.traces import Force, seconds

if TYPE_CHECKING:
    from firsttoken.settings import Settings
    from schedules.fitting.fitted import Fitted


def fit(
    since: Annotated[
        float, typer.Option(parser=seconds, help="How far back: 90, 15min, 2h, 14d.", metavar="TIME")
    ] = "7d",  # type: ignore[assignment]
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the world there (JSON), to plan with.", metavar="PATH")
    ] = None,
    force: Force = False,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Fit the simulator's world to what happened on this cluster, and say how good it is.

    Reads the history's cold starts and requests, and what the nodes that run report. What is said of how good it is
    comes from the last third, which is played by a world that was fitted to the first two thirds alone.

    Example: firsttoken fit --since 14d --out world.json
    """
    from firsttoken.local import running_settings
    from firsttoken.world_files import check_place, save

    if out is not None:
        check_place(out, force=force)
    console = stderr()
    with console.status("playing what happened") if console.is_terminal else nullcontext():
        world = asyncio.run(_fit(running_settings(load(config)), since))
    if out is not None:
        save(world, out)
    if as_json:
        from schedules.fitting.world_file import to_json

        print_json(to_json(world))
        return
    from firsttoken.views.fit import fit_view

    stdout().print(fit_view(world))
    if out is not None:
        typer.echo(f"{out}: a world of {len(world.nodes)} nodes, for `firsttoken plan --world`", err=True)


async def _fit(settings: "Settings", since_s: float) -> "Fitted":
    from firsttoken.happened import read_ground, read_happened
    from schedules.fitting.fit import fit as fit_world

    now_s = time.time()
    happened = await read_happened(settings, now_s - since_s, now_s)
    models = {start.model for start in happened.starts} | {each.model for each in happened.asked}
    ground = await read_ground(settings, models)
    return await asyncio.to_thread(fit_world, happened, ground)
