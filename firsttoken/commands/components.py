"""Commands that run one component in the foreground."""

from typing import Annotated

import typer

from firsttoken.commands.options import Config, load


def scheduler(config: Config = None) -> None:
    """Run the Dask scheduler that nodes and front ends meet at."""
    from firsttoken.components import run_scheduler

    run_scheduler(load(config))


def node(
    name: Annotated[str, typer.Option(help="The node's name, unique in the cluster; its SSD folder is named so too.")],
    config: Config = None,
) -> None:
    """Run a node: its agent, its tiers and its stage processes.

    Example: firsttoken node --name node-1
    """
    from firsttoken.components import run_node

    run_node(load(config), name)


def frontend(config: Config = None) -> None:
    """Run the HTTP front end, an OpenAI-compatible API."""
    from firsttoken.components import run_frontend

    run_frontend(load(config))


def flows(config: Config = None) -> None:
    """Run the flow service: prewarming and publishing through Prefect."""
    from firsttoken.components import run_flows

    run_flows(load(config))


def prefect(config: Config = None) -> None:
    """Run a Prefect server that keeps its data in the home."""
    from firsttoken.components import run_prefect

    run_prefect(load(config))
