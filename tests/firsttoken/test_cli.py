"""The command line, each command as a person or a script runs it: its two outputs and its exit status. What ends by itself
is mostly called in this process; what a process adds to that is run in one."""

import json
import os
import pty
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cluster import client
from firsttoken.cli import app
from firsttoken.commands import options
from firsttoken.home import UpState, hold_home, write_state
from firsttoken.settings import environment_name, load_settings, write_settings
from tests.firsttoken.command_line import Done, clean_environment, run_here, run_process
from tests.firsttoken.stub_frontend import USAGE, stub_frontend

pytestmark = pytest.mark.timeout(60)

COMMANDS = (
    "up", "down", "status", "demo", "lab", "calibrate", "version", "publish", "verify", "chat", "generate", "explain",
    "drain", "undrain", "migrate", "consolidate", "moves", "forecast", "prewarm", "plan", "fit", "scheduler", "node",
    "frontend", "flows", "prefect", "models", "traces",
)  # fmt: skip
HELP_WITHIN_S = 0.5
ROOT = Path(__file__).parents[2]

Run = Callable[..., Done]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A home of its own, and a front end port that nothing listens on."""
    own = {"FIRSTTOKEN_HOME": str(tmp_path), "FIRSTTOKEN_FRONTEND__PORT": "1", "COLUMNS": "200"}
    return {**clean_environment(), **own}


@pytest.fixture
def run(environment: dict[str, str]) -> Run:
    """Runs a command to its end, in this process."""
    return lambda *arguments, **more: run_here(arguments, {**environment, **more})


@pytest.fixture
def run_alone(environment: dict[str, str]) -> Run:
    """Runs a command to its end, in a process of its own."""
    return lambda *arguments, **more: run_process(arguments, {**environment, **more})


@pytest.fixture
def requests(environment: dict[str, str]) -> Iterator[list[dict[str, Any]]]:
    """The bodies that a front end, which answers by heart, has received."""
    with stub_frontend() as (port, bodies):
        environment["FIRSTTOKEN_FRONTEND__PORT"] = str(port)
        yield bodies


def test_every_command_explains_itself(run_alone: Run) -> None:
    commands = [command.callback.__name__ for command in app.registered_commands if command.callback]
    assert [*commands, *(group.typer_instance.info.name for group in app.registered_groups)] == list(COMMANDS)
    overview = run_alone("--help").stdout
    assert all(re.search(rf"│ {command} ", overview) for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_there_for(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert f"firsttoken {command}" in result.stdout


def test_help_breaks_lines_where_the_terminal_ends() -> None:
    """Typer breaks anew the first paragraph alone: all others were broken where the code is, and again."""
    groups = [app, *(group.typer_instance for group in app.registered_groups)]
    told = [command.help or "" for group in groups if group for command in group.registered_commands]
    assert all(told)
    assert all("\n" not in paragraph for each in told for paragraph in each.split("\n\n"))


@pytest.mark.parametrize(
    "command",
    [
        "up",
        "publish",
        "chat",
        "generate",
        "explain",
        "node",
        "drain",
        "undrain",
        "migrate",
        "consolidate",
        "moves",
    ],
)
def test_help_shows_an_example_for(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"})
    assert re.search(rf"Example: .*firsttoken {command}\b", result.stdout)


def test_help_is_quick(run_alone: Run) -> None:
    """Seconds of processor time: other work on the machine is not ours to judge."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run_alone("--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime) < HELP_WITHIN_S


def test_version_for_a_script(run_alone: Run) -> None:
    versions = json.loads(run_alone("version", "--json").stdout)
    assert {"firsttoken", "python", "torch", "prefect"} <= set(versions)


@pytest.mark.parametrize("arguments", [["--bogus"], ["frobnicate"], ["publish", "folder"], ["node"]])
def test_wrong_usage_exits_2(run: Run, arguments: list[str]) -> None:
    result = run(*arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert "Usage:" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["models", "gc", "--grace", "nan"], ["models", "gc", "--grace", "inf"], ["down", "--timeout", "nan"],
        ["down", "--timeout", "inf"], ["publish", "m", "--name", "m", "--workers", "1000000"],
        ["explain", "m", "--limit", "1000"], ["node", "--name", "../../x"], ["node", "--name", "a b"],
        ["generate", "m", "x", "--temperature", "nan"], ["generate", "m", "x", "--temperature", "inf"],
        ["generate", "m", "x", "--top-p", "nan"], ["generate", "m", "x", "--min-p", "nan"], ["chat", "m", "--seed", "1" * 30],
        ["generate", "m", "x", "--max-tokens", "1" * 30], ["drain", "n", "--timeout", "nan"], ["moves", "--limit", "0"],
    ],
)  # fmt: skip
def test_numbers_out_of_their_bounds_are_wrong_usage(arguments: list[str], tmp_path: Path) -> None:
    """A grace of nan seconds was within all bounds, and would have had everything removed that no model needs just now."""
    result = CliRunner().invoke(app, arguments, env={"FIRSTTOKEN_HOME": str(tmp_path), "COLUMNS": "200"})
    assert result.exit_code == 2
    assert arguments[-2] in result.output


