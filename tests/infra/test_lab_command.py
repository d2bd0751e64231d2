"""The lab as a command: what is typed at it, and how it ends."""

import contextlib
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest

from infra.lab import network
from infra.lab.__main__ import parser
from infra.lab.console import converse, obey
from infra.lab.network import Network
from infra.lab.platform import Lab
from tests.firsttoken.stub_frontend import STATUS
from tests.infra.test_lab import DEADLINE_S, _possible, names, shaped, wait_until
from tests.tiny import make_tiny

__all__ = ["_possible"]
pytestmark = pytest.mark.timeout(300)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--nodes", "100000"],
        ["--nodes", "0"],
        ["--degree", "65"],
        ["--seconds", "nan"],
        ["--seconds", "inf"],
        ["--rate", "inf"],
    ],
)
def test_numbers_that_no_lab_can_have_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(arguments)
    assert ended.value.code == 2
    assert f"argument {arguments[0]}" in capsys.readouterr().err


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Lab]:
    """A lab of two hosts on which nothing runs."""
    with Network.build(["store", "node-0"], {"node-0": 25e6}) as built:
        yield Lab(built, tmp_path, ("node-0",), {}, "", {})


def test_a_cards_rate_is_changed_by_what_is_typed(hosts: Lab) -> None:
    assert obey(hosts, ["rate", "node-0", "100mbit"]) == "node-0: 100 Mbit/s each way"
    assert "rate 100Mbit" in shaped(hosts.network, "node-0")
    assert obey(hosts, ["rate", "store", "6.25MB"]) == "store: 50 Mbit/s each way"
    assert "rate 50Mbit" in shaped(hosts.network, "store")
    assert obey(hosts, ["rate", "node-0", "none"]) == "node-0: unlimited"
    assert "tbf" not in shaped(hosts.network, "node-0")


def test_a_host_is_killed_by_what_is_typed(hosts: Lab) -> None:
    process = hosts.network.start("node-0", ["sleep", "600"])
    pids = ["ip", "netns", "pids", f"{hosts.network.name}-node-0"]
    wait_until(lambda: subprocess.run(pids, check=True, capture_output=True).stdout != b"", "it is not there yet")
    assert obey(hosts, ["kill", "node-0"]) == "node-0: killed 1 processes"
    assert process.wait(DEADLINE_S) == -signal.SIGKILL


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("rate node-9 100mbit", "the lab has no host 'node-9'"),
        ("rate node-0 fast", "'fast' is not a rate"),
        ("rate node-0", "'rate node-0' is no command here"),
        ("kill caller", "the lab has no host 'caller'"),
        ("explode", "'explode' is no command here"),
        ("help", "rate HOST RATE"),
        ("", ""),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_happens(hosts: Lab, typed: str, answer: str) -> None:
    before = shaped(hosts.network, "node-0")
    assert obey(hosts, typed.split()).startswith(answer)
    assert shaped(hosts.network, "node-0") == before


def test_the_end_of_a_pipe_is_not_the_end_of_the_lab(hosts: Lab) -> None:
    """The last line may lack its end; what was asked for is done, and the lab stays until its time."""
    reading, writing = os.pipe()
    os.write(writing, b"rate node-0 50mbit\nrate store 100mbit")
    os.close(writing)
    said: list[str] = []
    until_s = time.monotonic() + 0.5
    converse(hosts, reading, until_s, said.append)
    os.close(reading)
    assert time.monotonic() >= until_s
    assert [line for line in said if line] == ["node-0: 50 Mbit/s each way", "store: 100 Mbit/s each way"]


def test_quit_and_the_end_of_a_terminal_end_it(hosts: Lab) -> None:
    outer, inner = pty.openpty()
    try:
        for typed in (b"quit\n", b"\x04"):
            os.write(outer, typed)
            converse(hosts, inner, time.monotonic() + DEADLINE_S, pytest.fail)
    finally:
        os.close(inner)
        os.close(outer)


@contextlib.contextmanager
def command(log: Path, *arguments: str) -> "Iterator[subprocess.Popen[bytes]]":
    """The command with a tiny model and a pipe to type into, until the block ends at the latest."""
    source = make_tiny("llama", log.parent / "source")
    argv = [sys.executable, "-m", *arguments, "--publish", str(source)]
    with log.open("wb") as out, subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=out, stderr=out) as lab:
        try:
            wait_until(lambda: "Ctrl-C ends it" in log.read_text() or lab.poll() is not None, "it does not come up")
            yield lab
        finally:
            with contextlib.suppress(ProcessLookupError):
                lab.kill()
    network.remove_dead()


def test_the_command_ends_cleanly_however_often_it_is_told_to(tmp_path: Path) -> None:
    """A second Ctrl-C while it tidied up left half a lab behind."""
    with command(tmp_path / "log", "infra.lab", "--nodes", "1", "--degree", "1") as lab:
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
            lab.send_signal(signum)
            time.sleep(0.2)
        assert lab.wait(DEADLINE_S) == 0
        assert f"{network.PREFIX}{lab.pid}x" not in names()


def test_the_lab_obeys_and_ends_when_told_to(tmp_path: Path) -> None:
    """As `firsttoken lab`, with two front ends."""
    log = tmp_path / "log"
    with command(log, "firsttoken", "lab", "--nodes", "2", "--degree", "1", "2", "--seconds", "600") as lab:
        assert lab.stdin is not None
        lab.stdin.write(b"rate node-0 100mbit\nstatus\nkill node-1\nquit\n")
        lab.stdin.flush()
        assert lab.wait(DEADLINE_S) == 0, log.read_text()
        assert f"{network.PREFIX}{lab.pid}x" not in names()
    told = log.read_text()
    assert re.search(r"^node-0 +100 Mbit/s each way\nnode-1 +200 Mbit/s each way$", told, re.MULTILINE)
    assert (
        len(re.findall(r"^  node-1 +dram \d+ MB, ssd \d+ MB, stage processes: 1 idle, 0 busy$", told, re.MULTILINE))
        == 2
    )
    assert re.search(r"^node-1: killed [1-9]\d* processes$", told, re.MULTILINE)


def test_it_ends_by_itself(tmp_path: Path) -> None:
    with command(tmp_path / "log", "infra.lab", "--nodes", "1", "--degree", "1", "--seconds", "0.1") as lab:
        assert lab.wait(DEADLINE_S) == 0, (tmp_path / "log").read_text()
        assert f"{network.PREFIX}{lab.pid}x" not in names()


def test_a_status_tells_where_replicas_are_and_of_those_that_are_nowhere_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = SimpleNamespace(network=SimpleNamespace(addresses={}, rates={}), urls={1: "http://front"})
    monkeypatch.setattr("infra.lab.console.httpx.get", lambda *_args, **_more: _Answer())
    assert obey(lab, ["status"]).splitlines()[1:] == [  # type: ignore[arg-type]
        "  node-1   dram 0 MB, ssd 0 MB, stage processes: 1 idle, 2 busy",
        "  tiny is serving on node-1",
        "  other is wanted",
    ]


class _Answer:
    def raise_for_status(self) -> Self:
        return self

    def json(self) -> dict[str, Any]:
        return STATUS
