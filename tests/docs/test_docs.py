"""The documents name what there is, and only that."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest
import typer.main
from fastapi.routing import APIRoute

from firsttoken.cli import app as cli
from firsttoken.settings import Settings, load_settings, sections, setting_names
from firsttoken.world_files import save
from flows import events
from infra.lab.__main__ import parser as lab_parser
from infra.lab.console import HELP as LAB_HELP
from schedules import lifecycle
from schedules.actions import Action
from schedules.events import Event
from schedules.fitting.fitted import Fitted
from schedules.foresight.cadence import FLOWS
from schedules.lifecycle import State
from schedules.moving import steps
from schedules.simulation.scenario import Scenario
from schedules.world.habits import Habits
from serving import errors
from serving.app import create_app
from serving.embedding.schemas import EmbeddingRequest
from serving.metrics import Metrics
from serving.requests.responses import ResponsesRequest
from serving.requests.schemas import ChatRequest, CompletionRequest
from storage_tiers.layouts import SUPPORTED
from tests.told import frontend_config

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "infra/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
TEXT = "\n".join(path.read_text() for path in DOCUMENTS)
API = (ROOT / "docs" / "api.md").read_text()
SERVICES = sorted((ROOT / "infra" / "systemd").glob("*.service"))
COMPONENTS = {"scheduler", "node", "frontend", "prefect", "flows"}
FORBIDDEN = r"\b(TODO|FIXME|TBD|XXX|lorem ipsum|coming soon|fill in)\b|@[A-Z0-9]+@"


def _commands() -> dict[str, set[str]]:
    """Every command with its options."""
    found = {}
    for name, command in typer.main.get_command(cli).commands.items():  # type: ignore[attr-defined]
        found[name] = {option for parameter in command.params for option in parameter.opts}
        for below, inner in getattr(command, "commands", {}).items():
            found[f"{name} {below}"] = {option for parameter in inner.params for option in parameter.opts}
    found["lab"] |= {option for action in lab_parser()._actions for option in action.option_strings}
    return found


@pytest.mark.parametrize("command", sorted(_commands()))
def test_every_command_is_named(command: str) -> None:
    assert f"firsttoken {command}" in TEXT


def test_commands_that_are_shown_exist_with_their_options() -> None:
    commands = _commands()
    shown = [line for block in _blocks("") for line in block.splitlines()] + re.findall(r"`([^`\n]+)`", TEXT)
    found = [match[1] for text in shown if (match := re.match(r"(?:\S+=\S+ )*(?:\S*/)?firsttoken ([a-z].*)", text))]
    assert len(found) >= 15
    for text in found:
        words = re.sub(r'"[^"]*"|#.*', "", text).split()
        name = next(name for name in (" ".join(words[:2]), words[0]) if name in commands)
        assert {word for word in words if word.startswith("--")} <= commands[name] | {"--help"}, text


def test_every_option_of_the_lab_and_all_that_it_obeys_is_named() -> None:
    text = (ROOT / "docs" / "operating.md").read_text()
    assert all(f"| `{option}` |" in text for option in _commands()["lab"] - {"-h", "--help"})
    assert all(re.search(rf"`{line.split()[0]}[ `]", text) for line in LAB_HELP.splitlines())


def test_settings_that_are_named_exist() -> None:
    known = set(setting_names())
    for section, key in re.findall(r"`([a-z]+)\.([a-z_]+)`", TEXT):
        assert section not in sections() or f"{section}.{key}" in known
    for section, key in re.findall(r"\bFIRSTTOKEN_([A-Z]+)__([A-Z_]+)=", TEXT):
        assert f"{section}.{key}".lower() in known | {"section.key"}


def _blocks(language: str, text: str = TEXT) -> list[str]:
    """The fenced blocks of a language, as written."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [block for name, block in fenced if name == language]


def test_every_route_is_named(tmp_path: Path) -> None:
    app = create_app(frontend_config(store_url=f"file://{tmp_path}"))
    routes = [route for route in _routes(app) if not route.path.startswith(("/docs", "/openapi", "/redoc"))]
    assert len(routes) >= 8
    for route in routes:
        for method in route.methods:
            assert f"`{method} {route.path.replace(':path', '')}`" in API


def test_every_field_of_a_request_is_named() -> None:
    requests = (ChatRequest, CompletionRequest, EmbeddingRequest, ResponsesRequest)
    for field in {name for request in requests for name in request.model_fields}:
        assert f"`{field}`" in API or f"`{field}." in API, field


def test_every_error_is_listed_with_its_status() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and getattr(kind, "code", None)]
    assert len(kinds) >= 6
    for kind in kinds:
        assert f"| {kind.status} | `{kind.code}` |" in API


def test_every_state_of_a_replica_is_named() -> None:
    assert all(state in API for state in State)