def test_an_error_is_one_sentence(run_alone: Run) -> None:
    result = run_alone("generate", "tiny", "Hello")
    assert result.returncode == 1
    assert result.stderr == ("firsttoken: no front end answers at http://127.0.0.1:1: start one with `firsttoken up`\n")


def test_an_answer_with_separators_of_unicode_is_shown_whole(run_alone: Run, requests: list[dict[str, Any]]) -> None:
    """It was taken for the end of an event, and the rest for what no front end of ours says."""
    assert run_alone("generate", "poet", ">", PYTHONUTF8="1").stdout == "A\u2028B\u0085C\n"


def test_a_prompt_that_is_not_utf_8_is_the_persons_to_mend(run_alone: Run, requests: list[dict[str, Any]]) -> None:
    """The front end was blamed: "is not a firsttoken front end"."""
    result = run_alone("generate", "tiny", os.fsdecode(b"caf\xe9"), PYTHONUTF8="1")
    assert (result.returncode, requests) == (1, [])
    assert "what was typed is not UTF-8 text" in result.stderr


def test_ctrl_c_while_it_is_imported_shows_no_traceback(environment: dict[str, str]) -> None:
    code = """
import os, runpy, signal, sys

class AtAsyncio:
    def find_spec(self, name, *_):
        if name == "asyncio":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, AtAsyncio())
runpy.run_module("firsttoken", run_name="__main__")
"""
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=50)
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "")


@pytest.mark.parametrize(
    "arguments",
    [["generate", "m", "x"], ["explain", "m"], ["moves"], ["status"], ["forecast"]],
    ids=lambda words: words[0],
)
def test_while_the_front_end_is_started_anew_nobody_is_told_to_start_one(
    run: Run, tmp_path: Path, arguments: list[str]
) -> None:
    with hold_home(tmp_path / "run"):
        write_state(tmp_path / "run", UpState(os.getpid(), {"api": "http://127.0.0.1:1/v1"}, 1))
        write_settings(
            load_settings(environment={"FIRSTTOKEN_HOME": str(tmp_path)}), tmp_path / "run" / "settings.json"
        )
        said = run(*arguments).stderr
    wanted = f"no front end answers at http://127.0.0.1:1: the platform in {tmp_path} is starting it, or stopping"
    assert said == f"firsttoken: {wanted}\n"


def test_a_traceback_is_shown_on_request_only(run_alone: Run) -> None:
    assert "Traceback" not in run_alone("models", FIRSTTOKEN_BOGUS="1").stderr
    assert "Traceback" in run_alone("--debug", "models", FIRSTTOKEN_BOGUS="1").stderr
    assert "Traceback" in run_alone("generate", "tiny", "Hello", FIRSTTOKEN_LOGGING__LEVEL="debug").stderr


def test_a_settings_file_that_is_not_there_is_named(run: Run) -> None:
    result = run("models", "--config", "/nowhere/at-all.toml")
    assert (result.returncode, result.stdout) == (1, "")
    assert "cannot read the settings file /nowhere/at-all.toml" in result.stderr


def test_what_the_system_refuses_is_a_sentence_too(run: Run, tmp_path: Path) -> None:
    (tmp_path / "minutes.npz").mkdir()
    result = run("traces", "show", str(tmp_path / "minutes.npz"))
    assert result.stderr == f"firsttoken: {tmp_path / 'minutes.npz'}: Is a directory\n"


