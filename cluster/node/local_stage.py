"""A group's stage on this node, as the agent sees it: its process, its units, its lease."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace

from cluster.errors import StageFailed
from cluster.node.stage_process import StageProcess
from cluster.stage.pulse import SILENT_S
from cluster.wire.orders import FormStage
from cluster.wire.phases import ASSIGN, COPY, FETCH, FIRST_ANSWER, FIRST_STEP, FROM, Phase, timed_phase
from cluster.wire.reports import StageFacts, StageFormed, StageLease
from cluster.wire.stages import (
    Beat,
    Broken,
    Callers,
    Formed,
    PhaseDone,
    Quiet,
    RowsHere,
    RowsWanted,
    UnitCopied,
    UnitHere,
)
from schedules.rates import BUS, DECODE, PREFILL
from storage_tiers.tiers.stack import Loaded

PACKET_BYTES = 60 << 10
"""Of rows in one message: with its head it stays below 64 KiB."""
_ROW_NUMBER_BYTES = 9
_LEAST_WEIGHT_BYTES = 8 << 20
"""The steps of a smaller stage take the time of everything but its weights."""


class LocalStage:
    """Follows one stage from its order to its end; `on_lost(group, cause)` is called at most once.

    `observe` is told what was measured, by a name of schedules.rates. `door` is where it takes requests, once it is formed;
    `whole` is done when it has all its units.
    """

    def __init__(
        self,
        order: FormStage,
        node: str,
        on_lost: Callable[[str, str], None],
        observe: Callable[[str, float], None],
    ) -> None:
        self.order = order
        self.formed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.on_rows_wanted: Callable[[tuple[int, ...]], None] = lambda _rows: None
        self.whole: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.stepped: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.owner = order.owner
        self.door: StageFormed | None = None
        self._attended = False
        self._node, self._on_lost, self._observe = node, on_lost, observe
        self.on_ended: Callable[[], None] = lambda: None
        self._process: StageProcess | None = None
        self._taking: asyncio.Task[StageProcess] | None = None
        self.phases: list[Phase] = []
        self._loads: list[Future[Loaded]] = []
        self._lacking = {f"{ASSIGN}{unit.name}" for unit in order.units}
        self._ending: asyncio.Task[None] | None = None
        self._lost = False
        self._beat_s: float | None = None
        self._quiet_until_s = 0.0
        self.renew(order.lease_s)

    @property
    def expired(self) -> bool:
        """Whether the lease has run out and the stage still runs."""
        return self._ending is None and time.monotonic() > self._lease_until_s

    @property
    def ending(self) -> bool:
        """Whether it ends, or has ended."""
        return self._ending is not None

    @property
    def starting(self) -> bool:
        """Whether a cold start is under way: the stage is not formed, or some of its units are on their way."""
        return self._ending is None and (not self.formed.done() or not all(load.done() for load in list(self._loads)))

    @property
    def loads(self) -> tuple[Future[Loaded], ...]:
        """Under way for the stage, or there and pinned for it."""
        return tuple(self._loads)

    @property
    def silent(self) -> bool:
        """Whether the process has stopped giving signs of life, or was stopped before it gave any. To be asked often."""
        if self._ending is not None or self._process is None:
            return False
        heard_s = self._beat_s
        unheard_s = time.monotonic() - max(heard_s, self._quiet_until_s) if heard_s is not None else 0.0
        return max(unheard_s, self._process.stopped_s()) > SILENT_S

    @property
    def lease(self) -> StageLease:
        """Whose it is, as reports say it."""
        order, unrenewed_s = self.order, time.monotonic() - self._renewed_s
        return StageLease(
            order.group, order.rank, order.degree, self.door is not None, self._attended, self.owner, unrenewed_s
        )

    @property
    def facts(self) -> StageFacts:
        """What it runs, for whoever has to know it anew."""
        order, units = self.order, self.order.units
        return StageFacts(
            order.group, order.model, order.digest, order.rank, order.bounds, tuple(unit.name for unit in units),
            order.later, sum(unit.size_bytes for unit in units), order.reserve_bytes, order.kv_tokens,
        )  # fmt: skip

    def forgive(self, held_up_s: float) -> None:
        """The agent itself was held up for so long: what was not heard meanwhile does not count."""
        self._renewed_s += held_up_s
        if self._beat_s is not None:
            self._beat_s = time.monotonic()

    def renew(self, lease_s: float) -> None:
        """The stage may live `lease_s` longer from now."""
        self._renewed_s = time.monotonic()
        self._lease_until_s = self._renewed_s + lease_s

    def expect(self, loads: Sequence[Future[Loaded]], give_up: Callable[[Future[Loaded]], None]) -> None:
        """These loads too are under way for the stage. Each is given up, and its unit no longer pinned, at the stage's
        end, or as soon as the stage has a copy of its own."""
        self._loads += loads
        self._give_up = give_up

    def hurry(self) -> None:
        """What the first token did not wait for is wanted: `answered` is done."""
        if not self.answered.done():
            self.answered.set_result(None)

    async def take(self, start: Callable[[], Awaitable[StageProcess]]) -> StageProcess:
        """Wait for a process that takes the order, and attach it. That is not waited for beyond the stage's end: StageFailed
        with the cause then."""
        self._taking = asyncio.get_running_loop().create_task(self._start(start))
        self._taking.add_done_callback(lambda taking: taking.cancelled() or taking.exception())  # seen, if nobody waits
        await asyncio.wait({self._taking})
        if self._taking.cancelled():
            raise self._cause()
        return self._taking.result()

    async def _start(self, start: Callable[[], Awaitable[StageProcess]]) -> StageProcess:
        process = await start()
        self.attach(process)
        return process

    def attach(self, process: StageProcess) -> None:
        """`process` has taken the order: they end together. StageFailed, with the cause, if the stage has ended already."""
        if self._ending is not None:
            process.kill()
            raise self._cause()
        self._process = process
        process.ended.add_done_callback(lambda _future: self.lose("its stage process ended"))

    async def deliver(self, loaded: Loaded, process: StageProcess) -> None:
        """Hand a loaded unit to a process that has taken the order, or shall. StageFailed if it has, and is gone."""
        if self._ending is not None:
            return
        unit, name, where = loaded.unit, f"{FETCH}{loaded.unit.name}", f"{self._node}{FROM}{loaded.source}"
        size_bytes = unit.size_bytes if loaded.source != "dram" else 0
        if all(phase.name != name for phase in self.phases):  # else another process was to take the order before
            self.phases.append(timed_phase(name, where, loaded.started_s, loaded.ended_s, size_bytes))
        try:
            await process.send(UnitHere(replace(unit, blocks=None), loaded.segment.runs), loaded.segment.fd)
        except StageFailed:
            if await process.has_begun():
                raise

    async def give_rows(self, rows: Sequence[int], data: bytes) -> None:
        """Hand rows of the embedding to the process, in packets of up to PACKET_BYTES or one row. StageFailed if it is
        gone."""
        if self._process is None or self._ending is not None or not rows:
            return
        row_bytes = len(data) // len(rows)
        at_once = max(1, PACKET_BYTES // (row_bytes + _ROW_NUMBER_BYTES))
        for at in range(0, len(rows), at_once):
            some = tuple(rows[at : at + at_once])
            await self._process.send(RowsHere(some, data[at * row_bytes : (at + len(some)) * row_bytes]))

    def lose(self, cause: str) -> None:
        """The stage cannot go on."""
        if self._ending is not None or self._lost:
            return
        self._lost = True
        self._beat_s = None
        self._fail(cause)
        self._on_lost(self.order.group, cause)

    async def end(self) -> None:
        """End the process, or the wait for one, and give up its loads, once however often called and whoever is cancelled
        meanwhile; `on_ended` is called then. Who waits for the stage gets StageFailed."""
        if self._ending is None:
            self._ending = asyncio.get_running_loop().create_task(self._end())
            self.hurry()
            if not self.stepped.done():  # it computes nothing any more, so others need not wait for it
                self.stepped.set_result(None)
            self._fail("the group was dissolved while it was formed")
        await asyncio.shield(self._ending)

    def _fail(self, cause: str) -> None:
        for awaited in (self.formed, self.whole):
            if not awaited.done():
                awaited.set_exception(StageFailed(cause))
                awaited.exception()  # seen by whoever waits for it, if anybody still does

    def _cause(self) -> BaseException:
        """Why it has ended."""
        cause = self.formed.exception() if self.formed.done() else None
        return cause or StageFailed("it was formed, and ended at once")

    async def _end(self) -> None:
        try:
            if self._taking is not None and not self._taking.done():
                self._taking.cancel()
                await asyncio.wait({self._taking})
            if self._process is not None:
                await self._process.end()
        finally:
            while self._loads:
                self._give_up(self._loads.pop())
            self.on_ended()

    def hear(self, message: object) -> None:
        """What the process says of the stage."""
        if isinstance(message, Beat):
            self._beat_s = time.monotonic()
            self._observe_steps(message)
        elif isinstance(message, Quiet):
            self._quiet_until_s = time.monotonic() + message.within_s
        elif isinstance(message, Formed):
            self.phases.extend(message.phases)
            if not self.formed.done():
                self.formed.set_result(None)
        elif isinstance(message, PhaseDone):
            self.phases.append(message.phase)
            self._observe_copy(message.phase)
            self._lacking.discard(message.phase.name)
            if not self._lacking and not self.whole.done():
                self.whole.set_result(None)
            if message.phase.name == FIRST_STEP and not self.stepped.done():
                self.stepped.set_result(None)
            elif message.phase.name == FIRST_ANSWER:
                self.hurry()
        elif isinstance(message, Callers):
            self._attended = message.count > 0
        elif isinstance(message, RowsWanted):
            self.on_rows_wanted(message.rows)
        elif isinstance(message, UnitCopied):
            self._let_go(message.digest)
        elif isinstance(message, Broken):
            self.lose(message.cause)

    def _observe_steps(self, beat: Beat) -> None:
        weight_bytes = sum(unit.size_bytes for unit in self.order.units)
        if weight_bytes < _LEAST_WEIGHT_BYTES:
            return
        if beat.decode_s > 0:
            self._observe(DECODE, weight_bytes / beat.decode_s)
        if beat.prefill_s_per_token > 0:
            self._observe(PREFILL, weight_bytes / beat.prefill_s_per_token)

    def _observe_copy(self, phase: Phase) -> None:
        if phase.name.startswith(COPY) and phase.end_s > phase.start_s:
            self._observe(BUS, phase.bytes / (phase.end_s - phase.start_s))

    def _let_go(self, digest: str) -> None:
        for load in self._loads:
            if load.done() and load.exception() is None and load.result().unit.digest == digest:
                self._loads.remove(load)
                self._give_up(load)
                return
