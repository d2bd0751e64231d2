"""A node by itself, in a process of its own."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from firsttoken.ports import free_port
from tests.real_cluster import STOP_DEADLINE_S, RealCluster

START_DEADLINE_S = 60.0


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_node_that_still_waits_for_its_first_scheduler_ends_when_it_is_told_to(
    tmp_path: Path, signum: signal.Signals
) -> None:
    """The signal was noted, but nobody looked at it before a scheduler was there: such nodes had to be killed, and
    systemd waited out its timeout for each."""
    cluster = RealCluster(f"tcp://127.0.0.1:{free_port()}", f"file://{tmp_path / 'store'}", tmp_path, {})
    cluster.start_node("node-0")
    node = psutil.Process(cluster.processes["node-0"].pid)
    try:
        deadline_s = time.monotonic() + START_DEADLINE_S
        while not (below := node.children(recursive=True)):  # it has a zygote as soon as it turns to the scheduler
            assert time.monotonic() < deadline_s, cluster.log("node-0")
            time.sleep(0.05)
        node.send_signal(signum)
        assert cluster.ended("node-0") == 0
    finally:
        for process in cluster.processes.values():
            process.kill()
            process.wait()
    assert [line for line in cluster.log("node-0").splitlines() if " - INFO - " not in line] == []
    _, alive = psutil.wait_procs(below, timeout=STOP_DEADLINE_S)
    assert not alive


def test_an_agent_imports_neither_torch_nor_transformers() -> None:
    """Each took over a second of its start and 300 MB of its machine, for the name of a class: they are its zygote's."""
    code = "import sys, cluster.node.agent; print([name for name in ('torch', 'transformers') if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=START_DEADLINE_S, check=True
    )
    assert done.stdout == "[]\n"
