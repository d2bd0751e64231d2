"""The stages of a node: memory reserved for each, its start, its units on their way, its end."""

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace

from cluster.errors import Refused, StageFailed
from cluster.node.config import NodeConfig
from cluster.node.device_memory import DeviceMemory
from cluster.node.exchange import UnitExchange
from cluster.node.local_stage import LocalStage
from cluster.node.pool import StagePool
from cluster.node.rate_book import RateBook
from cluster.node.row_service import RowService
from cluster.node.stage_process import StageProcess
from cluster.tasks import Tasks
from cluster.wire.orders import Adopt, AwaitUnits, BringUnits, FormStage, Renew
from cluster.wire.phases import TAKE_PROCESS, Phase, timed_phase
from cluster.wire.reports import StageFacts, StageFormed, StageLease
from cluster.wire.stages import Build
from schedules.placing.sources import store_first
from schedules.rates import formed
from storage_tiers.checkpoint import UnitIndex
from storage_tiers.errors import StorageError
from storage_tiers.tiers.stack import Loaded, Priority, TierStack

_log = logging.getLogger(__name__)
KEPT_PHASES = 64
REFILL_AT_LATEST_S = 10.0
OTHERS_STEP_S = 0.5
"""So long the other stages of a group may take for their first steps once one has done its own."""
WATCH_EVERY_S = 0.2
PATIENCE = 0.9
"""So much of an order's time its units are fetched for, whatever fails meanwhile; the rest is for saying what it was."""
KEPT_DISSOLVED, DISSOLVED_KEPT_S = 1024, 600.0
"""So many groups that were dissolved are remembered for so long: an order to form one may still be on its way."""


def load(
    tiers: TierStack,
    peers: UnitExchange,
    order: FormStage | BringUnits,
    unit: UnitIndex,
    priority: Priority,
    since_s: float,
    turn: int = 0,
    *,
    keep: bool = True,
    since: int | None = None,
) -> Future[Loaded]:
    """Have a unit that an order names brought to dram, from where the order says, with patience for most of the order's time
    since `since_s`. What the node has by now of its own comes before that."""
    asked = order.sources.get(unit.digest, ())
    sources, until_s = peers.sources(order.peers, asked), since_s + PATIENCE * order.timeout_s
    return tiers.load(
        order.model, unit, priority, sources, turn,
        peers_last=store_first(asked), until_s=until_s, keep=keep, since=since,
    )  # fmt: skip


