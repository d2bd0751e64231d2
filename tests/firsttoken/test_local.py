"""The supervisor: starts, keeps up, ends, and leaves nothing behind however it goes. Components are small scripts."""

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from firsttoken.errors import PortInUse
from firsttoken.home import read_state
from firsttoken.local import components
from firsttoken.process import Component
from firsttoken.settings import load_settings
from tests.firsttoken.processes import MARK, left_after, marked
from tests.firsttoken.test_ports import ANY

pytestmark = pytest.mark.timeout(60)

Supervisor = subprocess.Popen[str]
DIES_WITHIN_S = 2.0
"""So long the kernel may take with a process that was killed; what was not stays for minutes."""


@pytest.fixture
def mark() -> Iterator[str]:
    """A mark in the environment of all processes of this test; what carries it ends with the test."""
    mark = uuid.uuid4().hex
    yield mark
    for pid in marked(mark):
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def supervise(tmp_path: Path, mark: str) -> Iterator[Callable[..., Supervisor]]:
    """Starts a supervisor over fake components of the given kinds."""
    started: list[Supervisor] = []

    def start(*kinds: str) -> Supervisor:
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "tests.firsttoken.fake_platform", str(tmp_path), *kinds],
            stdout=subprocess.PIPE,
            env={**os.environ, MARK: mark},
            text=True,
        )
        started.append(supervisor)
        return supervisor

    yield start
    for supervisor in started:
        supervisor.kill()
        supervisor.communicate()


def lines_until(supervisor: Supervisor, wanted: str) -> list[str]:
    """What the supervisor says, up to and with the line `wanted`."""
    assert supervisor.stdout is not None
    lines = []
    for line in supervisor.stdout:
        lines.append(line.strip())
        if lines[-1] == wanted:
            return lines
    raise AssertionError(f"never said {wanted!r}, but {lines}")


def test_components_are_ended_in_order_and_nothing_is_left(
    supervise: Callable[..., Supervisor], tmp_path: Path, mark: str
) -> None:
    supervisor = supervise("good", "good2")
    lines_until(supervisor, "all ready")
    assert len(marked(mark)) == 6  # supervisor, guard, two components, a child of each

    supervisor.send_signal(signal.SIGTERM)
    rest, _ = supervisor.communicate(timeout=20)

    assert supervisor.returncode == 0
    assert rest.split("\n")[:4] == ["good stopping", "good stopped", "good2 stopping", "good2 stopped"]
    assert left_after(mark, DIES_WITHIN_S) == {}
    assert not (tmp_path / "run" / "up.json").exists()


def test_a_component_that_has_time_at_sigterm_is_ended_by_what_gives_it_none(
    supervise: Callable[..., Supervisor], tmp_path: Path
) -> None:
    """A node waits for its stages to move elsewhere, and in a platform that goes down nobody moves them."""
    supervisor = supervise("patient")
    lines_until(supervisor, "all ready")
    supervisor.send_signal(signal.SIGTERM)
    supervisor.communicate(timeout=20)
    assert (tmp_path / "run" / "patient.ended").exists()
    parts = components(load_settings(environment={"FIRSTTOKEN_HOME": str(tmp_path)}), {})
    assert {part.name for part in parts if part.stop_signal is signal.SIGINT} == {f"node-{n}" for n in range(1, 5)}


def test_a_killed_supervisor_leaves_nothing(supervise: Callable[..., Supervisor], tmp_path: Path, mark: str) -> None:
    supervisor = supervise("good", "good2")
    lines_until(supervisor, "all ready")
    supervisor.kill()
    assert left_after(mark, 15) == {}
    assert read_state(tmp_path / "run") is None


def test_a_guard_that_is_killed_is_replaced_by_one_that_knows_all(
    supervise: Callable[..., Supervisor], mark: str
) -> None:
    """Nobody noticed that it was gone, and a supervisor that was killed then left everything."""

    def guards() -> list[int]:
        return [pid for pid, command in marked(mark).items() if "guard.py" in command]

    supervisor = supervise("good", "brief")
    lines_until(supervisor, "all ready")
    (guard,) = guards()
    os.kill(guard, signal.SIGKILL)
    lines_until(supervisor, "guard restarting")
    while not guards():
        time.sleep(0.02)
    supervisor.kill()
    assert left_after(mark, 15) == {}


def test_a_second_ctrl_c_ends_even_what_will_not_end(supervise: Callable[..., Supervisor], mark: str) -> None:
    supervisor = supervise("stubborn")
    lines_until(supervisor, "all ready")
    supervisor.send_signal(signal.SIGINT)
    lines_until(supervisor, "stubborn stopping")
    supervisor.send_signal(signal.SIGINT)
    supervisor.communicate(timeout=5)
    assert supervisor.returncode == 0
    assert left_after(mark, 2) == {}


