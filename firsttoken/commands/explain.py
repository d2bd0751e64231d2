"""The command that tells why a model starts where it starts."""

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from firsttoken.commands.models import Model
from firsttoken.commands.options import AsJson, Config, load, print_json, stdout

if TYPE_CHECKING:
    from firsttoken.settings import Settings


def explain(
    model: Model,
    limit: Annotated[int, typer.Option(min=1, max=256, help="Show that many of the last cold starts.")] = 10,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Show where a model would start now and why, and how its last cold starts came out against what was predicted.

    Nothing is started.

    Example: firsttoken explain smollm2 --limit 3
    """
    report = asyncio.run(_explain(load(config), model, limit))
    if as_json:
        print_json(report)
        return
    from firsttoken.frontend import starts_of
    from firsttoken.views.explanation import explanation

    stdout().print(explanation(report, starts_of(report)))


async def _explain(settings: "Settings", model: str, limit: int) -> dict[str, Any]:
    from firsttoken.reached import frontend_of

    async with frontend_of(settings, request_timeout_s=10.0) as frontend:
        return await frontend.explain(model, limit)
