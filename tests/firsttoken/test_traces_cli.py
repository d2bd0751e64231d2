"""Traces recorded, made up and shown, each as a person or a script does it."""

import asyncio
import gzip
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from firsttoken.cli import app
from flows import trace_files
from flows.trace_files import load
from schedules.traces.formats import Reading
from schedules.traces.lengths import task
from schedules.traces.parsing import Wanting
from schedules.traces.trace import Provenance
from serving.history.history import History
from serving.history.tables import Arrival
from tests.firsttoken.command_line import Done, clean_environment, run_here

pytestmark = pytest.mark.timeout(60)

CSV = "time,model,prompt,answer\n" + "".join(f"{i},m{i % 3},{10 + i},5\n" for i in range(60))

Run = Callable[..., Done]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs a command about traces to its end."""
    environment = {**clean_environment(), "FIRSTTOKEN_HOME": str(tmp_path / "home"), "COLUMNS": "120"}
    return lambda *arguments: run_here(("traces", *map(str, arguments)), environment)


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """A file of sixty requests for three models in a minute."""
    path = tmp_path / "recorded.csv"
    path.write_text(CSV)
    return path


def figures(run: Run, path: Path) -> dict[str, object]:
    """What `show` says to a script."""
    shown = run("show", path, "--json")
    assert shown.returncode == 0, shown.stderr
    return json.loads(shown.stdout)


def partials(folder: Path) -> list[str]:
    """What is left of files that were not finished."""
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_what_is_recorded_becomes_a_trace_that_is_shown(run: Run, recorded: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.npz"
    done = run("import", recorded, "--out", out)
    assert (done.returncode, done.stdout) == (0, "")
    assert f"{recorded}: csv, 60 requests, models: 3" in done.stderr
    assert figures(run, out)["popular"][0] == {"model": "m0", "requests": 20, "share": 1 / 3}  # type: ignore[index]
    shown = run("show", out, "--top", "2").stdout
    for words in ("60 in 59 s", "1.02/s in the mean", "keep-alive", "10 min", "prompt", "█", "m1"):
        assert words in shown
    assert "m2" not in shown
    assert partials(tmp_path) == []


@pytest.mark.parametrize("ending", [".npz", ".csv", ".csv.gz"])
def test_what_is_written_in_any_way_can_be_imported_again(
    run: Run, recorded: Path, tmp_path: Path, ending: str
) -> None:
    one, other = tmp_path / f"one{ending}", tmp_path / "other.npz"
    assert run("import", recorded, "--out", one).returncode == 0
    assert run("import", one, "--out", other).returncode == 0
    assert load(other).prompt_tokens.tolist() == list(range(10, 70))


@pytest.mark.parametrize(
    "content",
    [
        gzip.compress(CSV.encode(), mtime=0),
        CSV.encode("utf-8-sig"),
        CSV.replace("\n", "\r\n").encode(),
        b"\xef\xbb\xbf" + CSV.encode(),
    ],
    ids=["gzip", "a mark of the byte order", "lines of Windows", "both"],
)
def test_a_file_is_opened_whatever_it_is(run: Run, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert run("import", path, "-o", tmp_path / "out.npz").returncode == 0
    assert load(tmp_path / "out.npz").models == ("m0", "m1", "m2")


def test_columns_units_lengths_and_changes_are_as_told(run: Run, tmp_path: Path) -> None:
    path, out = tmp_path / "own.txt", tmp_path / "out.npz"
    path.write_text("".join(f"f{i % 5};{i * 1000}\n" for i in range(1000)))
    done = run(
        "import", path, "-o", out, "--time-column", "2", "--model-column", "1", "--time-unit", "ms",
        "--task", "20:0/10:0", "--max-tokens", "64", "--models", "2", "--from", "100", "--for", "10min", "--speed", "2",
        "--rate", "1", "--max-prompt", "15",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    made = load(out)
    assert (len(made), made.duration_s, made.models) == (300, 300.0, ("model-0", "model-1"))
    assert {name: set(getattr(made, name)) for name in ("prompt_tokens", "answer_tokens", "max_tokens")} == {
        "prompt_tokens": {15}, "answer_tokens": {10}, "max_tokens": {64},
    }  # fmt: skip


def test_several_files_are_put_together_and_what_has_no_model_is_called_as_its_file(run: Run, tmp_path: Path) -> None:
    for name in ("day1", "day2"):
        (tmp_path / f"{name}.csv").write_text("time,prompt,answer\n0,1,1\n9,1,1\n")
    both = (tmp_path / "day1.csv", tmp_path / "day2.csv")
    out = tmp_path / "out.npz"
    assert run("import", *both, "-o", out, "--in-turn").returncode == 0
    assert load(out).models == ("day1", "day2")
    assert load(out).at_s.tolist() == [0.0, 9.0, 9.0, 18.0]
    assert run("import", *both, "-o", out, "--name", "one", "--rename", "one=two", "--force").returncode == 0
    assert (load(out).models, load(out).duration_s) == (("two",), 9.0)


def test_lengths_are_drawn_from_another_trace(run: Run, recorded: Path, tmp_path: Path) -> None:
    known, times, out = tmp_path / "known.npz", tmp_path / "times.csv", tmp_path / "out.npz"
    times.write_text("time\n1\n2\n3\n")
    assert run("import", recorded, "-o", known).returncode == 0
    done = run("import", times, "-o", out, "--lengths-from", known)
    assert "lengths that it does not have are drawn" in done.stderr
    assert set(load(out).answer_tokens) == {5}
    assert "make one of it with" in run("import", times, "-o", out, "--lengths-from", recorded, "--force").stderr


def test_lines_that_cannot_be_read_are_counted_if_they_may_be_skipped(run: Run, recorded: Path, tmp_path: Path) -> None:
    recorded.write_text(CSV + "x,y\n5,m0,-1,5\n")
    out = tmp_path / "out.npz"
    refused = run("import", recorded, "-o", out)
    assert refused.returncode == 1
    assert refused.stderr == f"firsttoken: {recorded}: line 62: it has 2 columns, the first line 4\n"
    assert not out.exists()
    assert "  2 lines were skipped, the first: line 62" in run("import", recorded, "-o", out, "--skip-bad").stderr
    assert len(load(out)) == 60


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "there is nothing in it"),
        (b"\xff\xfe\x00\x01", "is not text in UTF-8"),
        (gzip.compress(CSV.encode(), mtime=0)[:-10], "cannot be unpacked"),
        (gzip.compress(CSV.encode(), mtime=0)[:20] + b"\xff" * 40, "cannot be unpacked"),
        (b"PK\x03\x04 and no more", "no trace of ours, or damaged"),
        (b"\x00" * 300, "no column looks like a time"),
        (b"time\n" + b"1" * 2_000, "line 2"),
    ],
)
def test_a_file_that_is_no_trace_is_one_sentence_and_nothing_is_written(
    run: Run, tmp_path: Path, content: bytes, problem: str
) -> None:
    path, out = tmp_path / "file", tmp_path / "out.npz"
    path.write_bytes(content)
    done = run("import", path, "-o", out)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"firsttoken: {path}")
    assert problem in done.stderr
    assert done.stderr.count("\n") == 1
    assert not out.exists()
    assert partials(tmp_path) == []


def test_what_has_no_line_ends_is_not_read_to_its_end(
    run: Run, recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace_files, "LONGEST_LINE", 12)
    assert "line 1 is longer than" in run("import", recorded, "-o", tmp_path / "out.npz").stderr


def test_a_trace_is_only_written_where_it_may_be(run: Run, recorded: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.npz"
    out.write_text("mine")
    (tmp_path / "folder.npz").mkdir()
    for place, problem in (
        (out, "is there already: --force replaces it"), (tmp_path / "out.txt", "does not end in .npz, .csv, .csv.gz"),
        (tmp_path / ".npz", "end in"), (tmp_path / "none" / "out.npz", "there is no folder"),
        (tmp_path / "folder.npz", "is a folder"),
    ):  # fmt: skip
        for command in (("import", recorded), ("synth",)):
            done = run(*command, "-o", place)
            assert done.returncode == 1
            assert problem in done.stderr
    assert out.read_text() == "mine"
    assert run("import", recorded, "-o", out, "--force").returncode == 0
    assert len(load(out)) == 60
    assert out.stat().st_mode & 0o777 == recorded.stat().st_mode & 0o777


def test_an_interrupt_leaves_what_was_there(
    run: Run, recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.csv"
    out.write_text("mine")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(trace_files, "export", interrupted)
    assert run("import", recorded, "-o", out, "--force").returncode == 130
    assert out.read_text() == "mine"
    assert partials(tmp_path) == []


def test_a_long_import_shows_how_far_it_is_and_can_be_interrupted(tmp_path: Path) -> None:
    """At a terminal, where the bar is: a pipe that never ends stands for a file that takes long."""
    source, out = tmp_path / "endless.csv", tmp_path / "out.npz"
    os.mkfifo(source)
    terminal, end = pty.openpty()
    command = [sys.executable, "-m", "firsttoken", "traces", "import", str(source), "-o", str(out)]
    with subprocess.Popen(command, stdin=end, stdout=end, stderr=end, env=clean_environment()) as process:
        os.close(end)
        with source.open("w") as pipe:
            pipe.write(CSV)
            pipe.flush()
            seen, deadline_s = b"", time.monotonic() + 30
            while b"endless.csv" not in seen and time.monotonic() < deadline_s:
                seen += os.read(terminal, 4096)
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=30) == 130
    os.close(terminal)
    assert b"reading" in seen
    assert not out.exists()
    assert partials(tmp_path) == []


def test_a_trace_is_made_up(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out.npz"
    done = run(
        "synth", "-o", out, "--rate", "2", "--duration", "1h", "--cv", "3", "--models", "4", "--skew", "0",
        "--task", "10:0/5:0", "--task", "20:0/5:0", "--wave", "0.5", "--daily", "1",
        "--bursts", "1", "--burst-requests", "9", "--burst-time", "1s", "--max-tokens", "77",
        "--max-prompt", "15", "--seed", "5",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    made = load(out)
    assert len(made) - 7209 in (0, 1)
    assert made.models == ("model-0", "model-1", "model-2", "model-3", "daily-0")
    assert (set(made.prompt_tokens), set(made.max_tokens)) == ({10, 15}, {77})
    assert made.provenance.seed == 5
    assert "models called once a day: 1" in made.provenance.steps[0]


def test_a_trace_is_made_up_as_in_a_paper_but_for_what_is_said(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out.npz"
    assert run("synth", "--preset", "hydraserve", "--rate", "0.7", "-o", out).returncode == 0
    found = figures(run, out)
    assert (found["requests"], found["models"], found["targets"]) == (2520, 384, 384)
    assert found["provenance"]["source"] == "made up as hydraserve"  # type: ignore[index]
    assert "service levels for 384 models" in run("show", out).stdout
    assert "'mine' is no preset" in run("synth", "--preset", "mine", "-o", tmp_path / "other.npz").stderr


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("--rate", "nan"), 2), (("--rate", "-1"), 2), (("--rate", "0"), 1), (("--rate", "1e12"), 1), (("--wave", "2"), 2),
        (("--duration", "0"), 1), (("--cv", "1000"), 2), (("--models", "0"), 2), (("--task", "poetry"), 1),
        (("--duration", "soon"), 2),
        (("--preset", "hydraserve", "--task", "chat"), 2), (("--seed", "-1"), 2), (("--duration", "9" * 19), 1),
        (("--preset", "hydraserve", "--models", "3"), 2),
    ],
)  # fmt: skip
def test_what_cannot_be_made_up_is_said_and_nothing_is_written(
    run: Run, tmp_path: Path, arguments: tuple[str, ...], status: int
) -> None:
    done = run("synth", "-o", tmp_path / "out.npz", *arguments)
    assert done.returncode == status, done.stderr
    assert "unexpected" not in done.stderr
    assert not (tmp_path / "out.npz").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("--rate", "100"), ("--from", "1h"), ("--speed", "0"), ("--preset", "hydraserve", "--models", "3"),
        ("--rename", "x=y"), ("--format", "parquet"), ("--time-unit", "days"), ("--time-column", "ts"), ("--task", "poetry"),
        ("--cv", "1", "--window", "0"),
    ],
)  # fmt: skip
def test_what_cannot_be_made_of_a_file_is_said(
    run: Run, recorded: Path, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    done = run("import", recorded, "-o", tmp_path / "out.npz", *arguments)
    assert done.returncode == 1
    assert "unexpected" not in done.stderr
    assert not (tmp_path / "out.npz").exists()


def test_what_was_noticed_is_told_and_a_name_is_not_halved(run: Run, tmp_path: Path) -> None:
    path, out = tmp_path / "late.csv", tmp_path / "out.npz"
    path.write_text("time\n2\n1\n")
    assert run("import", path, "-o", out, "--rename", "late=").returncode == 2
    assert "  it was not in the order of arrival, and is now\n" in run("import", path, "-o", out).stderr


def test_how_far_a_file_is_read_is_told(recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_files, "_REPORT_LINES", 20)
    told: list[int] = []
    trace_files.take(recorded, Reading(), Wanting("m", task("chat"), 10, 0), told.append)
    assert told == [recorded.stat().st_size] * 3


def test_show_wants_a_stored_trace(run: Run, recorded: Path, tmp_path: Path) -> None:
    assert f"make one of it with `firsttoken traces import {recorded}`" in run("show", recorded).stderr
    missing = run("show", tmp_path / "none.npz")
    assert (missing.returncode, "No such file" in missing.stderr) == (1, True)


@pytest.mark.parametrize("command", ["import", "synth", "show"])
def test_help_shows_an_example_for(command: str) -> None:
    result = CliRunner().invoke(app, ["traces", command, "--help"], env={"COLUMNS": "200"})
    assert f"Example: firsttoken traces {command} " in result.stdout


def test_what_a_trace_says_of_itself_does_not_steer_the_terminal(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out.npz"
    assert run("synth", "-o", out).returncode == 0
    known = load(out)
    trace_files.save(replace(known, provenance=Provenance("\x1b[2Jnot\udc80")), out)
    shown = run("show", out).stdout
    assert "?[2Jnot?" in shown
    assert "\x1b" not in shown


def test_a_pipe_is_read_as_a_file(run: Run, tmp_path: Path) -> None:
    source, out = tmp_path / "pipe", tmp_path / "out.npz"
    os.mkfifo(source)
    with subprocess.Popen(["sh", "-c", f"printf '1,a\\n2,b\\n' | gzip > {source}"]):
        assert run("import", source, "-o", out).returncode == 0
    assert load(out).models == ("a", "b")


def test_what_this_home_was_asked_is_a_trace(run: Run, tmp_path: Path) -> None:
    """Also what it refused; but not what is too long ago."""
    out, home = tmp_path / "kept.npz", tmp_path / "home"
    nothing = run("history", "--out", out)
    assert nothing.returncode == 1
    assert "there is no history at" in nothing.stderr
    home.mkdir()
    asyncio.run(_kept(f"sqlite:///{home}/history.db"))
    told = run("history", "--since", "1h", "--out", out)
    assert told.returncode == 0, told.stderr
    assert "2 requests in 3,600 s" in told.stderr
    trace = load(out)
    assert (trace.models, trace.provenance.source) == (("a", "b"), "history")
    assert trace.answer_tokens.tolist() == [7, 16]


async def _kept(url: str) -> None:
    now_s, history = time.time(), History(url, keep_days=1.0)
    history.start()
    for model, ago_s, outcome in (("a", 7200.0, "served"), ("a", 600.0, "served"), ("b", 300.0, "refused")):
        history.add_arrival(Arrival(model, now_s - ago_s, 3, 16, 7 if outcome == "served" else 0, outcome))
    await history.close()
