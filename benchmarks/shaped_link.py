"""A network link of a set rate: a namespace behind a veth pair, what it sends shaped by a token bucket."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.needs import Absent

_BURST = "128kb"
_QUEUE = "100ms"


@dataclass(frozen=True)
class ShapedLink:
    """The far end: `prefix` before a command runs it there, `host` is its address as seen from here."""

    host: str
    prefix: tuple[str, ...]


@contextlib.contextmanager
def shaped_link(rate_mbit_per_s: int) -> Iterator[ShapedLink]:
    """A link whose far end sends at most so much, until the block ends. Absent without root, iproute2 or tbf."""
    if os.geteuid() != 0:
        raise Absent("a shaped link needs root: run this benchmark with sudo")
    absent = [tool for tool in ("ip", "tc") if shutil.which(tool) is None]
    if absent:
        raise Absent(f"a shaped link needs {' and '.join(absent)}: install iproute2")
    name = f"ft-{os.getpid()}"
    near, far, third = f"{name}-n", f"{name}-f", os.getpid() % 250
    here, there = f"10.213.{third}.1", f"10.213.{third}.2"
    try:
        _call("ip", "netns", "add", name)
        _call("ip", "link", "add", near, "type", "veth", "peer", "name", far, "netns", name)
        _call("ip", "addr", "add", f"{here}/30", "dev", near)
        _call("ip", "link", "set", near, "up")
        _call("ip", "-n", name, "addr", "add", f"{there}/30", "dev", far)
        _call("ip", "-n", name, "link", "set", far, "up")
        _call("ip", "-n", name, "link", "set", "lo", "up")
        _call(
            "tc", "-n", name, "qdisc", "add", "dev", far, "root", "tbf",
            "rate", f"{rate_mbit_per_s}mbit", "burst", _BURST, "latency", _QUEUE,
        )  # fmt: skip
        yield ShapedLink(there, ("ip", "netns", "exec", name))
    finally:
        subprocess.run(["ip", "link", "del", near], check=False, capture_output=True)
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def _call(*command: str) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise Absent(f"a shaped link cannot be made here: {' '.join(command)}: {done.stderr.strip()}")
