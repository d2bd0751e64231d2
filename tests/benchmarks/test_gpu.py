"""The benchmark of a GPU, rehearsed on a CPU: every part of it, what it tells, and that nothing known is lost."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu import AMOUNTS, PARTS, Options, common, quick, until_terminated
from benchmarks.gpu_figures import Figures
from benchmarks.gpu_limits import disk_bytes_per_s
from benchmarks.gpu_models import SIZES
from benchmarks.gpu_node import Start
from cluster.node.accelerator import find_gpus
from cluster.wire.phases import Phase

ROOT = Path(__file__).parents[2]
_OPTIONS = Options(PARTS, "cpu", SIZES["tiny"], AMOUNTS["tiny"])


def _run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "benchmarks/gpu.py", *arguments]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=220, check=False)


def test_all_of_it_runs_on_a_cpu_and_every_figure_is_described() -> None:
    done = _run("--device", "cpu", "--size", "tiny", "--json", "--within", "200")
    assert done.returncode == 0, done.stderr[-4000:]
    told = json.loads(done.stdout)
    figures = {result["name"]: result for result in told["results"]}
    assert told["failed"] == []
    assert figures["gpu_greedy_equal_float32"]["value"] == 1.0
    for name in ("gpu_ttft_dram_s", "gpu_ttft_ssd_s", "gpu_ttft_remote_s", "gpu_tokens_per_s_requests16"):
        assert figures[name]["limit"] > 0
    assert any(phase["phase"] == "first step" for phase in told["phases_dram"])
    assert {phase["where"] for phase in told["phases_ssd"] if phase["phase"] == "fetch"} == {"node-0 from ssd"}
    assert {phase["where"] for phase in told["phases_remote"] if phase["phase"] == "fetch"} == {"node-0 from remote"}
    document = (ROOT / "docs" / "benchmarks.md").read_text()
    for name in figures:
        assert f"`{re.sub('requests[0-9]+', 'requestsN', name)}`" in document
    said = [json.loads(line)["what"] for line in done.stderr.splitlines() if line.startswith('{"at_s"')]
    assert figures.keys() <= set(said), "a run that is cut short would not have told it"


def test_where_there_is_no_gpu_it_says_so_and_that_is_all() -> None:
    if find_gpus().gpus:
        pytest.skip("there is a GPU")
    done = _run("--json")
    assert done.returncode == 0
    assert done.stdout.startswith("there is no GPU for this benchmark: ")
    assert done.stdout.count("\n") == 1


def test_a_part_that_fails_loses_only_itself(capsys: pytest.CaptureFixture[str]) -> None:
    figures = Figures()

    async def broken() -> None:
        figures.tell("before", 1.0, "s")
        raise ValueError("no such thing")

    async def whole() -> None:
        figures.tell("after", 2.0, "s")

    assert not asyncio.run(figures.part("broken", broken, lambda: "what the node wrote"))
    assert asyncio.run(figures.part("whole", whole))
    assert [result.name for result in figures.results] == ["before", "after"]
    assert figures.failed == ["broken"]
    said = capsys.readouterr().err
    assert "ValueError: no such thing" in said
    assert "what the node wrote" in said


def test_no_part_begins_too_late() -> None:
    figures = Figures(within_s=0.0)

    async def late() -> None:
        figures.tell("late", 1.0, "s")

    assert not asyncio.run(figures.part("late", late))
    assert (figures.results, figures.failed) == ([], ["late"])


def test_when_it_is_told_to_end_what_it_started_is_ended_first() -> None:
    ended = []

    async def run(_options: Options, _figures: Figures) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(until_terminated(run, _OPTIONS, Figures()))
    assert ended == [True]


def test_a_quick_run_measures_less_of_everything() -> None:
    less = quick(AMOUNTS["full"])
    assert less.requests == (1, 16, 64)
    assert (less.runs, less.starts, less.new_tokens) == (1, 1, 64)


def test_answers_are_compared_up_to_where_they_part() -> None:
    assert common([1, 2, 3, 4], [1, 2, 9, 4]) == 2
    assert common([1, 2], [1, 2]) == 2
    assert common([3], [4]) == 0


def test_copies_are_measured_from_the_first_byte_to_the_last_and_units_are_joined() -> None:
    phases = (
        Phase("form group", "front end", 10.0, 10.5),
        Phase("copy layers.0", "stage 0", 11.0, 12.0, 300),
        Phase("copy layers.1", "stage 0", 11.5, 13.0, 500),
    )
    start = Start(0.5, 3.0, phases)
    assert start.copied_bytes_per_s == 400.0
    assert Start(0.5, 3.0, phases[:1]).copied_bytes_per_s is None
    assert start.joined[1] == {
        "phase": "copy", "where": "stage 0", "start_s": 1.0, "end_s": 3.0, "busy_s": 2.5, "count": 2, "bytes": 800,
    }  # fmt: skip


def test_the_disk_is_read_whole_and_nothing_stays_there(tmp_path: Path) -> None:
    assert disk_bytes_per_s(tmp_path, 40 << 20) > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", sorted(SIZES))
def test_shapes_are_as_large_as_their_names_say(size: str) -> None:
    found = [shape.size_bytes for shape in SIZES[size]]
    assert found == sorted(found, reverse=True)
    if size == "full":
        assert [round(size_bytes / 1e9, 1) for size_bytes in found] == [16.1, 1.2]