def test_a_component_that_ends_is_started_again(supervise: Callable[..., Supervisor]) -> None:
    supervisor = supervise("brief")
    said = [*lines_until(supervisor, "brief restarting"), *lines_until(supervisor, "brief ready")]
    assert said.count("brief starting") == 2


def test_a_component_that_will_not_stay_up_ends_the_platform(supervise: Callable[..., Supervisor], mark: str) -> None:
    supervisor = supervise("good", "mortal")
    output, _ = supervisor.communicate(timeout=30)
    assert supervisor.returncode == 1
    assert output.count("mortal restarting") == 5
    assert "failed: mortal ended 6 times in a minute" in output
    assert left_after(mark, DIES_WITHIN_S) == {}


def test_a_component_that_does_not_start_is_named_with_the_end_of_its_log(
    supervise: Callable[..., Supervisor], tmp_path: Path, mark: str
) -> None:
    supervisor = supervise("good", "broken")
    output, _ = supervisor.communicate(timeout=20)
    assert supervisor.returncode == 1
    assert f"failed: broken did not start: exit status 1; the end of {tmp_path}/logs/broken.log:" in output
    assert "it is broken" in output
    assert "good stopped" in output
    assert left_after(mark, DIES_WITHIN_S) == {}


def test_a_component_that_ends_because_its_port_was_taken_says_that_alone(
    supervise: Callable[..., Supervisor], mark: str
) -> None:
    supervisor = supervise("good", "robbed")
    output, _ = supervisor.communicate(timeout=20)
    assert (supervisor.returncode, output.splitlines()[-1]) == (1, "failed: another has its port")
    assert left_after(mark, DIES_WITHIN_S) == {}


def robbed(part: Component) -> bool:
    try:
        part.check_ports()
    except PortInUse:
        return True
    return False


def test_each_component_knows_its_own_ports(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        taken = set[tuple[str, str]]()
        for setting in ANY:
            told = ANY | {"FIRSTTOKEN_HOME": str(tmp_path), setting: port}
            parts = components(load_settings(environment=told), {})
            taken |= {(part.name, setting.removeprefix("FIRSTTOKEN_")) for part in parts if robbed(part)}
    assert taken == {
        ("frontend", "FRONTEND__PORT"), ("prefect", "PREFECT__PORT"), ("scheduler", "CLUSTER__SCHEDULER_PORT"),
        ("scheduler", "CLUSTER__DASHBOARD_PORT"),
    }  # fmt: skip


def test_a_component_that_stays_silent_is_given_up(supervise: Callable[..., Supervisor], mark: str) -> None:
    output, _ = supervise("mute").communicate(timeout=20)
    assert "failed: mute does not serve after 2 s" in output
    assert "hello from mute" in output
    assert left_after(mark, DIES_WITHIN_S) == {}


def test_a_second_platform_in_the_same_home_is_refused(supervise: Callable[..., Supervisor]) -> None:
    first = supervise("good")
    lines_until(first, "all ready")
    output, _ = supervise("good").communicate(timeout=20)
    assert "failed: firsttoken is already up" in output
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=20)
    assert first.returncode == 0


def test_every_component_gets_the_settings_as_a_file_and_none_of_the_variables(tmp_path: Path) -> None:
    """A variable would win over the file, and bring back the port 0 that the supervisor has replaced."""
    settings = load_settings(environment={"FIRSTTOKEN_HOME": str(tmp_path), "FIRSTTOKEN_CLUSTER__NODES": "2"})
    parts = components(settings, {"FIRSTTOKEN_FRONTEND__PORT": "0", "PATH": "/bin"})
    assert sorted(part.name for part in parts) == ["flows", "frontend", "node-1", "node-2", "prefect", "scheduler"]
    for part in parts:
        assert part.command[-2:] == ("--config", str(tmp_path / "run" / "settings.json"))
        assert "FIRSTTOKEN_FRONTEND__PORT" not in part.environment
        assert part.environment["PATH"] == "/bin"
    nodes = [part for part in parts if part.name.startswith("node")]
    assert [part.command[-4:-2] for part in nodes] == [("--sharing", "2")] * 2, (
        "they have the machine's GPU between them"
    )


def test_what_takes_requests_ends_before_what_it_rests_upon(tmp_path: Path) -> None:
    parts = components(load_settings(environment={"FIRSTTOKEN_HOME": str(tmp_path)}), {})
    rank = {part.name: part.stop_rank for part in parts}
    assert rank["frontend"] < rank["flows"] < rank["node-1"] == rank["node-4"] < rank["scheduler"] < rank["prefect"]
