"""Fitted worlds on disk: JSON, written whole or not at all."""

import json
import os
from pathlib import Path

from firsttoken.errors import FirsttokenError
from schedules.fitting.errors import BadWorld
from schedules.fitting.fitted import Fitted
from schedules.fitting.world_file import from_json, to_json

_LARGEST_BYTES = 256 << 20


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
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(json.dumps(to_json(world), indent=1) + "\n", encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def load(path: Path) -> Fitted:
    """The world of a file. BadWorld if it holds none."""
    if path.stat().st_size > _LARGEST_BYTES:
        raise BadWorld(f"{path} is too large for a world")
    try:
        return from_json(json.loads(path.read_text(encoding="utf-8")))
    except BadWorld as error:
        raise BadWorld(f"{path}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise BadWorld(f"{path} is no JSON: {error}") from error
