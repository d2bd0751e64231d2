"""A node's agent: carries out orders, reports facts, owns the node's tiers, memory and stage processes.

It lives as long as the node's process, through the deaths of schedulers: orders come in at a door of its own, reports leave
as events of the Dask worker that the node is just now. The node has the last word: it refuses what does not fit, and the
caller decides again.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from distributed import Worker

from cluster.errors import ClusterError, Refused
from cluster.node.config import NodeConfig
from cluster.node.device_memory import DeviceMemory
from cluster.node.exchange import UnitExchange
from cluster.node.local_stages import LocalStages, load
from cluster.node.order_door import OrderDoor
from cluster.node.pool import StagePool
from cluster.node.pool_news import PoolNews
from cluster.node.prober import Prober
from cluster.node.rate_book import SAVE_EVERY_S, RateBook
from cluster.node.rendezvous import Rendezvous
from cluster.node.reporting import Reporter
from cluster.node.retaining import Retaining
from cluster.node.zygote_process import Started
from cluster.tasks import Tasks
from cluster.wire.orders import (
    HANDLER,
    Adopt,
    AskPhases,
    AskReport,
    AskStage,
    AwaitUnits,
    BringUnits,
    Dissolve,
    Evict,
    FormStage,
    HoldStaging,
    Hurry,
    LimitStore,
    Probe,
    Renew,
    Retain,
)
from cluster.wire.phases import unix_s
from cluster.wire.reports import TOPIC, Done, NotDone, Phases, Renewed, StageLost, UnitsBrought
from cluster.wire.stages import Idle
from cluster.wire.vocabulary import to_wire
from schedules.rates import DECODE
from storage_tiers.checkpoint import UnitIndex
from storage_tiers.errors import StorageError
from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore
from storage_tiers.pace import Pace
from storage_tiers.tiers.dram import DramTier
from storage_tiers.tiers.ssd import SsdTier
from storage_tiers.tiers.stack import Priority, TierStack

_log = logging.getLogger(__name__)
HELD_AT_MOST_S = 60.0
"""Staging stands still no longer than that, unless it is told so again."""


class NodeAgent:
    """See the module. Use from one event loop. Its stage processes are forked from `zygote`, or from one that it starts."""

    def __init__(self, config: NodeConfig, zygote: Started | None = None) -> None:
        self._config = config
        self._pace = Pace(config.network_bytes_per_s) if config.network_bytes_per_s else None
        models = ModelStore(ObjectStore(config.store_url, config.store_options, config.store_reader), self._pace)
        dram = DramTier(config.dram_bytes, ready_bytes=config.dram_ready_bytes)
        ssd = SsdTier(config.ssd_dir, config.ssd_bytes, bounce=not dram.huge)
        self._tiers = TierStack(dram, ssd, models, config.fetch_threads, time.monotonic)
        self._retaining = Retaining(dram, ssd)
        self._peers = UnitExchange(dram, ssd, config.host, config.use_peers, self._pace)
        self._rates = RateBook(Path(config.ssd_dir))
        self._prober = Prober(config, models, self._rates, self._busy)
        self._memory = DeviceMemory(config.device, config.device_bytes, config.pool_size)
        news = PoolNews(dram.pool) if config.device == "cuda" else None  # on a CPU nothing is pinned
        self._pool = StagePool(
            config.pool_size,
            config.host,
            config.threads,
            config.device,
            self._hear_idle,
            DECODE not in self._rates,
            news,
            zygote,
        )
        tls = config.tls.server() if config.tls is not None else None
        self._rendezvous = Rendezvous(config.host, tls)
        self._orders = OrderDoor(self._on_order, tls)
        self._tasks = Tasks()
        self._changed = asyncio.Event()
        self._stages = LocalStages(
            config, self._tiers, self._peers, self._rates, self._memory, self._pool, self._tasks, self._changed.set,
            self._tell_lost,
        )  # fmt: skip
        self._reporter = Reporter(
            config,
            self._tiers,
            self._memory,
            self._stages,
            self._pool,
            self._rates,
            self._peers,
            self._rendezvous,
            self._orders,
        )
        self._worker: Worker | None = None

    async def start(self) -> None:
        """Take orders from now on. OSError if nobody can listen at the node's address."""
        await self._orders.open(self._config.host)
        self._pool.fill()
        self._tasks.keep(self._report_always, "report")
        self._tasks.keep(self._stages.watch, "watch")
        self._tasks.keep(self._prober.fill_gaps, "measure")
        self._tasks.keep(self._keep_rates, "keep rates")

    def serve(self, worker: Worker) -> None:
        """Answer with a report whoever asks this worker; it may join a scheduler then."""
        worker.handlers[HANDLER] = self._introduce

    def join(self, worker: Worker) -> None:
        """The worker has joined a scheduler: report there from now on."""
        self._worker, self._reporter.address = worker, worker.address
        self._changed.set()

    def leave(self) -> None:
        """The worker is gone; nobody hears reports until another one joins."""
        self._worker, self._reporter.address = None, ""

    async def drain(self) -> None:
        """Take no more stages, say so, and wait for those that are here to be gone, as long as the node has for that."""
        if not self._stages.groups or not self._config.grace_s:
            return
        _log.info("asked to end: waiting for %s to be gone", ", ".join(self._stages.groups))
        self._stages.draining = True
        self._changed.set()
        try:
            async with asyncio.timeout(self._config.grace_s):
                await self._stages.gone()
        except TimeoutError:
            _log.warning("%s did not go within %.0f s", ", ".join(self._stages.groups), self._config.grace_s)

    def close_door(self) -> None:
        """Take no orders any more: who asks learns at once that the node is gone."""
        self._orders.close()

    async def close(self) -> None:
        """End every stage process and free the tiers."""
        self.close_door()
        if self._pace is not None:
            self._pace.close()
        self._prober.close()
        self._retaining.close()
        await self._stages.close()
        await self._tasks.close()
        await self._pool.close()
        for close in (self._peers.close_server, self._tiers.close, self._peers.close):
            await asyncio.get_running_loop().run_in_executor(None, close)
        await asyncio.get_running_loop().run_in_executor(None, self._rendezvous.close)
        await self._save_rates()

    async def _introduce(self) -> dict[str, Any]:
        return to_wire(self._reporter.answer(AskReport("", 0)))

    async def _on_order(self, message: object) -> object:
        """Carry out an order; what it comes to, or why it was not done."""
        try:
            answer = await self._carry_out(message)
        except Refused as error:
            answer = NotDone(str(error), refused=True)
        except (ClusterError, StorageError, TimeoutError) as error:
            _log.warning("%s not done: %s", type(message).__name__, error)
            answer = NotDone(str(error) or type(error).__name__, refused=False)
        except Exception as error:
            _log.exception("%s not done", type(message).__name__)
            answer = NotDone(f"node {self._config.name}: {type(error).__name__}: {error}", refused=False)
        return answer

    async def _carry_out(self, message: object) -> object:
        match message:
            case FormStage():
                return await self._stages.form(message)
            case AwaitUnits():
                await self._stages.await_units(message)
                return Done()
            case Dissolve():
                await self._stages.dissolve(message.group, message.owner)
                return Done()
            case Hurry():
                self._stages.hurry(message.group)
                return Done()
            case Renew():
                return Renewed(self._stages.renew(message))
            case AskStage():
                return self._stages.facts(message.group)
            case Adopt():
                return self._stages.adopt(message)
            case AskReport():
                return self._reporter.answer(message)
            case BringUnits():
                return await self._bring_units(message)
            case Evict():
                await asyncio.get_running_loop().run_in_executor(None, self._evict, message.digests)
                self._changed.set()
                return Done()
            case Retain():
                self._retaining.take(message)
                return Done()
            case HoldStaging():
                self._tiers.hold_staging(time.monotonic() + min(message.for_s, HELD_AT_MOST_S))
                return Done()
            case Probe():
                return await self._prober.carry_out(message, self._pool)
            case LimitStore():
                self._rates.limit_store(message.bytes_per_s)
                self._changed.set()
                return Done()
            case AskPhases():
                return Phases(self._stages.phases(message.group), unix_s(time.monotonic()))
        raise ClusterError(f"{type(message).__name__} is not an order for a node")

    def _busy(self) -> bool:
        """From any thread: whether a cold start or units are under way."""
        return self._tiers.loading or self._stages.starting

    def _hear_idle(self, idle: Idle) -> None:
        self._prober.hear(idle)
        if self._memory.hear(idle.context_bytes):
            self._changed.set()

    def _tell_lost(self, group: str, cause: str) -> None:
        self._say(StageLost(group, self._config.name, cause))

    def _say(self, message: object) -> None:
        if self._worker is not None:
            self._worker.log_event(TOPIC, to_wire(message))

    # ---- tiers

    async def _bring_units(self, order: BringUnits) -> UnitsBrought:
        """Bring units to a tier, one after the other, behind every cold start; none of them for the room of another."""
        started_s, since = time.monotonic(), self._tiers.dram.uses
        if order.tier not in ("dram", "ssd"):
            raise ClusterError(f"tier {order.tier!r} is not one that units are brought to: 'dram' or 'ssd'")
        for unit in order.units if order.tier == "dram" else ():
            self._tiers.dram.touch(unit.digest)
        fetched = present = 0
        try:
            async with asyncio.timeout(order.timeout_s):
                for unit in order.units:
                    if await self._bring_unit(order, unit, started_s, since):
                        fetched += unit.size_bytes
                    else:
                        present += unit.size_bytes
                    self._changed.set()
        except TimeoutError as error:
            done_bytes = fetched + present
            raise ClusterError(f"{done_bytes:,} bytes were brought in {order.timeout_s:.0f} s, and not all") from error
        tier = self._tiers.dram if order.tier == "dram" else self._tiers.ssd
        if gone := [unit.name for unit in order.units if not tier.holds(unit)]:
            raise ClusterError(f"{len(gone)} of {len(order.units)} units made room in {order.tier} for what came later")
        seconds = time.monotonic() - started_s
        return UnitsBrought(self._config.name, order.tier, len(order.units), fetched, present, seconds)

    async def _bring_unit(self, order: BringUnits, unit: UnitIndex, since_s: float, since: int) -> bool:
        """Whether anything had to be moved."""
        if order.tier == "ssd" and self._tiers.ssd.holds(unit):
            return False
        in_dram = unit.digest in self._tiers.dram.held()
        if order.tier == "dram" and in_dram:
            return False
        keep = order.tier == "ssd" or self._retaining.wants_on_ssd(unit.digest)
        loading = load(self._tiers, self._peers, order, unit, Priority.PREWARM, since_s, keep=keep, since=since)
        keeping: Future[None] | None = None
        try:
            loaded = await asyncio.wrap_future(loading)
            if order.tier == "ssd":
                keeping = self._tiers.keep_on_ssd(unit, loaded.segment)
        finally:
            self._tiers.give_up(loading)
        if keeping is not None:
            await self._kept(keeping)
        if order.tier == "ssd" and not in_dram:
            self._tiers.dram.drop(unit.digest)
        return True

    async def _kept(self, keeping: Future[None]) -> None:
        """It is on ssd; by now that alone holds it in dram."""
        try:
            await asyncio.wrap_future(keeping)
        finally:
            self._tiers.give_up_keeping(keeping)

    def _evict(self, digests: Sequence[str]) -> None:
        for digest in digests:
            self._tiers.dram.drop(digest)
            self._tiers.ssd.drop(digest)

    # ---- reports

    async def _keep_rates(self) -> None:
        while True:
            await asyncio.sleep(SAVE_EVERY_S)
            await self._save_rates()

    async def _save_rates(self) -> None:
        self._reporter.note_transfers()
        if (text := self._rates.changes()) is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._rates.write, text)

    async def _report_always(self) -> None:
        """A report when something changed, and every interval in any case."""
        while True:
            self._changed.clear()
            if self._worker is not None:
                self._say(self._reporter.tell())
            try:
                async with asyncio.timeout(self._config.report_interval_s):
                    await self._changed.wait()
            except TimeoutError:
                continue
