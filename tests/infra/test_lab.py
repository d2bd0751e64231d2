"""The lab: hosts that reach each other through cards of a set rate, and nothing left of them on any path."""

import re
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from infra.lab import network
from infra.lab.disks import limit_disks
from infra.lab.network import LabError, Network
from infra.lab.platform import parse_rate, run_lab
from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore
from storage_tiers.publishing.publish import publish
from tests.asking import get, post
from tests.tiny import make_tiny

pytestmark = pytest.mark.timeout(300)
DEADLINE_S = 120.0
_LISTEN = """
import socket, sys
with socket.create_server((sys.argv[1], 5000)) as listener:
    print("listening", flush=True)
    while True:
        peer, _ = listener.accept()
        with peer:
            peer.sendall(b"hello")
"""


@pytest.fixture(scope="module", autouse=True)
def _possible() -> None:
    """Where there can be no lab its tests skip, in CI too: not every CI may make network namespaces."""
    problem = network.why_not()
    if problem:
        pytest.skip(problem)


def names() -> str:
    return subprocess.run(["ip", "netns", "list"], check=True, capture_output=True, text=True).stdout


def interfaces() -> str:
    return subprocess.run(["ip", "-o", "link"], check=True, capture_output=True, text=True).stdout


def interface_of(lab: Network) -> str:
    """The caller's."""
    route = ["ip", "-o", "route", "get", lab.addresses["a"]]
    found = subprocess.run(route, check=True, capture_output=True, text=True).stdout
    return re.search(r"dev (\S+)", found)[1]  # type: ignore[index]


