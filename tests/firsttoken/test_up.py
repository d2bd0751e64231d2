"""Everything on one machine, for real: up, seen, down; and killed, with nothing left."""

import ipaddress
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from firsttoken.demo.model import MODEL
from tests.firsttoken.processes import MARK, left_after, listening, marked
from tests.firsttoken.whole import COMPONENTS, environment_in, firsttoken, on_the_same_ports, ready, starting, up

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    with environment_in(tmp_path) as made:
        yield made


def all_on_loopback(environment: dict[str, str]) -> None:
    """Nothing that `up` starts is reached from another machine unless it is told to listen there."""
    found = listening(marked(environment[MARK]))
    assert len(found) >= len(COMPONENTS) + 1, "every component listens, and a stage process"
    assert {ipaddress.ip_address(address).is_loopback for addresses in found.values() for address in addresses} == {
        True
    }


def component(environment: dict[str, str], name: str) -> set[int]:
    """The processes of a component itself, not those that it has made."""
    return {pid for pid, command in marked(environment[MARK]).items() if f"-m firsttoken {name} " in f"{command} "}


def kill_the_scheduler(platform: "subprocess.Popen[str]", environment: dict[str, str]) -> None:
    """It is started again, and nothing else is: nodes ended with it, and came back with empty memories."""
    (scheduler,), nodes = component(environment, "scheduler"), component(environment, "node")
    os.kill(scheduler, signal.SIGKILL)
    assert platform.stderr is not None
    said = [platform.stderr.readline()]
    while said[-1] and not said[-1].startswith("scheduler ready"):
        said.append(platform.stderr.readline())
    assert not [line for line in said if line.split()[0] in COMPONENTS - {"scheduler"}], said
    assert component(environment, "node") == nodes


def first_of_two(one: dict[str, str], other: dict[str, str]) -> "tuple[subprocess.Popen[str], dict[str, str]]":
    """Of two platforms that are started at once on the same ports the one that has them; of the other, which says which port
    it could not have, nothing is left. Each had some of them, and both failed; or nodes of one joined the other's cluster."""
    started = [(starting(environment), environment) for environment in (one, other)]
    until_s = time.monotonic() + 30.0
    while not (over := [each for each in started if each[0].poll() is not None]) and time.monotonic() < until_s:
        time.sleep(0.02)
    ((loser, its),) = over
    _, said = loser.communicate()
    named = f"port {its['FIRSTTOKEN_FRONTEND__PORT']} .*: set frontend.port .FIRSTTOKEN_FRONTEND__PORT."
    assert (loser.returncode, bool(re.search(named, said)), said.count("\n")) == (1, True, 1), said
    assert left_after(its[MARK], 1) == {}
    home = Path(its["FIRSTTOKEN_HOME"])
    assert [str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()] == ["run/up.lock"]
    (found,) = [each for each in started if each[0] is not loser]
    return ready(found[0]), found[1]


def test_up_and_down_and_killed(environment: dict[str, str], tmp_path: Path) -> None:
    """One platform, twice: each start takes many seconds, so this is one test. The first is the first of two at once."""
    with environment_in(tmp_path / "other") as other:
        up_and_down_and_killed(*first_of_two(*on_the_same_ports(environment, other)))


def up_and_down_and_killed(platform: "subprocess.Popen[str]", environment: dict[str, str]) -> None:
    assert "already up" in firsttoken(environment, "up").stderr
    report = json.loads(firsttoken(environment, "status", "--json").stdout)
    assert (report["pid"], [node["name"] for node in report["nodes"]]) == (platform.pid, ["node-1"])
    all_on_loopback(environment)

    down = firsttoken(environment, "down")
    assert (down.returncode, down.stderr) == (0, f"stopped what ran in {environment['FIRSTTOKEN_HOME']}\n")
    platform.communicate(timeout=20)
    assert platform.returncode == 0
    assert left_after(environment[MARK], 1) == {}
    assert firsttoken(environment, "down").returncode == 1

    platform = up(environment, "--secure")
    all_on_loopback(environment)
    kill_the_scheduler(platform, environment)
    measured = json.loads(firsttoken(environment, "calibrate", "--json").stdout)
    assert {row["node"] for row in measured["rates"]} == {"node-1"}, (
        "it found the platform on its ports, and was let in"
    )
    platform.kill()
    platform.communicate(timeout=20)
    assert left_after(environment[MARK], 30) == {}
    assert json.loads(firsttoken(environment, "status", "--json").stdout) == {"running": False, "serving": False}


@pytest.mark.parametrize(("command", "after_s"), [("up", 0.5), ("up", 1.5), ("demo", 0.5), ("demo", 2.0)])
def test_ctrl_c_in_the_first_seconds_ends_it_quietly(
    environment: dict[str, str], tmp_path: Path, command: str, after_s: float
) -> None:
    """The demo published all of its model first, some fifteen seconds."""
    arguments = [sys.executable, "-m", "firsttoken", command]
    started = subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    time.sleep(after_s)
    started.send_signal(signal.SIGINT)
    said, _ = started.communicate(timeout=60)
    # By the signal itself it ends if Python took none yet, or was at code that is made from text, such as a dataclass's.
    assert started.returncode in (0, 130, -signal.SIGINT), said
    assert "Traceback" not in said
    assert left_after(environment[MARK], 1) == {}
    assert not (tmp_path / "home" / "store" / MODEL / "zarr.json").exists()
