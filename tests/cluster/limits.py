"""Limits that the kernel sets a process, to see what becomes of one that runs into them."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

_CGROUPS = (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup"))


@contextmanager
def few_processes(process: psutil.Process, most: int) -> Iterator[None]:
    """Of it and those that it forks there are `most` at once, until the block ends. Without root: no more at all."""
    if os.geteuid() != 0:
        before = process.rlimit(resource.RLIMIT_NPROC)
        process.rlimit(resource.RLIMIT_NPROC, (0, before[1]))
        yield
        process.rlimit(resource.RLIMIT_NPROC, before)
        return
    base = next((folder for folder in _CGROUPS if (folder / "cgroup.procs").exists()), None)
    if base is None:
        pytest.skip("root's processes are limited by cgroups only, and there are none here")
    ours = base / f"few-{process.pid}"
    try:
        ours.mkdir()
        (ours / "pids.max").write_text(str(most))
    except OSError as error:
        pytest.skip(f"no limit can be set: {error}")
    (ours / "cgroup.procs").write_text(str(process.pid))
    try:
        yield
    finally:
        (ours / "pids.max").write_text("max")
        while left := (ours / "cgroup.procs").read_text().split():
            for pid in left:
                with suppress(ProcessLookupError):
                    (base / "cgroup.procs").write_text(pid)
        ours.rmdir()


@contextmanager
def few_descriptors(more: int) -> Iterator[None]:
    """This process may have so many more descriptors than it has, until the block ends."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    fillers = [os.open("/dev/null", os.O_RDONLY)]
    while fillers[-1] < highest:  # what counts is the number, and lower ones may be free
        fillers.append(os.dup(fillers[0]))
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (fillers[-1] + 1 + more, before[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for fd in fillers:
            os.close(fd)
