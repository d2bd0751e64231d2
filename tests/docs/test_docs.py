"""The documents name what there is, and only that."""

import re
import tomllib
from pathlib import Path

import pytest
import typer.main
from fastapi.routing import APIRoute

from firsttoken.cli import app as cli
from schedules.cadence import CADENCES
from schedules.lifecycle import draw
from serving.app import FrontendConfig, create_app
from serving.metrics import Metrics

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "infra/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
TEXT = "\n".join(path.read_text() for path in DOCUMENTS)


def _commands() -> dict[str, set[str]]:
    """Every command with its options."""
    found = {}
    for name, command in typer.main.get_command(cli).commands.items():  # type: ignore[attr-defined]
        found[name] = {option for parameter in command.params for option in parameter.opts}
        for below, inner in getattr(command, "commands", {}).items():
            found[f"{name} {below}"] = {option for parameter in inner.params for option in parameter.opts}
    return found


@pytest.mark.parametrize("command", sorted(_commands()))
def test_every_command_is_named(command: str) -> None:
    assert f"firsttoken {command}" in TEXT


def test_every_route_is_named(tmp_path: Path) -> None:
    app = create_app(FrontendConfig("127.0.0.1", 0, "tcp://127.0.0.1:1", f"file://{tmp_path}"))
    api = (ROOT / "docs" / "api.md").read_text()
    routes = [route for route in _routes(app) if not route.path.startswith(("/docs", "/openapi", "/redoc"))]
    assert len(routes) >= 8
    for route in routes:
        (method,) = route.methods
        assert f"`{method} {route.path.replace(':path', '')}`" in api


def _routes(app: object) -> list[APIRoute]:
    found: list[APIRoute] = []
    for route in app.routes:  # type: ignore[attr-defined]
        if isinstance(route, APIRoute):
            found.append(route)
        elif hasattr(route, "original_router"):
            found += _routes(route.original_router)
    return found


def test_every_metric_is_named() -> None:
    api = (ROOT / "docs" / "api.md").read_text()
    families = list(Metrics().registry.collect())
    assert len(families) >= 9
    for family in families:
        name = f"{family.name}_total" if family.type == "counter" else family.name
        assert name in api


def test_every_flow_is_named() -> None:
    named = (ROOT / "docs" / "how-it-works.md").read_text()
    assert {cadence.flow for cadence in CADENCES} <= set(re.findall(r"`(\w+)`", named))
    assert all(f"`{path.stem}`" in named for path in (ROOT / "flows").glob("p*.py"))


def test_every_benchmark_is_described() -> None:
    text = (ROOT / "docs" / "benchmarks.md").read_text()
    scripts = [path.name for path in (ROOT / "benchmarks").glob("*.py") if "def main()" in path.read_text()]
    for script in set(scripts) - {"__main__.py", "loading_worker.py"}:
        assert f"benchmarks/{script}" in text


def test_make_targets_that_are_named_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:`|^)make ([a-z]+)", TEXT, re.MULTILINE))
    assert named
    assert named <= targets


def test_the_diagram_of_states_is_the_table() -> None:
    assert draw() in (ROOT / "docs" / "how-it-works.md").read_text()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    text = document.read_text()
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        if "://" not in target:
            assert (document.parent / target).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_snippets_parse_and_nothing_is_left_to_fill_in(document: Path) -> None:
    text = document.read_text()
    for language, snippet in re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL):
        if language == "python":
            compile(snippet, document.name, "exec")
        elif language == "toml":
            tomllib.loads(snippet)
    assert not re.search(r"\b(TODO|FIXME|TBD)\b|@[A-Z0-9]+@", text)


def test_services_start_commands_that_exist() -> None:
    commands = _commands()
    services = sorted((ROOT / "infra" / "systemd").glob("*.service"))
    assert len(services) == 5
    for service in services:
        (line,) = re.findall(r"^ExecStart=/opt/firsttoken/bin/firsttoken (.*)$", service.read_text(), re.MULTILINE)
        name, *arguments = line.split()
        assert {argument for argument in arguments if argument.startswith("--")} <= commands[name]
