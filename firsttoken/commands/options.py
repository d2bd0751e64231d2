"""Options and consoles that several commands share. Imported by --help too, so it stays light."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from firsttoken.settings import Settings
    from storage_tiers.remote import ModelStore

Config = Annotated[
    Path | None,
    typer.Option(
        help="Settings file (TOML). Without it: $FIRSTTOKEN_CONFIG, else firsttoken.toml in the home.", metavar="PATH"
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a script to read.")]


def load(config: Path | None) -> "Settings":
    """The settings that hold for this command."""
    from firsttoken.settings import load_settings

    return load_settings(config)


def open_store(settings: "Settings") -> "ModelStore":
    """The store that the settings name."""
    from storage_tiers.remote import ModelStore, ObjectStore

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
