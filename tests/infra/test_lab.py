"""The lab: hosts that reach each other through cards of a set rate, and nothing left of them on any path."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from infra.lab import network
from infra.lab.network import LabError, Network
from infra.lab.platform import parse_rate, run_lab
from storage_tiers.publish import publish
from storage_tiers.remote import ModelStore, ObjectStore
from tests.tiny import make_tiny

DEADLINE_S = 60.0
_SUBNET = "10.214.0.0/24"  # beside a lab that somebody may have up
_LISTEN = """
import socket, sys
with socket.create_server((sys.argv[1], 5000)) as listener:
    print("listening", flush=True)
    while True:
        peer, _ = listener.accept()
        with peer:
            peer.sendall(b"hello")
"""


@pytest.fixture(autouse=True)
def _possible() -> None:
    """Without root or iproute2 a lab's test skips at home and fails in CI."""
    problem = network.why_not()
    if problem and os.environ.get("CI"):
        pytest.fail(problem)
    if problem:
        pytest.skip(problem)


def names() -> str:
    return subprocess.run(["ip", "netns", "list"], check=True, capture_output=True, text=True).stdout


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
    with Network.build(["a", "b"], {"b": 1e6}, _SUBNET) as lab:
        server = lab.start("a", [sys.executable, "-c", _LISTEN, lab.addresses["a"]])
        wait_until(lambda: answered([], lab.addresses["a"]), "the caller does not reach a host")
        assert answered(lab.command("b", []), lab.addresses["a"])
        assert lab.name in names()
    assert server.poll() is not None
    assert lab.name not in names()
    assert not answered([], lab.addresses["a"])


def test_a_cards_rate_is_set_and_changed_and_taken_away() -> None:
    with Network.build(["a"], {"a": 25e6}, _SUBNET) as lab:
        assert "rate 200Mbit" in shaped(lab, "a")
        lab.limit("a", 12.5e6)
        assert "rate 100Mbit" in shaped(lab, "a")
        lab.limit("a", None)
        assert "tbf" not in shaped(lab, "a")


def test_an_error_inside_leaves_nothing() -> None:
    with pytest.raises(RuntimeError, match="inside"), Network.build(["a"], {}, _SUBNET) as lab:
        raise RuntimeError("inside")
    assert lab.name not in names()


def test_a_lab_that_cannot_be_laid_leaves_nothing() -> None:
    """The second host's name is no name for a namespace."""
    before = names()
    with pytest.raises(LabError), Network.build(["a", "no/name"], {}, _SUBNET):
        pytest.fail("it was laid")
    assert names() == before


def test_what_a_killed_lab_left_is_removed_by_the_next() -> None:
    build = (
        f"from infra.lab.network import Network\nimport time\nwith Network.build(['a'], {{}}, {_SUBNET!r}) as lab:\n"
    )
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


@pytest.mark.parametrize(("text", "rate"), [("200mbit", 25e6), ("25MB", 25e6), ("1gbit/s", 125e6), ("8 bit", 1.0)])
def test_rates_are_read(text: str, rate: float) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["", "fast", "200", "-1mbit", "200mbits"])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a rate"):
        parse_rate(text)


def test_a_model_starts_cold_over_the_labs_network(tmp_path: Path) -> None:
    """The real platform on three hosts and a store; the units come over the cards."""
    source = make_tiny("llama", tmp_path / "source", seed=3)
    with run_lab(tmp_path / "lab", 2, [2], 25e6, node_settings={"dram_bytes": "256MiB"}) as lab:
        publish(str(source), "tiny", ModelStore(ObjectStore(f"file://{tmp_path}/lab/buckets/models")))
        body = {"model": "tiny", "prompt": [5, 6, 7], "max_tokens": 4, "temperature": 0}
        answer = httpx.post(f"{lab.urls[2]}/v1/completions", json=body, timeout=DEADLINE_S)
        assert answer.status_code == 200, (answer.text, lab.log("frontend-2"))
        (start,) = httpx.get(f"{lab.urls[2]}/admin/cold-starts", timeout=DEADLINE_S).json()["cold_starts"]
    assert start["degree"] == 2
    fetched = [phase for phase in start["phases"] if phase["name"].startswith("fetch ")]
    assert {phase["where"] for phase in fetched} == {"node-0 from remote", "node-1 from remote"}


def test_the_command_ends_cleanly_however_often_it_is_told_to(tmp_path: Path) -> None:
    """A second Ctrl-C while it tidied up left half a lab behind."""
    source = make_tiny("llama", tmp_path / "source")
    arguments = ["--nodes", "1", "--degree", "1", "--publish", str(source)]
    log = (tmp_path / "log").open("w+")
    with log, subprocess.Popen([sys.executable, "-m", "infra.lab", *arguments], stdout=log, stderr=log) as lab:
        try:
            wait_until(lambda: "Ctrl-C ends it" in (tmp_path / "log").read_text(), "it does not come up")
            for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
                lab.send_signal(signum)
                time.sleep(0.2)
            assert lab.wait(DEADLINE_S) == 0
        finally:
            with contextlib.suppress(ProcessLookupError):
                lab.kill()
    assert f"{network.PREFIX}{lab.pid}" not in names()