def shaped(lab: Network, host: str) -> str:
    command = ["tc", "-n", f"{lab.name}-{host}", "qdisc", "show", "dev", "eth0"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def wait_until(condition: Callable[[], bool], what: str) -> None:
    until_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < until_s, what
        time.sleep(0.05)


def answered(command: list[str], address: str) -> bool:
    ask = f"import socket; print(socket.create_connection(({address!r}, 5000), 5).recv(5))"
    done = subprocess.run([*command, sys.executable, "-c", ask], check=False, capture_output=True, text=True)
    return "hello" in done.stdout


def test_hosts_and_the_caller_reach_each_other_and_are_gone_afterwards() -> None:
    with Network.build(["a", "b"], {"b": 1e6}) as lab:
        server = lab.start("a", [sys.executable, "-c", _LISTEN, lab.addresses["a"]])
        wait_until(lambda: answered([], lab.addresses["a"]), "the caller does not reach a host")
        assert answered(lab.command("b", []), lab.addresses["a"])
        assert lab.name in names()
    assert server.poll() is not None
    assert lab.name not in names()
    assert not answered([], lab.addresses["a"])


def test_a_cards_rate_is_set_and_changed_and_taken_away() -> None:
    with Network.build(["a"], {"a": 25e6}) as lab:
        assert "rate 200Mbit" in shaped(lab, "a")
        lab.limit("a", 12.5e6)
        assert "rate 100Mbit" in shaped(lab, "a")
        lab.limit("a", None)
        assert "tbf" not in shaped(lab, "a")


def test_an_error_inside_leaves_nothing() -> None:
    with pytest.raises(RuntimeError, match="inside"), Network.build(["a"], {}) as lab:
        raise RuntimeError("inside")
    assert lab.name not in names()


def test_a_lab_that_cannot_be_laid_leaves_nothing() -> None:
    """The second host's name is no name for a namespace."""
    before = names()
    with pytest.raises(LabError), Network.build(["a", "no/name"], {}):
        pytest.fail("it was laid")
    assert names() == before


def test_what_a_killed_lab_left_is_removed_by_the_next() -> None:
    build = "from infra.lab.network import Network\nimport time\nwith Network.build(['a'], {}) as lab:\n"
    code = build + "    print(lab.name, flush=True)\n    time.sleep(600)\n"
    maker = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert maker.stdout is not None
    name = maker.stdout.readline().strip()
    maker.kill()
    maker.wait()
    maker.stdout.close()
    assert name in names()
    network.remove_dead()
    assert name not in names()


def test_labs_follow_one_another_at_once() -> None:
    """The caller's interface of the last one was still there: its namespace goes with a delay."""
    for _ in range(3):
        with Network.build(["a"], {"a": 25e6}) as lab:
            interface = interface_of(lab)
            assert f"{interface}@" in interfaces()
        assert f"{interface}@" not in interfaces()


def test_a_lab_is_removed_though_its_interface_is_gone() -> None:
    with Network.build(["a"], {}) as lab:
        subprocess.run(["ip", "link", "delete", interface_of(lab)], check=True)
    assert lab.name not in names()


def test_two_labs_of_one_process_are_apart() -> None:
    """Names, interfaces and subnets; what the one is told does not reach the other."""
    with Network.build(["a"], {"a": 25e6}) as one, Network.build(["a"], {"a": 25e6}) as other:
        assert not set(one.addresses.values()) & set(other.addresses.values())
        for lab in (one, other):
            lab.start("a", [sys.executable, "-c", _LISTEN, lab.addresses["a"]])
        for lab in (one, other):
            wait_until(partial(answered, [], lab.addresses["a"]), "the caller does not reach a host")
        assert not answered(one.command("a", []), other.addresses["a"])
        other.limit("a", 12.5e6)
        assert "rate 200Mbit" in shaped(one, "a")
        other.close()
        assert answered([], one.addresses["a"])


def test_what_a_machine_forbids_is_told_and_leaves_nothing() -> None:
    """Root without the right to make namespaces, as in many containers."""
    before = names()
    code = "from infra.lab.network import why_not; print(why_not())"
    less = ["setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin"]
    told = subprocess.run([*less, sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert "does not allow a lab" in told
    assert "ot permitted" in told
    assert names() == before


@pytest.mark.parametrize(("text", "rate"), [("200mbit", 25e6), ("25MB", 25e6), ("1gbit/s", 125e6), ("8 bit", 1.0)])
def test_rates_are_read(text: str, rate: float) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    "text", ["", "fast", "200", "-1mbit", "200mbits", "0mbit", "0.1bit", f"{'9' * 400}gbit", "99999gb"]
)
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a rate"):
        parse_rate(text)


def disk_rate(folder: Path) -> float | None:
    """A rate of the nodes' disks, where this machine can limit them."""
    try:
        with limit_disks(folder, ["probe"], 100e6):
            return 100e6
    except LabError:
        return None


def test_a_model_starts_cold_over_the_labs_network(tmp_path: Path) -> None:
    """The real platform on three hosts and a store; the units come over the cards."""
    source = make_tiny("llama", tmp_path / "source", seed=3)
    (tmp_path / "lab").mkdir()
    disk = disk_rate(tmp_path / "lab")
    with run_lab(tmp_path / "lab", 2, [2], 25e6, None, {"dram_bytes": "256MiB"}, disk_bytes_per_s=disk) as lab:
        publish(str(source), "tiny", ModelStore(ObjectStore(f"file://{tmp_path}/lab/buckets/models")))
        body = {"model": "tiny", "prompt": [5, 6, 7], "max_tokens": 4, "temperature": 0}
        answer = post(f"{lab.urls[2]}/v1/completions", json=body, timeout=DEADLINE_S)
        assert answer.status_code == 200, (answer.text, lab.log("frontend-2"))
        (start,) = get(f"{lab.urls[2]}/admin/cold-starts", timeout=DEADLINE_S).json()["cold_starts"]
    assert start["degree"] == 2
    fetched = [phase for phase in start["phases"] if phase["name"].startswith("fetch ")]
    assert {phase["where"] for phase in fetched} == {"node-0 from remote", "node-1 from remote"}


def test_a_lab_that_does_not_come_up_shows_the_end_of_its_logs(tmp_path: Path) -> None:
    """It named the folder of the logs, which was gone by then."""
    before = names()
    unready = run_lab(tmp_path, 1, [1], None, ready_s=0.0)
    with pytest.raises(LabError, match=r"(?s)not ready in time\n.*node-0: .*store: "), unready:
        pytest.fail("it came up at once")
    assert names() == before
