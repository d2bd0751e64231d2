"""Finding processes by a mark in their environment, which every descendant inherits however it was started."""

import os
import socket
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

MARK = "TEST_RUN_MARK"


def marked(mark: str) -> dict[int, str]:
    """Pid and command line of every process whose environment carries `mark`."""
    wanted = f"{MARK}={mark}".encode()
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                if wanted in (folder / "environ").read_bytes().split(b"\0"):
                    found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
    return found


def listening(pids: Iterable[int]) -> dict[int, list[str]]:
    """The addresses, without ports, on which these processes listen for TCP or take UDP; those that listen at all, and are
    there still: between a zygote and a stage there is a process for a moment."""
    found = {}
    for pid in pids:
        try:
            sockets = psutil.Process(pid).net_connections(kind="inet")
        except psutil.NoSuchProcess:
            continue
        addresses = [
            one.laddr.ip for one in sockets if one.status == psutil.CONN_LISTEN or one.type == socket.SOCK_DGRAM
        ]
        if addresses:
            found[pid] = addresses
    return found


def left_after(mark: str, seconds: float) -> dict[int, str]:
    """The marked processes that are still there when `seconds` are over; returns at once when there are none."""
    deadline_s = time.monotonic() + seconds
    while (left := marked(mark)) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    return left
