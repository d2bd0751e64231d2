"""Fitted worlds on disk: JSON, written whole or not at all."""

import json
from pathlib import Path

from firsttoken.errors import FirsttokenError
from schedules.fitting.fitted import Fitted
from schedules.fitting.world_file import to_json
from storage_tiers.plain_files import whole


def check_place(path: Path, *, force: bool) -> None:
    """FirsttokenError if no world can or may be written there."""
    if not path.parent.is_dir():
        raise FirsttokenError(f"there is no folder {path.parent}")
    if path.is_dir() or (path.exists() and not force):
        raise FirsttokenError(
            f"{path} is a folder" if path.is_dir() else f"{path} is there already: --force replaces it"
        )


def save(world: Fitted, path: Path) -> None:
    """The file, in place of one that was there."""
    with whole(path) as file:
        file.write(json.dumps(to_json(world), indent=1).encode() + b"\n")
