"""How tests are spread: what takes longest begins first."""

import subprocess
import sys
from pathlib import Path

from tests.workers import LONGEST, TOGETHER, arrange


def test_the_longest_begin_first_and_the_others_stay_as_they_are() -> None:
    shared = TOGETHER[LONGEST[0]]
    nodeids = ["tests/docs/a.py::b", "tests/docs/a.py::a", f"{LONGEST[-1]}::c", f"{shared[0]}::d", "tests/docs/b.py::e",
               f"{shared[1]}::f"]  # fmt: skip
    assert [nodeids[index] for index in arrange(nodeids)] == [nodeids[index] for index in (3, 5, 2, 0, 1, 4)]


def test_what_is_named_is_there() -> None:
    """A file that was renamed would be begun last, or beside what it must not meet."""
    files = [unit for unit in LONGEST if unit not in TOGETHER] + [file for files in TOGETHER.values() for file in files]
    assert [file for file in files if not (Path(__file__).parents[1] / file).is_file()] == []


def test_who_dies_of_a_test_fails_it_once_and_the_others_are_run(tmp_path: Path) -> None:
    """A run waited for ever: a worker that had done some files died, and the next got those again, with nothing to do."""
    (tmp_path / "conftest.py").write_text(
        "from tests.workers import ByFile\n\n"
        "def pytest_xdist_make_scheduler(config, log):\n    return ByFile(config, log)\n"
    )
    fine = "def test_one():\n    pass\n\ndef test_two():\n    pass\n"
    for name in "abcdegh":
        (tmp_path / f"test_{name}.py").write_text(fine)
    (tmp_path / "test_f.py").write_text("import os\n\ndef test_dies():\n    os._exit(1)\n\n" + fine)
    root = Path(__file__).parents[1]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-n",
        "1",
        "-q",
        "-p",
        "xdist.plugin",
        "-p",
        "no:cacheprovider",
        "-c",
        "/dev/null",
        str(tmp_path),
    ]
    done = subprocess.run(
        command,
        env={"PYTHONPATH": str(root), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert "1 failed, 16 passed" in done.stdout, done.stdout