@pytest.mark.parametrize(
    ("component", "setting"),
    [
        ("scheduler", "cluster.scheduler_port"),
        ("scheduler", "cluster.dashboard_port"),
        ("frontend", "frontend.port"),
        ("prefect", "prefect.port"),
    ],
)
def test_a_component_alone_says_which_port_is_taken(run: Run, component: str, setting: str) -> None:
    """Their servers said it by a traceback, or went elsewhere."""
    ports = {environment_name(f"cluster.{key}"): "0" for key in ("scheduler_port", "dashboard_port")}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run(component, **(ports | {environment_name(setting): str(port)}))
    wanted = (
        f"firsttoken: port {port} is in use: set {setting} ({environment_name(setting)}) or stop what listens there\n"
    )
    assert (result.returncode, result.stderr) == (1, wanted)


def test_the_lab_without_a_checkout_says_what_it_needs(environment: dict[str, str], tmp_path: Path) -> None:
    """As installed: the packages are there, what stands beside them in the repository is not."""
    for package in ("firsttoken", "serving", "flows", "cluster", "schedules", "storage_tiers"):
        (tmp_path / package).symlink_to(ROOT / package)
    code = f"""
import pathlib, sys
sys.path[:] = [{str(tmp_path)!r}, *(path for path in sys.path if path and not (pathlib.Path(path) / "infra").exists())]
sys.argv = ["firsttoken", "lab"]
from firsttoken.cli import main
main()
"""
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=50
    )
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("firsttoken: the lab is not installed along: run it from a checkout")


def test_down_and_status_without_a_platform(run: Run, tmp_path: Path) -> None:
    assert run("down").stderr == f"firsttoken: nothing runs in {tmp_path}\n"
    status = run("status", "--json")
    assert (status.returncode, json.loads(status.stdout)) == (1, {"running": False, "serving": False})


