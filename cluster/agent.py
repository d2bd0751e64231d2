"""A node's agent: carries out orders, reports facts, owns the node's tiers, memory and stage processes.

It lives in the node's Dask worker as a plugin; orders come through one comm handler, reports leave as events. The node
has the last word: it refuses what does not fit, and the caller decides again.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

from distributed import Worker, WorkerPlugin

from cluster.errors import ClusterError, Refused, StageFailed
from cluster.local_stage import LocalStage
from cluster.messages import (
    HANDLER,
    TAKE_PROCESS,
    TOPIC,
    AskPhases,
    Build,
    Dissolve,
    Done,
    Evict,
    FormStage,
    LimitStore,
    NodeReport,
    NotDone,
    Phase,
    Phases,
    Probe,
    Renew,
    StageFormed,
    StageLost,
    StageReport,
    StageUnits,
    from_wire,
    to_wire,
)
from cluster.node_config import NodeConfig
from cluster.peers import Peers
from cluster.phases import timed_phase
from cluster.pool import StagePool
from cluster.probe import Prober
from cluster.rate_book import SAVE_EVERY_S, RateBook
from cluster.rendezvous import Rendezvous
from cluster.row_service import RowService
from schedules.rates import DECODE, NIC, SSD, STORE, formed, part_bytes, streams
from storage_tiers.checkpoint import UnitIndex
from storage_tiers.dram import DramTier
from storage_tiers.errors import StorageError
from storage_tiers.remote import ModelStore, ObjectStore
from storage_tiers.ssd import SsdTier
from storage_tiers.stack import Loaded, Priority, TierStack

_log = logging.getLogger(__name__)
KEPT_PHASES = 64
REFILL_AT_LATEST_S = 10.0
OTHERS_STEP_S = 0.5
"""So long the other stages of a group may take for their first steps once one has done its own."""
WATCH_EVERY_S = 0.2


class NodeAgent(WorkerPlugin):
    """See the module. Everything runs on the worker's event loop."""

    name = "firsttoken-agent"
    idempotent = True

    def __init__(self, config: NodeConfig) -> None:
        self._config = config
        models = ModelStore(ObjectStore(config.store_url, config.store_options, config.store_reader))
        dram = DramTier(config.dram_bytes, ready_bytes=config.dram_ready_bytes)
        ssd = SsdTier(config.ssd_dir, config.ssd_bytes, bounce=not dram.huge)
        self._tiers = TierStack(dram, ssd, models, config.fetch_threads, time.monotonic)
        self._peers = Peers(dram, ssd, config.host, config.use_peers)
        self._rows = RowService(self._tiers, self._peers)
        self._rates = RateBook(Path(config.ssd_dir))
        self._prober = Prober(config, models, self._rates, self._busy)
        self._pool = StagePool(
            config.pool_size, config.host, config.threads, config.device, self._prober.hear, DECODE not in self._rates
        )
        self._rendezvous = Rendezvous(config.host, config.tls.server() if config.tls is not None else None)
        self._machine = _machine()
        self._stages: dict[str, LocalStage] = {}
        self._phases: dict[str, list[Phase]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._closing = False
        self._reports = self._turn = 0

    async def setup(self, worker: Worker) -> None:
        """Take orders from now on, and report."""
        self._worker = worker
        worker.handlers[HANDLER] = self._on_order
        self._pool.fill()
        self._spawn(self._report_always(), "report")
        self._spawn(self._watch_stages(), "watch")
        self._spawn(self._prober.fill_gaps(), "measure")
        self._spawn(self._keep_rates(), "keep rates")

    async def teardown(self, worker: Worker) -> None:
        """End every stage process and free the tiers."""
        self._closing = True
        self._prober.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(self._dissolve(group) for group in list(self._stages)))
        await self._pool.close()
        for close in (self._peers.close_server, self._rows.close, self._tiers.close, self._peers.close):
            await asyncio.get_running_loop().run_in_executor(None, close)
        await asyncio.get_running_loop().run_in_executor(None, self._rendezvous.close)
        await self._save_rates()

    async def _on_order(self, order: Mapping[str, Any] | None) -> dict[str, Any]:
        """Carry out an order; without one, report."""
        message = None if order is None else from_wire(order)
        try:
            answer = await self._carry_out(message)
        except Refused as error:
            answer = NotDone(str(error), refused=True)
        except (ClusterError, StorageError, TimeoutError) as error:
            _log.warning("%s not done: %s", type(message).__name__, error)
            answer = NotDone(str(error) or type(error).__name__, refused=False)
        return to_wire(answer)

    async def _carry_out(self, message: object) -> object:
        match message:
            case FormStage():
                return await self._form(message)
            case Dissolve():
                await self._dissolve(message.group)
                return Done()
            case Renew():
                for group in message.groups:
                    if group in self._stages:
                        self._stages[group].renew(message.lease_s)
                return Done()
            case StageUnits():
                return await self._stage_units(message)
            case Evict():
                await asyncio.get_running_loop().run_in_executor(None, self._evict, message.digests)
                self._changed.set()
                return Done()
            case Probe():
                return await self._prober.carry_out(message, self._pool)
            case LimitStore():
                self._rates.limit_store(message.bytes_per_s)
                self._changed.set()
                return Done()
            case AskPhases():
                return Phases(tuple(self._phases.get(message.group, ())))
            case None:
                return self._report()
        raise ClusterError(f"{type(message).__name__} is not an order for a node")

    # ---- groups

    async def _form(self, order: FormStage) -> StageFormed:
        """Reserve, start the fetch and a stage process at once, and answer when the stage is in its group."""
        started_s = time.monotonic()
        stage = self._reserve(order)
        here = all(self._tiers.holds(unit) for unit in order.units)
        phases = self._phases[order.group] = []
        while len(self._phases) > KEPT_PHASES:
            del self._phases[next(iter(self._phases))]
        try:
            async with asyncio.timeout(order.timeout_s):
                self._turn += 1
                turn, later = self._turn, self._held_back(order)
                now = [unit for unit in order.units if unit not in later]
                loads = [self._load(order, unit, _priority(order, unit), turn) for unit in now]
                stage.expect(loads, self._tiers.give_up)
                process = await self._pool.take()
                phases.append(timed_phase(TAKE_PROCESS, self._config.name, started_s))
                secret = secrets.token_hex(16)
                stage.attach(process, phases)
                stage.on_rows_wanted = lambda rows: self._spawn(self._give_rows(stage, rows), "rows")
                bare = replace(order, units=(), peers=())
                await process.send(Build(bare, secret, self._rows.serves(order), self._config.tls))
                for load in loads:
                    self._spawn(self._deliver(stage, load), "deliver")
                if later:
                    self._spawn(self._load_later(stage, later, turn), "later")
                await stage.formed
        except BaseException as error:
            await self._dissolve(order.group)
            if isinstance(error, TimeoutError):
                raise StageFailed(f"the stage was not formed within {order.timeout_s:.0f} s") from error
            raise
        if here or formed(order.degree) not in self._rates:  # else the group was joined over a wire full of units
            self._rates.observe(formed(order.degree), time.monotonic() - started_s)
        self._spawn(self._refill_behind(stage), "refill")
        port = process.idle.result().port
        return StageFormed(order.group, order.rank, self._config.host, port, secret)

    async def _refill_behind(self, stage: LocalStage) -> None:
        """Make the next stage process ready when this one has computed, and those that share its cores have too: until then
        they are the cold start's."""
        await asyncio.wait({stage.stepped}, timeout=REFILL_AT_LATEST_S)
        if stage.order.sharing > 1:
            await asyncio.wait({stage.answered}, timeout=OTHERS_STEP_S)
        self._pool.fill()

    def _held_back(self, order: FormStage) -> list[UnitIndex]:
        """What is not even asked for until the group has answered: where the store limits all nodes together, bytes that no
        first token waits for are taken from the group's other stages."""
        missing = sum(unit.size_bytes for unit in order.units if unit.digest not in self._tiers.dram.held())
        free = self._config.dram_bytes - self._tiers.dram.used_bytes
        certain = missing <= free  # else it takes its memory now, or there may be none when it is asked for
        if order.degree == 1 or STORE not in self._rates.rates() or not certain:
            return []
        return [unit for unit in order.units if unit.name in order.later and not self._tiers.holds(unit)]

    async def _load_later(self, stage: LocalStage, units: Sequence[UnitIndex], turn: int) -> None:
        await asyncio.wait({stage.answered}, timeout=stage.order.timeout_s)
        if stage.ending:
            return
        loads = [self._load(stage.order, unit, Priority.AFTER_FIRST_TOKEN, turn) for unit in units]
        stage.expect(loads, self._tiers.give_up)
        await asyncio.gather(*(self._deliver(stage, load) for load in loads))

    def _reserve(self, order: FormStage) -> LocalStage:
        """No await between looking and taking: two orders cannot get the same memory."""
        if self._closing:
            raise Refused(f"node {self._config.name} is shutting down")
        if order.group in self._stages:
            raise Refused(f"node {self._config.name} already runs a stage of group {order.group}")
        free = self._config.device_bytes - self._reserved_bytes()
        if order.reserve_bytes > free:
            raise Refused(f"node {self._config.name} has {free:,} bytes free, {order.reserve_bytes:,} asked")
        stage = LocalStage(order, self._config.name, self._on_lost, self._rates.observe)
        self._stages[order.group] = stage
        self._changed.set()
        return stage

    def _busy(self) -> bool:
        """From any thread: whether a cold start or units are under way."""
        return self._tiers.loading or any(stage.starting for stage in list(self._stages.values()))

    def _reserved_bytes(self) -> int:
        return sum(stage.order.reserve_bytes for stage in self._stages.values())

    async def _deliver(self, stage: LocalStage, load: Future[Loaded]) -> None:
        try:
            await stage.deliver(await asyncio.wrap_future(load))
        except (StorageError, StageFailed) as error:
            stage.lose(str(error))

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

    def _on_lost(self, group: str, cause: str) -> None:
        if group in self._stages and not self._closing:
            _log.warning("group %s is lost: %s", group, cause)
            self._worker.log_event(TOPIC, to_wire(StageLost(group, self._config.name, cause)))
            self._spawn(self._dissolve(group), "dissolve")

    async def _dissolve(self, group: str) -> None:
        stage = self._stages.get(group)
        if stage is None:
            return
        await stage.end()
        self._stages.pop(group, None)
        self._changed.set()

    async def _watch_stages(self) -> None:
        """End groups whose lease nobody renewed, and those whose process has fallen silent."""
        while True:
            asleep_s = time.monotonic()
            await asyncio.sleep(WATCH_EVERY_S)
            late = time.monotonic() - asleep_s > 2 * WATCH_EVERY_S
            for group, stage in list(self._stages.items()):
                if late:
                    stage.forgive()
                elif stage.silent:
                    stage.lose("its stage process hangs: it gives no sign of life")
                if stage.expired:
                    _log.warning("group %s ends: nobody renewed its lease", group)
                    self._spawn(self._dissolve(group), "dissolve")

    # ---- tiers

    def _load(
        self, order: FormStage | StageUnits, unit: UnitIndex, priority: Priority, turn: int = 0
    ) -> Future[Loaded]:
        peers = self._peers.sources(order.peers, unit)
        late = isinstance(order, FormStage) and unit.digest in order.store_first
        return self._tiers.load(order.model, unit, priority, peers, turn, peers_last=late)

    async def _stage_units(self, order: StageUnits) -> StageReport:
        """Bring units to a tier, one after the other, behind every cold start."""
        started_s = time.monotonic()
        if order.tier not in ("dram", "ssd"):
            raise ClusterError(f"tier {order.tier!r} is not one that can be staged to: 'dram' or 'ssd'")
        fetched = present = 0
        for unit in order.units:
            if await self._stage_unit(order, unit):
                fetched += unit.size_bytes
            else:
                present += unit.size_bytes
            self._changed.set()
        seconds = time.monotonic() - started_s
        return StageReport(self._config.name, order.tier, len(order.units), fetched, present, seconds)

    async def _stage_unit(self, order: StageUnits, unit: UnitIndex) -> bool:
        """Whether anything had to be moved."""
        if order.tier == "ssd" and self._tiers.ssd.holds(unit):
            return False
        in_dram = unit.digest in self._tiers.dram.held()
        if order.tier == "dram" and in_dram:
            return False
        load = self._load(order, unit, Priority.PREWARM)
        try:
            loaded = await asyncio.wrap_future(load)
            if order.tier == "ssd":
                await asyncio.wrap_future(self._tiers.keep_on_ssd(unit, loaded.segment))
        finally:
            self._tiers.give_up(load)
        if order.tier == "ssd" and not in_dram:
            self._tiers.dram.drop(unit.digest)
        return True

    def _evict(self, digests: Sequence[str]) -> None:
        for digest in digests:
            self._tiers.dram.drop(digest)
            self._tiers.ssd.drop(digest)

    # ---- reports

    def _report(self) -> NodeReport:
        units = dict.fromkeys(self._tiers.ssd.held(), "ssd") | dict.fromkeys(self._tiers.dram.held(), "dram")
        self._reports += 1
        self._note_transfers()
        return NodeReport(
            sequence=self._reports,
            name=self._config.name,
            address=self._worker.address,
            host=self._config.host,
            rendezvous_port=self._rendezvous.port,
            rendezvous_secret=self._rendezvous.secret,
            dram_bytes=self._config.dram_bytes,
            dram_used_bytes=self._tiers.dram.used_bytes,
            ssd_bytes=self._config.ssd_bytes,
            ssd_used_bytes=self._tiers.ssd.used_bytes,
            device_bytes=self._config.device_bytes,
            device_reserved_bytes=self._reserved_bytes(),
            idle_stage_processes=self._pool.idle,
            busy_stage_processes=len(self._stages),
            groups=tuple(self._stages),
            units=units,
            peer_port=self._peers.port,
            peer_secret=self._peers.secret,
            rates=self._rates.rates(),
            machine=self._machine,
        )

    def _note_transfers(self) -> None:
        self._rates.observe_all(NIC, self._tiers.network.take())
        readers = max((stage.order.sharing for stage in self._stages.values()), default=1)
        self._rates.observe_all(SSD, [bytes_per_s * readers for bytes_per_s in self._tiers.from_ssd.take()])
        rates = self._rates.rates()
        self._tiers.read_at_once(streams(rates), part_bytes(rates))

    async def _keep_rates(self) -> None:
        while True:
            await asyncio.sleep(SAVE_EVERY_S)
            await self._save_rates()

    async def _save_rates(self) -> None:
        self._note_transfers()
        if (text := self._rates.changes()) is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._rates.write, text)

    async def _report_always(self) -> None:
        """A report when something changed, and every interval in any case."""
        while True:
            self._worker.log_event(TOPIC, to_wire(self._report()))
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), self._config.report_interval_s)
            except TimeoutError:
                continue

    def _spawn(self, work: Any, name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("task %s failed", task.get_name(), exc_info=error)


def _priority(order: FormStage, unit: UnitIndex) -> Priority:
    return Priority.AFTER_FIRST_TOKEN if unit.name in order.later else Priority.COLD_START


def _machine() -> str:
    """What tells this machine from others, the same in all its containers; "" if the kernel does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
