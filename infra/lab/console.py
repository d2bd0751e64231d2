"""What a person types at a lab that is up: change a card's rate, kill a host, look at the nodes, end it."""

import os
import select
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import httpx

from infra.lab.network import CALLER, LabError
from infra.lab.platform import Lab, parse_rate

HELP = """rate HOST RATE   set the card of a host, each way: rate node-0 100mbit, rate store 50mbit, rate store none
kill HOST        kill everything that runs on a host: kill node-1
status           the nodes as the front end sees them, the replicas, the rate of every card
help             this
quit             end the lab"""


def converse(lab: Lab, descriptor: int | None, until_s: float | None, say: Callable[[str], None]) -> None:
    """Obey the lines that come from a descriptor (None: there is none) until `quit`, or until the monotonic time.

    At the end of a terminal's input the lab ends too; at that of a pipe nobody is listened to any more.
    """
    rest = b""
    while until_s is None or time.monotonic() < until_s:
        wait_s = None if until_s is None else max(0.0, until_s - time.monotonic())
        if not select.select([] if descriptor is None else [descriptor], [], [], wait_s)[0]:
            continue
        assert descriptor is not None
        try:
            heard = os.read(descriptor, 4096)
        except OSError:  # a terminal that is gone, or whose foreground somebody else has
            descriptor = None
            continue
        if not heard and os.isatty(descriptor):
            return
        *lines, rest = (rest + (heard or b"\n")).split(b"\n")
        for line in lines:
            if line.split() == [b"quit"]:
                return
            say(obey(lab, line.decode(errors="replace").split()))
        if not heard:
            descriptor = None


def obey(lab: Lab, words: Sequence[str]) -> str:
    """Carry out one line; the answer, which is what is wrong with the line if it cannot be done."""
    try:
        match words:
            case []:
                return ""
            case ["rate", host, rate]:
                lab.network.limit(host, None if rate == "none" else parse_rate(rate))
                return f"{host}: {_rate(lab, host)}"
            case ["kill", host]:
                return f"{host}: killed {lab.network.kill(host)} processes"
            case ["status"]:
                return _status(lab)
            case ["help"]:
                return HELP
            case _:
                return f"{' '.join(words)!r} is no command here:\n{HELP}"
    except (ValueError, LabError, httpx.HTTPError) as error:
        return str(error)


def _status(lab: Lab) -> str:
    lines = [f"{host:10} {_rate(lab, host)}" for host in lab.network.addresses if host != CALLER]
    for degree, url in lab.urls.items():
        report = httpx.get(f"{url}/admin/status", timeout=10).raise_for_status().json()
        lines.append(f"as the front end of degree {degree} at {url} sees it:")
        for node in report["nodes"]:
            stages = node["stage_processes"]
            held = f"dram {node['dram_used_bytes'] / 1e6:.0f} MB, ssd {node['ssd_used_bytes'] / 1e6:.0f} MB"
            lines.append(f"  {node['name']:8} {held}, stage processes: {stages['idle']} idle, {stages['busy']} busy")
        lines += [_told(replica) for replica in report["replicas"]]
    return "\n".join(lines)


def _told(replica: Mapping[str, Any]) -> str:
    where = f" on {', '.join(replica['nodes'])}" if replica["nodes"] else ""
    return f"  {replica['model']} is {replica['state']}{where}"


def _rate(lab: Lab, host: str) -> str:
    rate = lab.network.rates.get(host)
    return "unlimited" if rate is None else f"{rate * 8 / 1e6:g} Mbit/s each way"
