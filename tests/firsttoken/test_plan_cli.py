"""Plans asked for at the command line, as a person or a script does it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from firsttoken.ports import free_port
from firsttoken.settings import load_settings
from flows.trace_files import save
from schedules.capacity.spoken import from_json
from schedules.traces.lineup import numbered
from schedules.traces.synthesis import Recipe, synthesise
from tests.firsttoken.command_line import Done, clean_environment, run_here

pytestmark = pytest.mark.timeout(180)

TYPES = """
[small]
price_per_h = 1
device_bytes = "24GB"
dram_bytes = "50GB"
ssd_bytes = "400GB"
rates = {nic = 1.25e9, ssd = 3e9, decode = 4e11, prefill = 5e13, formed.1 = 0.3, formed.2 = 0.4}
"""

MADE_UP = ("--rate", "1", "--duration", "5min")

Run = Callable[..., Done]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Of commands, with a home of their own in which no platform runs."""
    own = {"FIRSTTOKEN_HOME": str(tmp_path / "home"), "FIRSTTOKEN_FRONTEND__PORT": str(free_port()), "COLUMNS": "140"}
    return {**clean_environment(), **own}


@pytest.fixture
def run(environment: dict[str, str]) -> Run:
    """Asks for a plan."""
    return lambda *arguments: run_here(("plan", *map(str, arguments)), environment)


@pytest.fixture
def asked(tmp_path: Path) -> tuple[str, ...]:
    """Options of a small question: forty requests for two models of 3 billion weights on machines that have room for one or
    two of them."""
    trace = synthesise(Recipe(numbered(2, ["100:0.5/10:0.5"]), 0.2, 200.0, max_tokens=32), seed=1)
    save(trace, tmp_path / "small.npz")
    (tmp_path / "types.toml").write_text(TYPES)
    return (
        "--trace", str(tmp_path / "small.npz"), "--nodes", str(tmp_path / "types.toml"), "--models", "3b", "--slo-ttft", "8s",
        "--most-machines", "3", "--dram", "1", "--ssd", "1", "--out", str(tmp_path / "plan"), "--jobs", "2",
    )  # fmt: skip


def kept(home: Path) -> list[str]:
    """Names of the jobs that were played, as they are kept."""
    (file,) = (home / "plans").glob("*.jsonl")
    return [json.loads(line)["job"]["name"] for line in file.read_text().splitlines()]


def test_a_plan_is_shown_written_and_played_again_only_where_what_was_kept_is_damaged(
    run: Run, asked: tuple[str, ...], tmp_path: Path
) -> None:
    done = run(*asked)
    assert done.returncode == 0, done.stderr
    for words in ("small for $", "Attainment against cost", "→", "$1.00", "a machine lost", "what binds", "like 3b"):
        assert words in done.stdout
    plan = from_json(json.loads((tmp_path / "plan.json").read_text()))
    assert plan.chosen is not None
    assert (tmp_path / "plan.html").read_text().startswith("<!doctype html>")
    settings = load_settings(tmp_path / "plan-small.toml", {})
    assert (settings.node.dram_bytes, settings.frontend.ttft_slo_s) == (50 * 10**9, 8.0)
    assert [line for line in done.stderr.splitlines() if line.startswith("written: ")] == [
        f"written: {tmp_path / name}" for name in ("plan.html", "plan.json", "plan-small.toml")
    ]
    played = kept(tmp_path / "home")
    assert len(set(played)) == len(played) > 5
    (file,) = (tmp_path / "home" / "plans").glob("*.jsonl")
    file.write_text(file.read_text()[:-30])
    again = run(*asked, "--json")
    assert from_json(json.loads(again.stdout)) == plan
    lines = file.read_text().splitlines()
    assert len(lines) == len(played) + 1
    assert json.loads(lines[-1])["job"]["name"] == played[-1]


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "sigterm"])
def test_who_stops_it_is_told_that_nothing_is_lost(
    environment: dict[str, str], asked: tuple[str, ...], tmp_path: Path, signum: int, status: int
) -> None:
    command = [sys.executable, "-m", "firsttoken", "plan", *asked]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
    folder = tmp_path / "home" / "plans"
    try:
        while not list(folder.glob("*.jsonl")):
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.05)
        process.send_signal(signum)
        _, said = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == status
    assert "stopped; " in said
    assert said.endswith("the same command goes on from there\n")
    assert len(kept(tmp_path / "home")) >= 1
    assert not (tmp_path / "plan.html").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ((), "no front end answers at http://127.0.0.1:"),
        (("--nodes", "h100=4"), "name a trace, or rate, duration and models"),
        (("--nodes", "h100=4", "--trace", "absent.npz"), "absent.npz"),
        (("--nodes", "tpu=4", *MADE_UP, "--models", "8b"), "nothing is known of machines 'tpu'"),
        (("--nodes", "h100", *MADE_UP, "--models", "8b"), "what an hour of 'h100' costs"),
        (("--nodes", "h100=4", *MADE_UP, "--models", "9b"), "how large '9b' is"),
        (("--nodes", "h100=4", *MADE_UP, "--models", "8b", "--attainment", "7"), "up to 1, not 7"),
        (("--nodes", "l4=1", *MADE_UP, "--models", "405b", "--most-machines", "3"), "fits nowhere"),
        (("--out", "/nowhere/plan"), "there is no folder /nowhere"),
        (("--nodes", "h100=4", "--dask", "127.0.0.1:8786"), "are the nodes that serve"),
    ],
    ids=["platform", "trace", "file", "node type", "price", "model", "attainment", "size", "folder", "scheduler"],
)  # fmt: skip
def test_what_cannot_be_answered_is_one_sentence(
    run: Run, tmp_path: Path, options: tuple[str, ...], sentence: str
) -> None:
    done = run(*options)
    assert (done.returncode, done.stdout) == (1, "")
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list((tmp_path / "home").rglob("*.html"))


def test_levels_that_no_cluster_meets_are_an_answer_and_exit_status_1(
    run: Run, asked: tuple[str, ...], tmp_path: Path
) -> None:
    done = run(*asked, "--slo-tpot", "1ms")
    assert done.returncode == 1
    assert "no cluster" in done.stdout.lower()
    assert from_json(json.loads((tmp_path / "plan.json").read_text())).chosen is None
