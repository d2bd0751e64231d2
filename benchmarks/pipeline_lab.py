"""Cold starts in a lab, one at a time, and what its cards really let through."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Collection

import httpx

from benchmarks.cold_start import ttft
from benchmarks.pipeline_models import Subject
from cluster.calibration import calibrate
from cluster.client import ClusterClient
from infra.lab.platform import STORE, Lab, settled
from storage_tiers.checkpoint import Checkpoint

SETTLE_S = 120.0
_RATE = """
import socket, sys, time
until_s = time.monotonic() + 30
while True:
    try:
        s = socket.create_connection((sys.argv[1], int(sys.argv[2])))
        break
    except ConnectionRefusedError:
        if time.monotonic() > until_s:
            raise
        time.sleep(0.05)
with s:
    started_s, got = time.perf_counter(), 0
    while data := s.recv(1 << 20):
        got += len(data)
    print(got / (time.perf_counter() - started_s))
"""
_SEND = """
import socket, sys
with socket.create_server((sys.argv[1], int(sys.argv[2]))) as listener:
    peer, _ = listener.accept()
    with peer:
        for _ in range(40):
            peer.sendall(bytes(1 << 20))
"""


def link_rate(lab: Lab) -> float:
    """Payload bytes per second that a plain socket brings from the store to a node."""
    host, port = lab.network.addresses[STORE], "9999"
    sender = lab.network.start(STORE, [sys.executable, "-c", _SEND, host, port])
    command = lab.network.command(lab.nodes[0], [sys.executable, "-c", _RATE, host, port])
    found = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
    sender.wait(10)
    return float(found)


def rest(lab: Lab, url: str) -> None:
    """Wait until no replica is up and a stage process waits on every node. TimeoutError if that takes too long."""
    until_s = time.monotonic() + SETTLE_S
    while not settled(lab, url):
        if time.monotonic() > until_s:
            raise TimeoutError("the lab did not come to rest")
        time.sleep(0.1)


def calibrated(lab: Lab) -> None:
    """Measure every node and the store, as the flow does every day; what was found of the store goes to stderr."""
    asyncio.run(_calibrate(lab))


async def _calibrate(lab: Lab) -> None:
    async with ClusterClient(lab.scheduler_address) as client:
        await client.nodes(len(lab.nodes))
        print((await calibrate(client)).store, file=sys.stderr)


def empty(lab: Lab, checkpoints: Collection[Checkpoint], but: Collection[str] = ()) -> None:
    """No node has any of the units, except the nodes in `but`."""
    asyncio.run(_empty(lab, checkpoints, but))


async def _empty(lab: Lab, checkpoints: Collection[Checkpoint], but: Collection[str]) -> None:
    async with ClusterClient(lab.scheduler_address) as client:
        for node in (await client.nodes(len(lab.nodes))).nodes:
            for checkpoint in checkpoints:
                if node.name not in but:
                    await client.evict(node.name, checkpoint)


def cold(lab: Lab, subject: Subject, degree: int, but: Collection[str] = ()) -> float:
    """TTFT in seconds of one cold start from empty tiers, those of the nodes in `but` left as they are."""
    rest(lab, lab.urls[degree])
    empty(lab, [subject.checkpoint], but)
    return ttft(lab.urls[degree], subject.name)


def fetched_bytes(lab: Lab, subject: Subject, degree: int) -> dict[str, int]:
    """By source ("remote", "peer node-4"), the bytes that the latest cold start of a model has fetched."""
    answer = httpx.get(f"{lab.urls[degree]}/admin/cold-starts", params={"model": subject.name, "limit": 1}, timeout=30)
    (start,) = answer.raise_for_status().json()["cold_starts"]
    found: dict[str, int] = {}
    for phase in start["phases"]:
        _, is_fetch, source = phase["where"].partition(" from ")
        if is_fetch:
            found[source] = found.get(source, 0) + phase["bytes"]
    return found