class LocalStages:
    """Use from the node's event loop. `on_change` is called when a stage comes or goes, `on_lost` with the group and the
    cause when one cannot go on. While it is `draining` no more are formed."""

    def __init__(
        self,
        config: NodeConfig,
        tiers: TierStack,
        peers: UnitExchange,
        rates: RateBook,
        memory: DeviceMemory,
        pool: StagePool,
        tasks: Tasks,
        on_change: Callable[[], None],
        on_lost: Callable[[str, str], None],
    ) -> None:
        self._config, self._tiers, self._peers, self._rates, self._pool = config, tiers, peers, rates, pool
        self._memory, self._tasks, self._on_change, self._tell_lost = memory, tasks, on_change, on_lost
        self._rows = RowService(tiers, peers, copy=config.device == "cuda")
        self._stages: dict[str, LocalStage] = {}
        self._phases: dict[str, list[Phase]] = {}
        self._dissolved: dict[str, float] = {}
        self._turn = 0
        self._closing = False
        self._left = asyncio.Event()
        self.draining = False

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups that have a stage here."""
        return tuple(self._stages)

    @property
    def leases(self) -> tuple[StageLease, ...]:
        """Whose the stages are, and since when nobody has said so."""
        return tuple(stage.lease for stage in self._stages.values() if not stage.ending)

    @property
    def starting(self) -> bool:
        """From any thread: whether a cold start is under way."""
        return any(stage.starting for stage in list(self._stages.values()))

    @property
    def reserved_bytes(self) -> int:
        """Of the device's memory, what the stages have reserved."""
        return sum(stage.order.reserve_bytes for stage in self._stages.values())

    @property
    def sharing(self) -> int:
        """How many stages of a group share this machine at most; 1 without any."""
        return max((stage.order.sharing for stage in self._stages.values()), default=1)

    def phases(self, group: str) -> tuple[Phase, ...]:
        """What was done here for the group; the last KEPT_PHASES groups are remembered."""
        return tuple(self._phases.get(group, ()))

    async def form(self, order: FormStage) -> StageFormed:
        """Reserve, start the fetch and a stage process at once, and answer when the stage is in its group."""
        started_s = time.monotonic()
        stage = self._reserve(order)
        here = all(self._tiers.holds(unit) for unit in order.units)
        secret = secrets.token_hex(16)
        try:
            async with asyncio.timeout(order.timeout_s):
                self._turn += 1
                turn, later = self._turn, [unit for unit in order.units if unit.name in order.held_back]
                now = [unit for unit in order.units if unit.name not in order.held_back]
                loads = [self._load(stage, unit, _priority(order, unit), started_s, turn) for unit in now]
                self._spawn(stage, _all_of(loads), "units")  # also while there is no process to be given them
                self._tasks.spawn(self._tell_when_here(order, loads), "units are here")

                def give(process: StageProcess) -> None:
                    stage.phases.append(timed_phase(TAKE_PROCESS, self._config.name, started_s))
                    process.on_message = stage.hear
                    for each in loads:
                        self._spawn(stage, self._deliver(stage, each, process), "deliver")

                bare = replace(order, units=(), peers=(), sources={})
                build = Build(bare, secret, not order.behind and self._rows.serves(order), self._config.tls)
                process = await stage.take(lambda: self._start(stage, build, give))
                if later:
                    self._spawn(stage, self._load_later(stage, later, turn, process), "later")
                await stage.formed
        except BaseException as error:
            await stage.end()
            self._pool.fill()
            if isinstance(error, TimeoutError):
                raise StageFailed(f"the stage was not formed within {order.timeout_s:.0f} s") from error
            raise
        if not order.behind:  # one that is has a process made for it, and makes way meanwhile
            self._observe_forming(order, here, time.monotonic() - started_s)
            self._tasks.spawn(self._refill_behind(stage), "refill")
        stage.door = StageFormed(order.group, order.rank, self._config.host, process.idle.result().port, secret)
        return stage.door

    async def await_units(self, order: AwaitUnits) -> None:
        """Until the stage of the group has all its units. Refused if there is none here, StageFailed if it is lost before or
        that takes too long."""
        stage = self._running(order.group)
        try:
            async with asyncio.timeout(order.timeout_s):
                await asyncio.shield(stage.whole)
        except TimeoutError:
            raise StageFailed(f"its units did not all come within {order.timeout_s:.0f} s") from None

    def hurry(self, group: str) -> None:
        """What the group's stage still lacks comes as for a cold start. Refused if there is none here."""
        self._tiers.hurry(self._running(group).loads)
        self._on_change()

    def renew(self, order: Renew) -> tuple[str, ...]:
        """The groups may live so much longer from now, but for those that are returned: they are not here, or not the
        caller's."""
        missing = list[str]()
        for group in order.groups:
            stage = self._stages.get(group)
            if stage is None or stage.ending or stage.owner != order.owner:
                missing.append(group)
            else:
                stage.renew(order.lease_s)
        return tuple(missing)

    def facts(self, group: str) -> StageFacts:
        """What this node runs of the group. Refused if that is nothing."""
        return self._running(group).facts

    def adopt(self, order: Adopt) -> StageFormed:
        """Give the group to another owner. Refused if it is not here, or if its first stage is and is still renewed.

        The node of the first stage decides for all: no await between looking and giving, so that one of two gets it.
        """
        stage = self._running(order.group)
        if stage.door is None:
            raise Refused(f"group {order.group} is not formed")
        if stage.order.rank == 0 and stage.owner != order.owner and not stage.lease.orphaned:
            raise Refused(f"group {order.group} has an owner, who renews it")
        stage.owner = order.owner
        stage.renew(order.lease_s)
        return stage.door

    def _running(self, group: str) -> LocalStage:
        stage = self._stages.get(group)
        if stage is None or stage.ending:
            raise Refused(f"node {self._config.name} runs no stage of group {group}")
        return stage

    async def dissolve(self, group: str, owner: str = "") -> None:
        """End this node's stage of the group, if it has one, and form none of it any more. Refused if it is another's than
        `owner`'s."""
        stage = self._stages.get(group)
        if stage is not None and owner not in ("", stage.owner):
            raise Refused(f"group {group} is another owner's by now")
        now_s = time.monotonic()
        self._dissolved.pop(group, None)
        self._dissolved[group] = now_s + DISSOLVED_KEPT_S
        for name, until_s in list(self._dissolved.items()):
            if until_s > now_s and len(self._dissolved) <= KEPT_DISSOLVED:
                break
            del self._dissolved[name]
        if stage is not None:
            await stage.end()

    async def watch(self) -> None:
        """End groups whose lease nobody renewed, and those whose process has fallen silent."""
        while True:
            asleep_s = time.monotonic()
            await asyncio.sleep(WATCH_EVERY_S)
            held_up_s = time.monotonic() - asleep_s - WATCH_EVERY_S
            for group, stage in list(self._stages.items()):
                if held_up_s > WATCH_EVERY_S:
                    stage.forgive(held_up_s)
                elif stage.silent:
                    stage.lose("its stage process hangs: it gives no sign of life")
                if stage.expired:
                    _log.warning("group %s ends: nobody renewed its lease", group)
                    self._tasks.spawn(self.dissolve(group), "dissolve")

    async def gone(self) -> None:
        """Wait until there is none."""
        while self._stages:
            self._left.clear()
            await self._left.wait()

    async def close(self) -> None:
        """End all of them; no more are formed."""
        self._closing = True
        await asyncio.gather(*(self.dissolve(group) for group in self.groups))
        await asyncio.get_running_loop().run_in_executor(None, self._rows.close)

    def _reserve(self, order: FormStage) -> LocalStage:
        """No await between looking and taking: two orders cannot get the same memory."""
        if self._closing:
            raise Refused(f"node {self._config.name} is shutting down")
        if self.draining:
            raise Refused(f"node {self._config.name} is about to end")
        if self._dissolved.get(order.group, 0.0) > time.monotonic():
            raise Refused(f"node {self._config.name} was told to dissolve group {order.group} before it was to form it")
        if order.group in self._stages:
            raise Refused(f"node {self._config.name} already runs a stage of group {order.group}")
        free = self._memory.offered_bytes - self.reserved_bytes
        if order.reserve_bytes > free:
            raise Refused(f"node {self._config.name} has {free:,} bytes free, {order.reserve_bytes:,} asked")
        stage = LocalStage(order, self._config.name, self._on_lost, self._rates.observe)
        stage.on_ended = lambda: self._forget(stage)
        stage.on_rows_wanted = lambda rows: self._spawn(stage, self._give_rows(stage, rows), "rows")
        self._stages[order.group] = stage
        self._phases[order.group] = stage.phases
        while len(self._phases) > KEPT_PHASES:
            del self._phases[next(iter(self._phases))]
        self._on_change()
        return stage

    def _forget(self, stage: LocalStage) -> None:
        """It has ended, and nothing is left of it."""
        del self._stages[stage.order.group]
        self._left.set()
        self._on_change()

    def _load(
        self, stage: LocalStage, unit: UnitIndex, priority: Priority, since_s: float, turn: int
    ) -> Future[Loaded]:
        """Have a unit of the stage brought to dram; it is given up at the stage's end."""
        loading = load(self._tiers, self._peers, stage.order, unit, priority, since_s, turn)
        stage.expect([loading], self._tiers.give_up)
        return loading

    async def _tell_when_here(self, order: FormStage, loads: Sequence[Future[Loaded]]) -> None:
        """Those who bring units ahead elsewhere stand still until then, if anybody waits for the stage by now."""
        now = [unit for unit in order.units if unit.name not in order.held_back]
        awaited = zip(loads, now, strict=True)
        urgent = [load for load, unit in awaited if _priority(order, unit) is not Priority.AFTER_FIRST_TOKEN]
        await asyncio.gather(*map(asyncio.wrap_future, urgent), return_exceptions=True)
        self._on_change()

    async def _start(self, stage: LocalStage, build: Build, give: Callable[[StageProcess], None]) -> StageProcess:
        """A process that takes the order. One that comes behind has it made when the starts that are under way here have
        computed, or take long: until then the cores are theirs, and so is the process that waits."""
        if stage.order.behind:
            others = [one.stepped for one in self._stages.values() if one.starting and not one.order.behind]
            if others:
                await asyncio.wait(others, timeout=REFILL_AT_LATEST_S)
        return await self._pool.start(build, give, spare=stage.order.behind)

    def _observe_forming(self, order: FormStage, here: bool, took_s: float) -> None:
        if here:
            self._rates.observe(formed(order.degree), took_s)
        else:  # the group was joined over a wire full of units
            self._rates.observe_makeshift(formed(order.degree), took_s)

    async def _refill_behind(self, stage: LocalStage) -> None:
        """Make the next stage process ready when this one has computed, and those that share its cores have too: until then
        they are the cold start's."""
        await asyncio.wait({stage.stepped}, timeout=REFILL_AT_LATEST_S)
        if stage.order.sharing > 1:
            await asyncio.wait({stage.answered}, timeout=OTHERS_STEP_S)
        self._pool.fill()

    async def _load_later(
        self, stage: LocalStage, units: Sequence[UnitIndex], turn: int, process: StageProcess
    ) -> None:
        await asyncio.wait({stage.answered}, timeout=stage.order.timeout_s)
        if stage.ending:
            return
        now_s = time.monotonic()
        loads = [self._load(stage, unit, Priority.AFTER_FIRST_TOKEN, now_s, turn) for unit in units]
        await asyncio.gather(*(self._deliver(stage, each, process) for each in loads))

    async def _deliver(self, stage: LocalStage, load: Future[Loaded], process: StageProcess) -> None:
        await stage.deliver(await asyncio.wrap_future(load), process)

    async def _give_rows(self, stage: LocalStage, rows: Sequence[int]) -> None:
        """Answer a stage that asked for rows; if they cannot be had, its unit may still come."""
        try:
            data = await self._rows.read(stage.order, rows)
            if data is not None:
                await stage.give_rows(rows, data)
            else:
                stage.hurry()
        except (StorageError, StageFailed) as error:
            stage.hurry()
            _log.warning("no rows for group %s: %s", stage.order.group, error)

    def _spawn(self, stage: LocalStage, work: Awaitable[None], name: str) -> None:
        self._tasks.spawn(self._or_lose(stage, work), name)

    async def _or_lose(self, stage: LocalStage, work: Awaitable[None]) -> None:
        """Do what the stage waits for; it would wait in vain if that failed."""
        try:
            await work
        except (StorageError, StageFailed) as error:
            stage.lose(str(error))
        except Exception as error:
            _log.exception("group %s cannot be served", stage.order.group)
            stage.lose(f"{type(error).__name__}: {error}")

    def _on_lost(self, group: str, cause: str) -> None:
        if group in self._stages and not self._closing:
            _log.warning("group %s is lost: %s", group, cause)
            self._tasks.spawn(self.dissolve(group), "dissolve")
            self._tell_lost(group, cause)


async def _all_of(loads: Sequence[Future[Loaded]]) -> None:
    """Wait for all; what the first that fails raises."""
    await asyncio.gather(*(asyncio.wrap_future(each) for each in loads))


def _priority(order: FormStage, unit: UnitIndex) -> Priority:
    if order.behind:
        return Priority.MOVE
    return Priority.AFTER_FIRST_TOKEN if unit.name in order.later else Priority.COLD_START
