"""The agent's end of a stage process, with real processes in its place."""

import asyncio
import os
import socket
import subprocess
import sys

import pytest

from cluster.pool import StageProcess
from cluster.wire import Channel

_DEADLINE_S = 30.0


@pytest.mark.parametrize("dies_first", [True, False])
def test_ending_a_process_that_is_dead_or_alive_gives_up_all_of_it(dies_first: bool) -> None:
    """One that had been killed and reaped before the loop saw it could not be ended: its reservation stayed for ever."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        try:
            asyncio.run(_end(process, Channel(ours), dies_first))
        finally:
            process.kill()
            process.communicate()
    assert ours.fileno() == -1


async def _end(process: subprocess.Popen[bytes], channel: Channel, dies_first: bool) -> None:
    stage = StageProcess(os.pidfd_open(process.pid), channel, asyncio.get_running_loop())
    if dies_first:
        process.kill()
        process.wait(_DEADLINE_S)
    async with asyncio.timeout(_DEADLINE_S):
        await stage.end()
        await stage.end()
    assert stage.ended.done()