@pytest.mark.parametrize("arguments", [["calibrate"], ["prewarm", "--dry-run"]], ids=str)
def test_a_cluster_that_is_not_there_is_said_with_the_way_out(
    run: Run, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    """The sentence ended with a colon and nothing."""
    monkeypatch.setattr(client, "ClusterClient", partial(client.ClusterClient, connect_timeout_s=0.2))
    ports = {f"FIRSTTOKEN_{name}": "1" for name in ("CLUSTER__SCHEDULER_PORT", "PREFECT__PORT")}
    assert run(*arguments, **ports).stderr == (
        "firsttoken: no Dask scheduler answers at tcp://127.0.0.1:1: not within 0.2 s; start one with `firsttoken up`\n"
    )


def test_models_of_an_empty_store(run: Run) -> None:
    assert json.loads(run("models", "--json").stdout) == []
    assert "firsttoken publish --help" in run("models").stderr


def test_publish_says_what_is_wrong_with_its_source(run: Run, tmp_path: Path) -> None:
    result = run("publish", str(tmp_path / "absent.gguf"), "--name", "tiny")
    assert (result.returncode, result.stdout) == (1, "")
    assert "absent.gguf" in result.stderr.strip().rsplit("\n", 1)[-1]
    assert "Traceback" not in result.stderr


def test_status_shows_nodes_and_replicas(run: Run, requests: list[dict[str, Any]]) -> None:
    report = json.loads(run("status", "--json").stdout)
    assert (report["serving"], report["nodes"][0]["name"]) == (True, "node-1")
    shown = run("status").stdout
    assert re.search(r"node-1 \(draining\) .* 1 idle, 2 busy", shown)
    assert re.search(r"g1m2 .* drain .* switching .* tiny: node-1 -> node-2 .* 2 .* 40 ms", shown)
    assert re.search(r"tiny .* serving", shown)
    assert re.search(r"other .* wanted .* 2 ", shown)
    assert re.search(r"node-1 .*25\.0 MB/s .*1\.5 ms", shown)


def test_explain_shows_the_choice_and_how_the_last_ones_came_out(run: Run, requests: list[dict[str, Any]]) -> None:
    shown = run("explain", "tiny").stdout
    assert shown.startswith("tiny would start on node-1, node-2 now (planned): degree 2: the cheapest of 1 that meet")
    assert re.search(r"\n +1  node-1 +2\.70 s +3\.10 s +20\.0 ms +4\.00 GB s +first token after 3\.10 s", shown)
    assert re.search(r"\n +2  node-1, 2 .* chosen; other would be stopped", shown)
    assert "Wanted: a first token within 2 s; 0 to 2 replicas of up to 2 stages" in shown
    assert re.search(r" +0\.40 s +0\.60 s +0\.50 s +\+25%  fetch: 0\.30 s, predicted 0\.19 s", shown)


def test_explain_for_a_script(run: Run, requests: list[dict[str, Any]]) -> None:
    report = json.loads(run("explain", "tiny", "--json", "--limit", "1").stdout)
    assert (report["now"]["outcome"], report["cold_starts"][0]["prediction_error"]) == ("start", 0.25)


def test_explain_of_a_model_that_is_not_there(run: Run, requests: list[dict[str, Any]]) -> None:
    """A name goes into a path: what would end it there is quoted."""
    result = run("explain", "absent?")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "firsttoken: no model 'absent?' (HTTP 404)\n"


def test_generate_streams_the_text_and_nothing_else(run_alone: Run, requests: list[dict[str, Any]]) -> None:
    sampling = ["--max-tokens=5", "--temperature=0", "--top-p=0.5", "--top-k=3", "--min-p=0.1", "--seed=7"]
    sampling += ["--stop=a", "--stop=b"]
    result = run_alone("generate", "tiny", "Hi", *sampling)
    assert (result.returncode, result.stdout, result.stderr) == (0, "Hello there\n", "")
    expected = {"max_tokens": 5, "temperature": 0, "top_p": 0.5, "top_k": 3, "min_p": 0.1, "seed": 7}
    expected["stop"] = ["a", "b"]
    assert requests[0].items() >= {"model": "tiny", "prompt": "Hi", "stream": True, **expected}.items()


def test_generate_for_a_script(run: Run, requests: list[dict[str, Any]]) -> None:
    answer = json.loads(run("generate", "tiny", "Hi", "--json").stdout)
    assert (answer["text"], answer["finish_reason"], answer["usage"]) == ("Hello there", "stop", USAGE)
    assert answer["ttft_s"] > 0


def test_options_not_given_are_left_to_the_front_end(run: Run, requests: list[dict[str, Any]]) -> None:
    run("generate", "tiny", "Hi")
    assert set(requests[0]) == {"model", "prompt", "stream", "stream_options"}


def test_chat_asks_one_message(run: Run, requests: list[dict[str, Any]]) -> None:
    result = run("chat", "tiny", "--system", "Be brief.", "-m", "Hi")
    assert result.stdout == "Hello there\n"
    assert requests[0]["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
    ]


def test_chat_remembers_the_conversation(environment: dict[str, str], requests: list[dict[str, Any]]) -> None:
    command = [sys.executable, "-m", "firsttoken", "chat", "tiny"]
    done = subprocess.run(command, env=environment, input="Hi\n\nAnd?\n", capture_output=True, text=True, timeout=50)
    assert done.returncode == 0
    assert [message["content"] for message in requests[1]["messages"]] == ["Hi", "Hello there", "And?"]


@pytest.mark.parametrize(
    ("model", "reason"),
    [("absent", "no model 'absent' (HTTP 404)"), ("breaks", "the last node is gone")],
)
def test_a_refused_or_broken_request_says_why(
    run: Run, requests: list[dict[str, Any]], model: str, reason: str
) -> None:
    result = run("chat", model, "-m", "Hi")
    assert (result.returncode, result.stderr) == (1, f"firsttoken: {reason}\n")


def test_a_closed_pipe_ends_it_quietly(environment: dict[str, str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "firsttoken", "version"]
    done = subprocess.run(command, env=environment, stdout=writer, stderr=subprocess.PIPE, timeout=50)
    os.close(writer)
    assert done.stderr == b""


def test_ctrl_c_ends_it_quietly(environment: dict[str, str]) -> None:
    """At the prompt of a conversation, on a real terminal."""
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "firsttoken", "chat", "tiny"]
    chat = subprocess.Popen(command, env=environment, stdin=slave, stdout=slave, stderr=slave)
    assert os.read(master, 2) == b"> "
    while Path(f"/proc/{chat.pid}/stat").read_text().split()[2] != "S":  # not yet waiting for the person
        time.sleep(0.01)
    chat.send_signal(signal.SIGINT)
    assert chat.wait(20) == 130
    os.write(slave, b"all that was said")
    assert b"Traceback" not in os.read(master, 4096)
    os.close(slave)
    os.close(master)


def test_ctrl_c_ends_an_answer_quietly(environment: dict[str, str], requests: list[dict[str, Any]]) -> None:
    """In the middle of a stream; what was heard so far stays."""
    command = [sys.executable, "-m", "firsttoken", "generate", "stalls", "Hi"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.read(5) == b"Hello"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (130, b"")


def test_consoles_are_apart() -> None:
    """Results go where a script reads them, progress where a person sees it."""
    assert (options.stdout().stderr, options.stderr().stderr) == (False, True)
