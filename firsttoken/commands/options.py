"""Options and consoles that several commands share. Imported by --help too, so it stays light."""

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

MOST_TOKENS = 100_000_000

if TYPE_CHECKING:
    from rich.console import Console

    from firsttoken.settings import Settings
    from storage_tiers.model_store import ModelStore

Config = Annotated[
    Path | None,
    typer.Option(
        help="Settings file (TOML). Without it: $FIRSTTOKEN_CONFIG, else firsttoken.toml in the home.", metavar="PATH"
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a script to read.")]


def finite(value: float | None) -> float | None:
    """A callback of options: nan is within all bounds, and what is reckoned with it is neither long nor short."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number")
    return value


def node_name(value: str) -> str:
    """A callback of options: a name that can be a folder's and a worker's."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", value) is None:
        raise typer.BadParameter(
            "a name has letters, digits, '.', '_' and '-', at most 63, and begins with one of the first"
        )
    return value


def load(config: Path | None) -> "Settings":
    """The settings that hold for this command."""
    from firsttoken.settings import load_settings

    return load_settings(config)


def open_store(settings: "Settings") -> "ModelStore":
    """The store that the settings name."""
    from storage_tiers.model_store import ModelStore
    from storage_tiers.object_store import ObjectStore

    return ModelStore(ObjectStore(settings.store.url, settings.store.options, settings.store.reader))


def stdout() -> "Console":
    """Where results go."""
    from rich.console import Console

    return Console()


def stderr() -> "Console":
    """Where progress and notes go."""
    from rich.console import Console

    return Console(stderr=True)


def print_json(value: object) -> None:
    """One JSON document on standard output."""
    import json

    typer.echo(json.dumps(value, indent=2))
