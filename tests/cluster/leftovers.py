"""What a node could leave behind: reservations, processes, memory, files."""

import asyncio
import os
import time
from pathlib import Path

import psutil

from cluster.client import ClusterClient
from cluster.wire.orders import AskReport
from cluster.wire.reports import NodeReport
from storage_tiers.checkpoint import Checkpoint
from tests.cluster.groups import TIMEOUT_S
from tests.real_cluster import RealCluster

Memory = frozenset[tuple[int, int]]
"""Files in memory, by device and inode."""


async def report_of(client: ClusterClient, node: str) -> NodeReport:
    """What the node says of itself now, with all its units."""
    return await client._order(node, AskReport("", 0), NodeReport, TIMEOUT_S)


def unit_files(folder: Path) -> dict[str, int]:
    """What lies in an ssd folder for units, whole or not: names and sizes."""
    return {path.name: path.stat().st_size for path in folder.iterdir() if len(path.name) >= 64}


async def nothing_of(checkpoint: Checkpoint, client: ClusterClient, cluster: RealCluster, node: str, ssd: Path) -> None:
    """Wait until the node serves nothing, then have it drop the model: then there is nothing of it anywhere on the node.

    The model must be the only one there.
    """
    deadline_s = time.monotonic() + TIMEOUT_S
    while (left := await _left(checkpoint, client, cluster, node, ssd)) and time.monotonic() < deadline_s:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    assert not left, left


async def _left(
    checkpoint: Checkpoint, client: ClusterClient, cluster: RealCluster, node: str, ssd: Path
) -> dict[str, object]:
    """What there still is, by what it is."""
    await client.evict(node, checkpoint)  # each time, as what is just being written to ssd is held for that
    report = await report_of(client, node)
    counted = {
        "groups": report.stages,
        "busy processes": report.busy_stage_processes,
        "reserved": report.device_reserved_bytes,
        "dram": report.dram_used_bytes,
        "ssd": report.ssd_used_bytes,
        "units": report.gained,
        "files": unit_files(ssd),
        "stages": len(cluster.stages(node)) - report.idle_stage_processes,
    }
    return {what: count for what, count in counted.items() if count}


def tree(pid: int) -> list[psutil.Process]:
    """A process and all below it."""
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def memory_of(process: psutil.Process) -> Memory:
    """The files in memory that a process holds: those without a name (memfd), and those of /dev/shm."""
    found = set()
    for folder in ("fd", "map_files"):
        base = f"/proc/{process.pid}/{folder}"
        try:
            for name in os.listdir(base):
                target = os.readlink(f"{base}/{name}")
                if target.startswith(("/memfd:", "/dev/shm/")):
                    status = os.stat(f"{base}/{name}")
                    found.add((status.st_dev, status.st_ino))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return frozenset(found)


def held_by_anyone(memory: Memory) -> bool:
    """Whether any process, or a name in /dev/shm, keeps one of these files alive."""
    named = frozenset((path.stat().st_dev, path.stat().st_ino) for path in Path("/dev/shm").iterdir())
    return bool(memory & named) or any(memory & memory_of(process) for process in psutil.process_iter())
