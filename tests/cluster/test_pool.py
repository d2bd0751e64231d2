"""The processes of a node, real ones: what they and their agent survive."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any

import psutil
import pytest
import pytest_asyncio

from cluster.errors import StageFailed
from cluster.node import parentage
from cluster.node.child import Child
from cluster.node.pool import StagePool
from cluster.node.rendezvous import Rendezvous
from cluster.node.stage_process import StageProcess
from cluster.wire.codec import Channel
from cluster.wire.hello import group_secret
from cluster.wire.orders import FormStage
from cluster.wire.stages import Beat, Build, Formed, RowsHere
from tests.cluster.limits import few_descriptors, few_processes

pytestmark = pytest.mark.asyncio(loop_scope="module")
_DEADLINE_S = 60.0
_CONFIG = {
    "model_type": "llama", "num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 64, "vocab_size": 64,
    "num_attention_heads": 2, "num_key_value_heads": 1, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


class _Deaf(Child):
    """A child that is any program."""

    def _hear(self, message: Any, fd: int | None) -> None:
        raise AssertionError("it cannot speak")


@pytest.fixture(scope="module")
def rendezvous() -> Iterator[Rendezvous]:
    made = Rendezvous("127.0.0.1")
    yield made
    made.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool() -> AsyncIterator[StagePool]:
    """A pool of one whose agent is this process; at its end nothing of it is left."""
    others = set(psutil.Process().children())
    made = StagePool(1, "127.0.0.1", 1, "cpu", lambda _idle: None, measure=False)
    made.fill()
    yield made
    await made.close()
    parentage._prctl(parentage._SET_CHILD_SUBREAPER, 0)  # other tests look for orphans of theirs
    await until(lambda: set(psutil.Process().children()) <= others)


async def until(condition: Callable[[], Any]) -> None:
    """Wait for what no event tells of."""
    async with asyncio.timeout(_DEADLINE_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def a_program() -> subprocess.Popen[bytes]:
    """A process that waits."""
    return subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)


async def ready(pool: StagePool) -> StageProcess:
    """The process that waits, once there is one that is ready."""
    await until(lambda: pool.idle)
    return pool._waiting[0]


def nothing(_process: StageProcess) -> None:
    """What a start is told to do with a process."""


def zygote(pool: StagePool) -> psutil.Process:
    assert pool._zygote is not None
    return psutil.Process(pool._zygote.pid)


def an_order(rendezvous: Rendezvous, group: str) -> Build:
    """To be the only stage of a group, whose units never come."""
    order = FormStage(
        group=group, model="m", rank=0, config_json=json.dumps(_CONFIG), dtype="float32", bounds=(0, 1), units=(),
        rendezvous_host="127.0.0.1", rendezvous_port=rendezvous.port,
        rendezvous_secret=group_secret(rendezvous.secret, group), reserve_bytes=1 << 20, kv_tokens=64,
        timeout_s=_DEADLINE_S, lease_s=_DEADLINE_S,
    )  # fmt: skip
    return Build(order, "secret")


async def serving(pool: StagePool, rendezvous: Rendezvous, group: str) -> StageProcess:
    """A process that has formed its group."""
    heard: list[Any] = []
    async with asyncio.timeout(_DEADLINE_S):
        process = await pool.start(an_order(rendezvous, group), lambda each: setattr(each, "on_message", heard.append))
    await until(lambda: process.ended.done() or any(isinstance(message, Formed) for message in heard))
    assert not process.ended.done()
    heard.clear()
    await until(lambda: any(isinstance(message, Beat) for message in heard))
    return process


@pytest.mark.parametrize("dies_first", [True, False])
async def test_ending_a_process_that_is_dead_or_alive_gives_up_all_of_it(dies_first: bool) -> None:
    """One that had been killed and reaped before the loop saw it could not be ended: its reservation stayed for ever."""
    ours, theirs = Channel.pair()
    with theirs:
        process = a_program()
        pidfd = os.pidfd_open(process.pid)
        child = _Deaf(process.pid, pidfd, Channel(ours))
        if dies_first:
            process.kill()
            process.wait(_DEADLINE_S)
        async with asyncio.timeout(_DEADLINE_S):
            await child.end()
            await child.end()
        process.communicate()
    assert ours.fileno() == -1
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(pidfd)
    with pytest.raises(StageFailed):
        await child.send(Beat())


async def test_what_does_not_fit_into_the_channel_comes_in_order_or_not_at_all() -> None:
    """A thread for each process waited for one that did not read, for as long as it did not."""
    ours, theirs = Channel.pair()
    reader, process = Channel(theirs), a_program()
    child = _Deaf(process.pid, os.pidfd_open(process.pid), Channel(ours))
    sends = [asyncio.ensure_future(child.send(RowsHere((number,), bytes(50_000)))) for number in range(20)]
    await asyncio.sleep(0)
    given_up = sends.pop(10)
    given_up.cancel()
    assert not sends[9].done()
    came = []
    for _ in range(15):
        message, _fd = await asyncio.to_thread(reader.receive)
        came.append(message.rows[0])
    assert came == [*range(10), *range(11, 16)]
    await child.end()
    results = await asyncio.gather(*sends, return_exceptions=True)
    assert isinstance(results[-1], StageFailed)
    reader.close()
    process.communicate()


async def test_a_stage_holds_no_descriptor_but_its_own(pool: StagePool, rendezvous: Rendezvous) -> None:
    """One that had another's end of a channel would keep that from seeing its end."""

    def sockets(pid: int) -> set[str]:
        links = set()
        for fd in set(os.listdir(f"/proc/{pid}/fd")) - {"0", "1", "2"}:
            with suppress(FileNotFoundError):  # that which the list came by
                links.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
        return {link for link in links if "eventpoll" not in link}

    process = await serving(pool, rendezvous, "own")
    pool.fill()
    waiting = await ready(pool)
    everyone = [process.pid, waiting.pid, zygote(pool).pid, os.getpid()]
    held = [sockets(pid) for pid in everyone]
    assert all(not one & other for at, one in enumerate(held) for other in held[at + 1 :]), held
    assert all(link.startswith("socket:") for link in held[1]), held[1]
    await process.end()


