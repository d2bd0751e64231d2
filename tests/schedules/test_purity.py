"""schedules decides and does nothing else: what it imports is read from its source."""

import ast
import sys
from pathlib import Path

import pytest

import schedules

_FOLDER = Path(schedules.__file__).parent
_SOURCES = sorted(_FOLDER.glob("**/*.py"))
_IMPURE = {
    "asyncio", "datetime", "io", "logging", "multiprocessing", "os", "pathlib", "random", "secrets", "selectors",
    "shutil", "signal", "socket", "sqlite3", "subprocess", "tempfile", "threading", "time", "urllib", "uuid",
}  # fmt: skip


def _imported(path: Path) -> set[str]:
    """Top-level names of the packages that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found.add((node.module or "").split(".")[0])
    return found


@pytest.mark.parametrize("path", _SOURCES, ids=lambda path: path.stem)
def test_only_the_standard_library_and_numpy_are_imported(path: Path) -> None:
    assert _imported(path) <= sys.stdlib_module_names | {"numpy", "schedules"}


@pytest.mark.parametrize("path", _SOURCES, ids=lambda path: path.stem)
def test_no_clock_no_chance_no_socket_no_environment(path: Path) -> None:
    assert not _imported(path) & _IMPURE


@pytest.mark.parametrize("path", _SOURCES, ids=lambda path: path.stem)
def test_nothing_is_opened_or_printed(path: Path) -> None:
    called = {
        node.func.id
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not called & {"open", "print", "input", "exec", "eval", "__import__"}
