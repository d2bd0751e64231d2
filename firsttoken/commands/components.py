"""Commands that run one component in the foreground."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from firsttoken.commands.options import Config, load, node_name
from firsttoken.errors import is_expected

if TYPE_CHECKING:
    from firsttoken.settings import Settings


def _run(component: "Callable[[Settings], None]", config: Path | None) -> None:
    """Run a component to its end. Its log shows where an error that nobody expected came from."""
    try:
        component(load(config))
    except Exception as error:
        if not is_expected(error):
            logging.getLogger(__name__).exception("the component failed")
        raise


def scheduler(config: Config = None) -> None:
    """Run the Dask scheduler that nodes and front ends meet at."""
    from firsttoken.components import run_scheduler

    _run(run_scheduler, config)


def node(
    name: Annotated[
        str,
        typer.Option(
            callback=node_name, help="The node's name, unique in the cluster; its SSD folder is named so too."
        ),
    ],
    sharing: Annotated[
        int,
        typer.Option(min=1, help="How many nodes of this machine have its GPU between them; this one takes its part."),
    ] = 1,
    config: Config = None,
) -> None:
    """Run a node: its agent, its tiers and its stage processes.

    Example: firsttoken node --name node-1
    """
    from firsttoken.components import run_node

    _run(lambda settings: run_node(settings, name, sharing), config)


def frontend(config: Config = None) -> None:
    """Run the HTTP front end, an OpenAI-compatible API."""
    from firsttoken.components import run_frontend

    _run(run_frontend, config)


def flows(config: Config = None) -> None:
    """Run the flow service: prewarming and publishing through Prefect."""
    from firsttoken.components import run_flows

    _run(run_flows, config)


def prefect(config: Config = None) -> None:
    """Run a Prefect server that keeps its data in the home."""
    from firsttoken.components import run_prefect

    _run(run_prefect, config)
