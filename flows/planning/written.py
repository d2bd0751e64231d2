"""A plan as files: the report, all of it as JSON, and a settings file for each type of machine. Whole, or not at all."""

import json
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from flows.capacity.page import page, toml
from flows.errors import Unclear
from schedules.capacity.plan import Plan
from schedules.capacity.spoken import to_json
from storage_tiers.plain_files import whole


@dataclass(frozen=True)
class Written:
    """Where the files of a plan are; `settings` by type of machine."""

    report: Path
    document: Path
    settings: dict[str, Path]


def check_prefix(prefix: Path) -> None:
    """Unclear if no files can be written there: better before all is played than after."""
    if not prefix.name or prefix.name in (".", ".."):
        raise Unclear(f"{prefix} has no name that files could begin with")
    if not prefix.parent.is_dir():
        raise Unclear(f"there is no folder {prefix.parent} for what is written")


def write(plan: Plan, prefix: Path, now: datetime) -> Written:
    """PREFIX.html, PREFIX.json and PREFIX-TYPE.toml, over those that are there. OSError if they cannot be written."""
    report, document = (prefix.with_name(f"{prefix.name}.{ending}") for ending in ("html", "json"))
    settings = {kind: prefix.with_name(f"{prefix.name}-{_as_file(kind)}.toml") for kind in plan.settings}
    _put(document, json.dumps(to_json(plan), indent=2) + "\n")
    for kind, path in settings.items():
        heading = f"# For each machine of the type {_as_file(kind)}, as planned. What else is set stays as it is.\n\n"
        _put(path, f"{heading}{toml(plan.settings[kind])}\n")
    _put(report, page(plan, f"{now:%Y-%m-%d %H:%M} UTC"))
    return Written(report, document, settings)


def _as_file(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:100]


def _put(path: Path, text: str) -> None:
    with whole(path) as file:
        file.write(text.encode())