async def test_stages_survive_their_zygote_which_is_replaced(pool: StagePool, rendezvous: Rendezvous) -> None:
    """Killing it ended every replica of the node."""
    process = await serving(pool, rendezvous, "survives")
    waiting = await ready(pool) if pool._waiting else None
    first = zygote(pool)
    first.kill()
    await until(lambda: pool._zygote is not None and pool._zygote.pid != first.pid)
    another = await serving(pool, rendezvous, "of another zygote")
    assert not process.ended.done()
    assert waiting is None or not waiting.ended.done()
    assert process.pid in [child.pid for child in psutil.Process().children()]
    await process.end()
    await another.end()
    await until(lambda: len(pool._families) == 1)


@pytest.mark.parametrize("most", [1, 2])
async def test_a_fork_that_is_refused_costs_that_start_alone(
    pool: StagePool, rendezvous: Rendezvous, caplog: pytest.LogCaptureFixture, most: int
) -> None:
    """It ended the zygote, and with that the node's replicas. `most` processes: the zygote, and one more that forks."""
    process = await serving(pool, rendezvous, f"before {most}")
    pool.fill()
    await (await ready(pool)).end()
    before = zygote(pool)
    pool._refill and await asyncio.wait({pool._refill})
    with few_processes(before, most):
        await (await ready(pool)).end()
        for _ in range(2):
            with pytest.raises(StageFailed, match=r"no stage process can be made: .*temporarily unavailable"):
                await pool.start(an_order(rendezvous, f"refused {most}"), nothing)
    told = [record for record in caplog.records if "it is tried again" in record.message]
    assert len(told) == 1, "it is told once"
    await ready(pool)
    another = await serving(pool, rendezvous, f"after {most}")
    assert not process.ended.done()
    assert zygote(pool) == before
    await process.end()
    await another.end()


async def test_a_stopped_process_gets_no_order(pool: StagePool, rendezvous: Rendezvous) -> None:
    """It cost a start its whole timeout. One that is stopped for long is ended; another takes its place."""
    pool.fill()
    stopped = await ready(pool)
    os.kill(stopped.pid, signal.SIGSTOP)
    await until(lambda: stopped.stopped)
    process = await serving(pool, rendezvous, "beside a stopped one")
    assert process is not stopped
    await until(stopped.ended.done)
    await ready(pool)
    await process.end()


