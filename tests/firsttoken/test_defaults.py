"""The default of a setting stands once, where the setting does: whoever is told its value has none of his own."""

import ast
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.node.config import NodeConfig
from firsttoken.settings import sections, setting_names
from flows.context import FlowContext
from flows.service import ServiceConfig
from schedules.objectives import Objectives
from serving.app import FrontendConfig
from serving.router import RouterLimits

ROOT = Path(__file__).parents[2]
PACKAGES = ("schedules", "storage_tiers", "cluster", "serving", "flows", "firsttoken")
TOLD = (NodeConfig, FrontendConfig, RouterLimits, Objectives, FlowContext, ServiceConfig)
NO_SETTINGS = {"ServiceConfig.query_interval_s", "ServiceConfig.concurrent_runs"}
WORDS = {"host", "url", "models", "nodes", "name", "level", "options", "port", "priority", "tier"}
"""Of settings, but said of much else too; values that processes are told have no defaults under any name."""
OWN = {
    "storage_tiers/object_store.py: reader": "whoever opens a store by itself takes the fastest way there is",
}


@pytest.mark.parametrize("kind", TOLD, ids=lambda kind: kind.__name__)
def test_what_a_process_is_told_has_no_default(kind: type) -> None:
    """The front end had a length of answers and days of history of its own, beside those of the settings: a default that was
    changed in one place was not in the other, and nothing told."""
    defaults = {
        f"{kind.__name__}.{field.name}"
        for field in dataclasses.fields(kind)
        if field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
    }
    assert defaults <= NO_SETTINGS


def test_every_class_whose_values_settings_give_is_looked_at() -> None:
    """Whatever firsttoken.components makes of settings, but for what has no fields of theirs."""
    tree = ast.parse((ROOT / "firsttoken" / "components.py").read_text())
    made = {
        node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
    }
    classes = {name for name in made if re.fullmatch(r"[A-Z]\w*(Config|Context|Limits)|Objectives", name)}
    assert classes <= {kind.__name__ for kind in TOLD}
    assert len(classes) >= 5


def test_no_default_under_the_name_of_a_setting_stands_a_second_time() -> None:
    """Fields and parameters that are called as a setting is, with a default that says something."""
    keys = {key for kind in sections().values() for key in kind.model_fields}
    names = (keys | {name.replace(".", "_") for name in setting_names()}) - WORDS
    found = {
        f"{path.relative_to(ROOT)}: {name}"
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        if path != ROOT / "firsttoken" / "settings" / "sections.py"
        for name, value in _defaults(ast.parse(path.read_text()))
        if name in names and not (isinstance(value, ast.Constant) and value.value is None)
    }
    assert found == set(OWN)


def _defaults(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    """Names of parameters and of classes' fields that have a default, with it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            arguments = node.args
            positional = [*arguments.posonlyargs, *arguments.args]
            with_default = positional[len(positional) - len(arguments.defaults) :]
            yield from ((a.arg, d) for a, d in zip(with_default, arguments.defaults, strict=True))
            yield from ((a.arg, d) for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if d)
        elif isinstance(node, ast.ClassDef):
            for line in node.body:
                match line:
                    case ast.AnnAssign(target=ast.Name(name), value=ast.expr() as value) if not _says_no_value(value):
                        yield name, value


def _says_no_value(value: ast.expr) -> bool:
    """A dataclass's field of which only the habits are set."""
    return (
        isinstance(value, ast.Call)
        and ast.unparse(value.func) == "field"
        and not {keyword.arg for keyword in value.keywords} & {"default", "default_factory"}
    )