def _routes(app: object) -> list[APIRoute]:
    found: list[APIRoute] = []
    for route in app.routes:  # type: ignore[attr-defined]
        if isinstance(route, APIRoute):
            found.append(route)
        elif hasattr(route, "original_router"):
            found += _routes(route.original_router)
    return found


def test_every_metric_is_named() -> None:
    families = list(Metrics().registry.collect())
    assert len(families) >= 9
    for family in families:
        name = f"{family.name}_total" if family.type == "counter" else family.name
        assert f"`{name}`" in API


def test_every_room_of_the_house_is_on_the_map_and_every_file_there_is_one() -> None:
    """Files moved into rooms and took other names, and the map went on showing them where nobody found them."""
    rows = re.findall(r"^\| `([a-z_/]+/)` \|(.*)\|$", (ROOT / "docs" / "how-it-works.md").read_text(), re.MULTILINE)
    packages = {room.partition("/")[0] for room, _ in rows}
    found = {f"{file.parent.relative_to(ROOT)}/" for name in packages for file in (ROOT / name).rglob("__init__.py")}
    assert {room for room, _ in rows} == found - {"schedules/placing/policies/"}
    assert packages == {"firsttoken", "serving", "flows", "cluster", "schedules", "storage_tiers"}
    for room, row in rows:
        for file in re.findall(r"`([\w/]+\.py)`", row):
            assert (ROOT / room / file).is_file(), f"{room}{file}"


def test_every_flow_is_named() -> None:
    named = (ROOT / "docs" / "how-it-works.md").read_text()
    assert set(FLOWS) <= set(re.findall(r"`(\w+)`", named))
    assert set(FLOWS) <= set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "operating.md").read_text(), re.MULTILINE))


def test_every_event_is_named() -> None:
    told = {events.COLD_START, events.MOVE_ORDERED, events.MOVE_DONE, events.MOVE_GIVEN_UP}
    nodes = {events.NODE + what for what in ("drained", "undrained", "left")}
    text = (ROOT / "docs" / "operating.md").read_text()
    named = re.findall(r"`(firsttoken\.(?:cold-start|move\.[a-z-]+|node\.[a-z]+))`", text)
    assert set(named) == told | nodes


def test_every_benchmark_is_described() -> None:
    text = (ROOT / "docs" / "benchmarks.md").read_text()
    scripts = [path.name for path in (ROOT / "benchmarks").glob("*.py") if "def main()" in path.read_text()]
    for script in set(scripts) - {"__main__.py", "loading_worker.py"}:
        assert f"benchmarks/{script}" in text


def test_the_readme_tells_the_figures_that_were_measured() -> None:
    readme, measured = (ROOT / "README.md").read_text(), (ROOT / "docs" / "benchmarks.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)`.*? \| ([\d.]+) s \|", measured, re.MULTILINE))
    told = re.findall(
        r"^\| \**(?:degree )?(\w+)\**[^|]* \| (?:\**([\d.]+) s[^|]*)? ?\| ([\d.]+) s \|$", readme, re.MULTILINE
    )
    names = {"1": "ttft_cold_degree1_s", "2": "ttft_cold_degree2_s", "4": "ttft_cold_degree4_s", "warm": "ttft_warm_s"}
    assert {row: here for row, _, here in told} == {row: f"{float(rows[name]):.2f}" for row, name in names.items()}
    wires = re.findall(r"^\| \**degree (\d)\** \| \**([\d.]+) s\** \|", measured, re.MULTILINE)
    assert {row: wire for row, wire, _ in told if wire} == {degree: f"{float(s):.1f}" for degree, s in wires}
    floors = [rows[f"runtime_floor{suffix}_s"] for suffix in ("_degree1", "_degree2", "")]
    assert " / ".join(f"{float(floor):.2f}" for floor in floors) + " s" in readme
    assert f"being ready | | **{rows['up_ready_s']} s** |" in readme


def test_the_targets_of_make_are_named_and_no_others() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make ([a-z-]+)", TEXT, re.MULTILINE)) == targets - {"help"}


def test_ci_runs_what_the_documents_promise() -> None:
    steps = (ROOT / ".github" / "workflows" / "ci.yml").read_text() + (ROOT / ".ci" / "run").read_text()
    assert {"make check", "make test", "make demo"} <= set(re.findall(r"make [a-z]+", steps))


def test_the_diagrams_of_states_are_the_tables() -> None:
    text = (ROOT / "docs" / "how-it-works.md").read_text()
    assert lifecycle.draw() in text
    assert steps.draw() in text


