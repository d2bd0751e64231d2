"""The stage processes of a node: forked from a zygote that has everything imported, kept ready, refilled behind."""

import asyncio
import logging
import os
from collections.abc import Callable, Mapping

from cluster.errors import StageFailed
from cluster.node.pool_news import PoolNews
from cluster.node.stage_process import StageProcess
from cluster.node.zygote_process import Started, ZygoteProcess, run_zygote
from cluster.wire.stages import Build, Idle

_log = logging.getLogger(__name__)
TRIES = 3
"""So many processes may not start, or not take their order, before a start fails."""
RETRY_S, RETRY_AT_MOST_S = 0.1, 5.0
LOOK_EVERY_S = 0.5
STOPPED_S = 1.5
"""A process that waits, or the zygote, may be stopped for so long before it is replaced. While it is it gets no order."""


class StagePool:
    """Keeps `size` processes ready beside those that are taken. Use from one event loop.

    They compute on `device`, "cpu" or "cuda": the only GPU that this process's environment lets its children see.
    `on_idle` hears of each that is ready. If `measure` says so the first one measures while it warms up. With `news` each is
    told of the node's memory for units, until it ends. They are forked from the zygote `first` while it lives, if there is
    one.
    """

    def __init__(
        self,
        size: int,
        host: str,
        threads: int,
        device: str,
        on_idle: Callable[[Idle], None],
        measure: bool,
        news: PoolNews | None = None,
        first: Started | None = None,
    ) -> None:
        self._size, self._host, self._threads, self._device = size, host, threads, device
        self._on_idle, self._measure, self._news, self._first = on_idle, measure, news, first
        self._zygote: ZygoteProcess | None = None
        self._families: set[int] = set()  # process groups, each that of a zygote and its stages
        self._waiting: list[StageProcess] = []
        self._forking = asyncio.Lock()
        self._refill: asyncio.Task[None] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._delay_s = 0.0
        self._told = ""
        self._closed = False

    @property
    def idle(self) -> int:
        """Processes that have everything imported and wait."""
        return sum(process.idle.done() and not process.ended.done() for process in self._waiting)

    def fill(self) -> None:
        """Start what is missing, in the background."""
        if self._closed:
            return
        if self._refill is None or self._refill.done():
            self._refill = asyncio.get_running_loop().create_task(self._start_missing())
        if self._watch is None or self._watch.done():
            self._watch = asyncio.get_running_loop().create_task(self._look_always())

    async def start(self, order: Build, on_try: Callable[[StageProcess], None], *, spare: bool = False) -> StageProcess:
        """A process that has taken the order. `on_try` is told of each that shall, just before; the caller bounds the wait.
        To `spare` those that wait one is made for it.

        StageFailed if the system has no process to give, or if several did not take the order.
        """
        for _ in range(TRIES):
            process = await self._take(spare)
            try:
                on_try(process)
                if await process.begin(order):
                    return process
            except BaseException:
                process.kill()
                raise
        raise StageFailed(f"{TRIES} stage processes, one after the other, did not take their order")

    async def measure(self) -> Mapping[str, float]:
        """What a process measures that is made for it. StageFailed if none starts."""
        async with self._forking:
            process = await self._fork(measure=True)
        try:
            return (await process.ready()).rates
        finally:
            await process.end()

    async def close(self) -> None:
        """End the waiting processes and the zygote; those taken are their takers' to end, before."""
        self._closed = True
        tasks = [task for task in (self._refill, self._watch) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._news is not None:
            await self._news.close()
        children = [*self._waiting, *([self._zygote] if self._zygote is not None else [])]
        await asyncio.gather(*(child.end() for child in children))
        self._reap_orphans()

    async def _take(self, spare: bool) -> StageProcess:
        """A process that is ready, or the first that will be; to `spare` those that wait a new one."""
        failures = 0
        while True:
            try:
                process = None if spare else self._best()
                if process is None:
                    async with self._forking:
                        process = (None if spare else self._best()) or await self._add(measure=False)
                self._waiting.remove(process)
                try:
                    await process.ready()
                except BaseException:
                    process.kill()
                    raise
                return process
            except StageFailed:
                failures += 1
                if failures == TRIES:
                    raise
            await asyncio.sleep(RETRY_S * failures)

    def _best(self) -> StageProcess | None:
        """One that waits and is not stopped, best one that is ready."""
        able = [process for process in self._waiting if not process.stopped]
        return min(able, key=lambda process: not process.idle.done(), default=None)

    async def _start_missing(self) -> None:
        """Until the pool is full, and a zygote is there for the next. What the system refuses is asked for again."""
        while self._zygote is None or self._zygote.ended.done() or len(self._waiting) < max(self._size, 1):
            await asyncio.sleep(self._delay_s)
            try:
                async with self._forking:
                    if len(self._waiting) < max(self._size, 1):
                        await self._add(self._measure)
                        self._measure = False
                    else:
                        await self._living_zygote().ready()
            except StageFailed as error:
                self._defer(str(error))

    def _defer(self, fault: str) -> None:
        """Something could not be started, or did not live until it was of use: the next is started later."""
        self._delay_s = min(max(RETRY_S, 2 * self._delay_s), RETRY_AT_MOST_S)
        if fault != self._told:
            _log.warning("%s; it is tried again", fault)
            self._told = fault

    async def _add(self, measure: bool) -> StageProcess:
        """One process more that waits. Call with `_forking`."""
        process = await self._fork(measure)
        process.idle.add_done_callback(self._hear)
        process.ended.add_done_callback(lambda _ended: self._miss(process))
        self._waiting.append(process)
        if self._news is not None:
            self._news.tell(process)
        return process

    async def _fork(self, measure: bool) -> StageProcess:
        return await self._living_zygote().fork(measure)

    def _living_zygote(self) -> ZygoteProcess:
        if self._closed:
            raise StageFailed("the node is shutting down")
        if self._zygote is None or self._zygote.ended.done():
            first, self._first = self._first, None
            self._zygote = ZygoteProcess(first or run_zygote(self._host, self._threads, self._device))
            self._zygote.ended.add_done_callback(self._miss_zygote)
            self._families.add(self._zygote.pid)
        return self._zygote

    def _hear(self, idle: "asyncio.Future[Idle]") -> None:
        self._delay_s, self._told = 0.0, ""
        self._on_idle(idle.result())

    def _miss(self, process: StageProcess) -> None:
        """A process is dead. One that waited is replaced; if it never came to wait, then only after a while."""
        if process in self._waiting:
            self._waiting.remove(process)
            if not process.idle.done():
                self._defer(f"a stage process ended before it was ready: {process.fault}")
            self.fill()

    def _miss_zygote(self, _ended: "asyncio.Future[None]") -> None:
        if not self._closed:
            _log.warning("the node's zygote died; its stages serve on, and another one is started")
            self.fill()

    async def _look_always(self) -> None:
        """End what is stopped for long: it would be of no use when it is wanted."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            for child in [*self._waiting, *([self._zygote] if self._zygote is not None else [])]:
                if child.stopped_s() > STOPPED_S:
                    _log.warning("process %d is stopped, and is ended", child.pid)
                    child.kill()
            self._reap_orphans()

    def _reap_orphans(self) -> None:
        """Have the kernel forget the dead whom nobody knows: a zygote died before it could tell of them."""
        for family in list(self._families):
            try:
                while os.waitpid(-family, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                if self._zygote is None or self._zygote.pid != family:
                    self._families.discard(family)
