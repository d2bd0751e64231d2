"""The command that measures a running cluster."""

import asyncio
import os
from typing import TYPE_CHECKING

import typer

from firsttoken.commands.options import AsJson, Config, load, print_json, stdout

if TYPE_CHECKING:
    from cluster.calibration import Calibration
    from firsttoken.settings import Settings

_PREFECT_WITHIN_S = 2.0


def calibrate(as_json: AsJson = False, config: Config = None) -> None:
    """Measure how fast every node and the store are now, have the nodes report it, and show it.

    Runs the calibrate flow where Prefect's server answers; else it does the same without a record there. Nodes in the
    middle of a cold start or of loading units are waited for a little, and then left out.

    Example: firsttoken calibrate --json
    """
    from firsttoken.local import running_settings
    from firsttoken.terminal import rates_table

    found = asyncio.run(_calibrate(running_settings(load(config))))
    if as_json:
        print_json(
            {"rates": found.rows(), "store": found.store, "store_limit": found.limit, "failures": found.failures}
        )
    else:
        stdout().print(rates_table(found.rows()))
        typer.echo(found.store)
        for failure in found.failures:
            typer.echo(f"not measured: {failure}", err=True)
    if found.failures:
        raise typer.Exit(1)


async def _calibrate(settings: "Settings") -> "Calibration":
    from firsttoken.components import prepare_flows

    if await _prefect_answers(settings):
        os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")
        prepare_flows(settings)
        from flows.calibrate import calibrate as flow

        return await flow()
    from cluster.calibration import calibrate as measure
    from firsttoken.reached import cluster_of

    async with cluster_of(settings) as client:
        return await measure(client)


async def _prefect_answers(settings: "Settings") -> bool:
    import httpx

    try:
        async with httpx.AsyncClient(trust_env=False, timeout=_PREFECT_WITHIN_S) as client:
            return (await client.get(f"{settings.prefect.api_url}/health")).is_success
    except httpx.HTTPError:
        return False