def test_the_life_of_a_request_is_told_in_the_brains_words() -> None:
    text = (ROOT / "docs" / "how-it-works.md").read_text()
    (diagram,) = [block for block in _blocks("mermaid", text) if "participant B as brain" in block]
    told = set(re.findall(r"R->>B: (\w+)", diagram))
    ordered = {word for words in re.findall(r"B-->>R: ([^(\n]+)", diagram) for word in words.strip().split(", ")}
    assert told <= {kind.__name__ for kind in get_args(Event)}
    assert ordered <= {kind.__name__ for kind in get_args(Action)}
    assert len(told) >= 6
    assert len(ordered) >= 8


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    text = document.read_text()
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", text):
        if "://" in target:
            continue
        file = document.parent / target if target else document
        assert file.exists(), target
        assert not anchor or anchor in _anchors(file.read_text()), f"{target}#{anchor}"


def _anchors(text: str) -> set[str]:
    """The headings as GitHub makes links of them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_snippets_parse_and_nothing_is_left_to_fill_in(document: Path) -> None:
    text = document.read_text()
    for snippet in _blocks("python", text):
        compile(snippet, document.name, "exec")
    for snippet in _blocks("toml", text):
        Settings.model_validate(tomllib.loads(snippet))
    for snippet in _blocks("json", text):
        json.loads(snippet)
    assert not re.search(FORBIDDEN, text, re.IGNORECASE)
    assert not re.search(r"^#+ .+\n+(?=## |\Z)(?!# )", text.partition("\n")[2], re.MULTILINE), "a section without text"


@pytest.mark.parametrize("service", SERVICES, ids=lambda path: path.stem)
def test_a_service_starts_a_command_that_exists_and_stays_up(service: Path) -> None:
    """A node ends with status 0 when its scheduler is gone: only `always` brings it back."""
    text, commands = service.read_text(), _commands()
    (line,) = re.findall(r"^ExecStart=/opt/firsttoken/bin/firsttoken (.*)$", text, re.MULTILINE)
    name, *arguments = line.split()
    assert service.stem.rstrip("@") == f"firsttoken-{name}"
    assert {argument for argument in arguments if argument.startswith("--")} <= commands[name]
    assert "Restart=always" in text


def test_every_component_has_a_service() -> None:
    assert (
        {service.stem.removeprefix("firsttoken-").rstrip("@") for service in SERVICES} == COMPONENTS <= set(_commands())
    )


def test_nobody_kills_a_node_while_it_waits_for_its_stages_to_go() -> None:
    (node,) = [service.read_text() for service in SERVICES if service.stem == "firsttoken-node@"]
    (stop_s,) = re.findall(r"^TimeoutStopSec=(\d+)$", node, re.MULTILINE)
    settings = load_settings(ROOT / "infra" / "systemd" / "firsttoken.toml", environment={})
    assert int(stop_s) >= settings.node.grace_s + 10
    assert f"TimeoutStopSec={stop_s}" in (ROOT / "docs" / "operating.md").read_text()


def test_a_process_that_is_out_of_memory_does_not_end_its_component() -> None:
    """systemd's default is to stop the whole unit."""
    texts = {service.stem: service.read_text() for service in SERVICES}
    made_of_several = ("firsttoken-node@", "firsttoken-frontend", "firsttoken-flows")
    assert all("\nOOMPolicy=continue\n" in texts[name] for name in made_of_several)


def test_the_families_are_those_that_are_served() -> None:
    operating = (ROOT / "docs" / "operating.md").read_text()
    (listed,) = re.findall(r"^Families: ([\w,\s]+);", operating, re.MULTILINE)
    assert re.findall(r"\w+", listed) == list(SUPPORTED)
    assert f"**{len(SUPPORTED)} [model families]" in (ROOT / "README.md").read_text()


def test_the_settings_of_the_services_are_accepted() -> None:
    settings = load_settings(ROOT / "infra" / "systemd" / "firsttoken.toml", environment={})
    assert settings.home == Path("/var/lib/firsttoken")
    assert all(f"StateDirectory={settings.home.name}" in service.read_text() for service in SERVICES)


def test_the_scenario_that_is_shown_can_be_played(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    example, fitted = _blocks("python", (ROOT / "docs" / "simulator.md").read_text())
    names: dict[str, Any] = {}
    exec(compile(example, "simulator.md", "exec"), names)
    first, *starts = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"\d+ requests, \d+ of them cold, \d+ starts", first)
    assert any("node-2" in start for start in starts)
    assert all("node-2" not in start for start in starts if float(start.split()[0]) > 300.0)
    exec(compile(fitted, "simulator.md", "exec"), names)
    path, scenario = tmp_path / "world.json", Scenario((), (), names["trace"])
    save(Fitted((names["node"]("of mine"),), Habits(hop_s=0.5)), path)
    found = names["on_my_cluster"](scenario, path)
    assert ([node.name for node in found.nodes], found.habits.hop_s) == (["of mine"], 0.5)
