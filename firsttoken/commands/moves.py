"""Commands that move replicas between nodes while they answer, and free nodes."""

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from firsttoken.commands.models import Model
from firsttoken.commands.options import AsJson, Config, finite, load, print_json, stderr, stdout

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from firsttoken.frontend import Frontend
    from firsttoken.settings import Settings

Node = Annotated[str, typer.Argument(help="Name of a node; see `firsttoken status`.", show_default=False)]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Order it, and do not wait for its end.")]
Timeout = Annotated[
    float, typer.Option(help="Seconds to wait for its end; it goes on after that.", min=1, max=86_400, callback=finite)
]
_LOOK_EVERY_S = 0.2
_WITHIN_S = 600.0


def drain(
    node: Node, no_wait: NoWait = False, timeout: Timeout = _WITHIN_S, as_json: AsJson = False, config: Config = None
) -> None:
    """Have everything leave a node, so that it can be stopped: answers go on elsewhere, and nobody notices.

    Nothing new goes there until `firsttoken undrain`. What finds no room elsewhere ends where it is.

    Example: firsttoken drain node-2
    """
    _move(load(config), {"kind": "drain", "node": node}, no_wait, timeout, as_json)
    if not no_wait and not as_json:
        typer.echo(f"{node} runs nothing any more, and takes nothing until `firsttoken undrain {node}`.", err=True)


def undrain(node: Node, config: Config = None) -> None:
    """Let a node that was drained take replicas again.

    Example: firsttoken undrain node-2
    """
    asyncio.run(_undrain(load(config), node))
    typer.echo(f"{node} takes replicas again.", err=True)


def migrate(
    model: Model,
    node: Node,
    request: Annotated[str, typer.Option(help="Only this request, by its answer's id.", show_default=False)] = "",
    group: Annotated[
        str, typer.Option(help="Which of several replicas; see `firsttoken status --json`.", show_default=False)
    ] = "",
    no_wait: NoWait = False,
    timeout: Timeout = _WITHIN_S,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Have a model's replica go on at another node, with all that it answers; or one of its requests.

    Example: firsttoken migrate smollm2 node-2
    """
    body = {"kind": "migrate", "model": model, "node": node, "group": group, "request": request}
    _move(load(config), body, no_wait, timeout, as_json)


def consolidate(
    model: Model,
    node: Annotated[str, typer.Option(help="Where it becomes one (default: the best).", show_default=False)] = "",
    no_wait: NoWait = False,
    timeout: Timeout = _WITHIN_S,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Have a model that runs as a pipeline over several nodes become one whole replica, while it answers.

    The front end does so by itself where it pays, unless frontend.consolidate is false.

    Example: firsttoken consolidate smollm2 --node node-1
    """
    _move(load(config), {"kind": "consolidate", "model": model, "node": node}, no_wait, timeout, as_json)


def moves(
    limit: Annotated[int, typer.Option(min=1, max=256, help="Show that many.")] = 20,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Show what moved lately and what is moving: why, where to, and what its clients had of it.

    Example: firsttoken moves --limit 5
    """
    found = asyncio.run(_moves(load(config), limit))
    if as_json:
        print_json(found)
        return
    from firsttoken.views.moves import moves_table

    if found:
        stdout().print(moves_table(found))
    else:
        typer.echo("nothing has moved yet", err=True)


def _move(settings: "Settings", body: Mapping[str, str], no_wait: bool, timeout_s: float, as_json: bool) -> None:
    """Order a move and, unless it is not waited for, show how it goes. MoveFailed if it came to nothing, or not in time."""
    ordered: list[str] = []
    try:
        found = asyncio.run(_carried(settings, body, None if no_wait else timeout_s, ordered))
    except KeyboardInterrupt:
        for name in ordered:
            typer.echo(f"\nmove {name} goes on: see `firsttoken moves`", err=True)
        raise
    if as_json:
        print_json(found)
    elif no_wait:
        typer.echo(f"move {found['move']} is ordered: {found['reason']}; see `firsttoken moves`", err=True)
    else:
        from firsttoken.views.moves import move_table

        stdout().print(move_table(found))


async def _carried(
    settings: "Settings", body: Mapping[str, str], timeout_s: float | None, ordered: list[str]
) -> Mapping[str, Any]:
    """The move at its end; as it was ordered if it is not waited for. Its name is in `ordered` as soon as there is one."""
    from firsttoken.errors import MoveFailed
    from firsttoken.views.moves import ENDED, GIVEN_UP, MoveLine, sentence

    async with _operating(settings) as frontend:
        move = await frontend.wish({name: value for name, value in body.items() if value})
        ordered.append(move["move"])
        if timeout_s is None:
            return move
        with MoveLine(stderr()) as line:
            try:
                async with asyncio.timeout(timeout_s):
                    while move["step"] not in ENDED:
                        line.show(move)
                        await asyncio.sleep(_LOOK_EVERY_S)
                        move = await frontend.move(move["move"])
            except TimeoutError as error:
                raise MoveFailed(
                    f"move {move['move']} is still {sentence(move)} after {timeout_s:g} s; it goes on, "
                    "see `firsttoken moves`"
                ) from error
    if move["step"] == GIVEN_UP:
        raise MoveFailed(f"move {move['move']} was given up: {move['why']}")
    return move


async def _undrain(settings: "Settings", node: str) -> None:
    async with _operating(settings) as frontend:
        await frontend.undrain(node)


async def _moves(settings: "Settings", limit: int) -> list[dict[str, Any]]:
    async with _operating(settings) as frontend:
        return await frontend.moves(limit)


def _operating(settings: "Settings") -> "AbstractAsyncContextManager[Frontend]":
    from firsttoken.local import running_settings
    from firsttoken.operator_key import operator_key
    from firsttoken.reached import frontend_of

    return frontend_of(settings, request_timeout_s=10.0, key=operator_key(running_settings(settings)))