async def test_a_process_that_is_stopped_with_its_order_on_the_way_is_replaced(
    pool: StagePool, rendezvous: Rendezvous, caplog: pytest.LogCaptureFixture
) -> None:
    pool.fill()
    chosen = await ready(pool)
    take, taken = pool._take, []

    async def take_and_stop(spare: bool) -> StageProcess:
        taken.append(await take(spare))
        if len(taken) == 1:
            os.kill(taken[0].pid, signal.SIGSTOP)
        return taken[-1]

    pool._take = take_and_stop  # type: ignore[method-assign] # the moment between is too short to be hit
    try:
        process = await serving(pool, rendezvous, "second choice")
    finally:
        pool._take = take  # type: ignore[method-assign]
    assert taken == [chosen, process]
    assert chosen.ended.done()
    assert any("does not take its order" in record.message for record in caplog.records)
    await process.end()


async def test_the_process_that_waits_is_spared(pool: StagePool, rendezvous: Rendezvous) -> None:
    """It is there for the next cold start, also while another process is made for what can wait."""
    pool.fill()
    waiting = await ready(pool)
    async with asyncio.timeout(_DEADLINE_S):
        process = await pool.start(an_order(rendezvous, "comes behind"), nothing, spare=True)
    assert process is not waiting
    assert await ready(pool) is waiting
    await process.end()


@pytest.mark.parametrize("imports", [False, True], ids=["that forks", "that imports"])
async def test_a_stopped_zygote_is_replaced(pool: StagePool, rendezvous: Rendezvous, imports: bool) -> None:
    """A fork waited for it for ever."""
    first = zygote(pool)
    if imports:
        first.kill()
        await until(lambda: pool._zygote is not None and pool._zygote.pid != first.pid)
        first = zygote(pool)
        assert pool._zygote is not None
        assert not pool._zygote._imported.done()
    first.suspend()
    if pool._waiting:
        await pool._waiting[0].end()
    process = await serving(pool, rendezvous, f"of the next {imports}")
    assert zygote(pool) != first
    assert not first.is_running()
    await process.end()


@pytest.mark.parametrize("more", [0, 1])
async def test_a_node_without_descriptors_says_so_and_goes_on(
    pool: StagePool, rendezvous: Rendezvous, more: int
) -> None:
    """What could not be opened must not be waited for, and the zygote has no part in it."""
    pool.fill()
    await ready(pool)
    before = zygote(pool)
    with few_descriptors(more):
        first = await pool.start(an_order(rendezvous, f"the last {more}"), nothing)
        with pytest.raises(StageFailed, match="Too many open files"):
            await pool.start(an_order(rendezvous, "no descriptors"), nothing)
    second = await serving(pool, rendezvous, f"descriptors again {more}")
    assert not first.ended.done()
    assert zygote(pool) == before
    await first.end()
    await second.end()


async def test_a_process_that_cannot_start_a_thread_says_so(pool: StagePool, rendezvous: Rendezvous) -> None:
    """It ended without a word, and what was logged said to look into the log."""
    pool.fill()
    await ready(pool)
    with few_processes(zygote(pool), 3):  # as for the first stage, and it has no threads
        await (await ready(pool)).end()
        with pytest.raises(StageFailed, match=r"RuntimeError: .*(thread|temporarily unavailable)"):
            await pool.start(an_order(rendezvous, "no threads"), nothing)
    pool.fill()
    await ready(pool)


async def test_a_start_that_is_given_up_leaves_nothing(pool: StagePool, rendezvous: Rendezvous) -> None:
    """At whatever moment: in the queue for a fork, while it is forked, ready, or has its order."""
    pool.fill()
    await ready(pool)
    children, descriptors = len(psutil.Process().children()), len(os.listdir("/proc/self/fd"))
    for wait_s in (0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08):
        starts = [
            asyncio.ensure_future(pool.start(an_order(rendezvous, f"given up {wait_s} {n}"), nothing)) for n in range(2)
        ]
        await asyncio.sleep(wait_s)
        for start in starts:
            start.cancel()
        for process in await asyncio.gather(*starts, return_exceptions=True):
            if isinstance(process, StageProcess):
                await process.end()
    pool.fill()
    await ready(pool)
    await until(lambda: len(psutil.Process().children()) == children)
    await until(lambda: len(os.listdir("/proc/self/fd")) == descriptors)
