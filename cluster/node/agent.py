"""A node's agent: carries out orders, reports facts, owns the node's tiers, memory and stage processes.

It lives in the node's Dask worker as a plugin; orders come through one comm handler, reports leave as events. The node
has the last word: it refuses what does not fit, and the caller decides again.
"""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distributed import Worker, WorkerPlugin

from cluster.errors import ClusterError, Refused
from cluster.node.config import NodeConfig
from cluster.node.local_stages import LocalStages, load
from cluster.node.peers import Peers
from cluster.node.pool import StagePool
from cluster.node.probe import Prober
from cluster.node.rate_book import SAVE_EVERY_S, RateBook
from cluster.node.rendezvous import Rendezvous
from cluster.node.tasks import Tasks
from cluster.wire.orders import HANDLER, AskPhases, BringUnits, Dissolve, Evict, FormStage, LimitStore, Probe, Renew
from cluster.wire.reports import TOPIC, Done, NodeReport, NotDone, Phases, StageLost, UnitsBrought
from cluster.wire.vocabulary import from_wire, to_wire
from schedules.rates import DECODE, NIC, SSD, part_bytes, streams
from storage_tiers.checkpoint import UnitIndex
from storage_tiers.errors import StorageError
from storage_tiers.remote import ModelStore, ObjectStore
from storage_tiers.tiers.dram import DramTier
from storage_tiers.tiers.ssd import SsdTier
from storage_tiers.tiers.stack import Priority, TierStack

_log = logging.getLogger(__name__)


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
        self._rates = RateBook(Path(config.ssd_dir))
        self._prober = Prober(config, models, self._rates, self._busy)
        self._pool = StagePool(
            config.pool_size, config.host, config.threads, config.device, self._prober.hear, DECODE not in self._rates
        )
        self._rendezvous = Rendezvous(config.host, config.tls.server() if config.tls is not None else None)
        self._machine = _machine()
        self._tasks = Tasks()
        self._changed = asyncio.Event()
        self._stages = LocalStages(
            config, self._tiers, self._peers, self._rates, self._pool, self._tasks, self._changed.set, self._tell_lost
        )
        self._reports = 0

    async def setup(self, worker: Worker) -> None:
        """Take orders from now on, and report."""
        self._worker = worker
        worker.handlers[HANDLER] = self._on_order
        self._pool.fill()
        self._tasks.keep(self._report_always, "report")
        self._tasks.keep(self._stages.watch, "watch")
        self._tasks.keep(self._prober.fill_gaps, "measure")
        self._tasks.keep(self._keep_rates, "keep rates")

    async def teardown(self, worker: Worker) -> None:
        """End every stage process and free the tiers."""
        self._prober.close()
        await self._stages.close()
        await self._tasks.close()
        await self._pool.close()
        for close in (self._peers.close_server, self._tiers.close, self._peers.close):
            await asyncio.get_running_loop().run_in_executor(None, close)
        await asyncio.get_running_loop().run_in_executor(None, self._rendezvous.close)
        await self._save_rates()

    async def _on_order(self, order: Mapping[str, Any] | None) -> dict[str, Any]:
        """Carry out an order; without one, report."""
        message: object = None
        try:
            message = None if order is None else from_wire(order)
            answer = await self._carry_out(message)
        except Refused as error:
            answer = NotDone(str(error), refused=True)
        except (ClusterError, StorageError, TimeoutError) as error:
            _log.warning("%s not done: %s", type(message).__name__, error)
            answer = NotDone(str(error) or type(error).__name__, refused=False)
        except Exception as error:
            _log.exception("%s not done", type(message).__name__)
            answer = NotDone(f"node {self._config.name}: {type(error).__name__}: {error}", refused=False)
        return to_wire(answer)

    async def _carry_out(self, message: object) -> object:
        match message:
            case FormStage():
                return await self._stages.form(message)
            case Dissolve():
                await self._stages.dissolve(message.group)
                return Done()
            case Renew():
                self._stages.renew(message.groups, message.lease_s)
                return Done()
            case BringUnits():
                return await self._bring_units(message)
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
                return Phases(self._stages.phases(message.group))
            case None:
                return self._report()
        raise ClusterError(f"{type(message).__name__} is not an order for a node")

    def _busy(self) -> bool:
        """From any thread: whether a cold start or units are under way."""
        return self._tiers.loading or self._stages.starting

    def _tell_lost(self, group: str, cause: str) -> None:
        self._worker.log_event(TOPIC, to_wire(StageLost(group, self._config.name, cause)))

    # ---- tiers

    async def _bring_units(self, order: BringUnits) -> UnitsBrought:
        """Bring units to a tier, one after the other, behind every cold start."""
        started_s = time.monotonic()
        if order.tier not in ("dram", "ssd"):
            raise ClusterError(f"tier {order.tier!r} is not one that units are brought to: 'dram' or 'ssd'")
        fetched = present = 0
        for unit in order.units:
            if await self._bring_unit(order, unit):
                fetched += unit.size_bytes
            else:
                present += unit.size_bytes
            self._changed.set()
        seconds = time.monotonic() - started_s
        return UnitsBrought(self._config.name, order.tier, len(order.units), fetched, present, seconds)

    async def _bring_unit(self, order: BringUnits, unit: UnitIndex) -> bool:
        """Whether anything had to be moved."""
        if order.tier == "ssd" and self._tiers.ssd.holds(unit):
            return False
        in_dram = unit.digest in self._tiers.dram.held()
        if order.tier == "dram" and in_dram:
            return False
        loading = load(self._tiers, self._peers, order, unit, Priority.PREWARM)
        try:
            loaded = await asyncio.wrap_future(loading)
            if order.tier == "ssd":
                await asyncio.wrap_future(self._tiers.keep_on_ssd(unit, loaded.segment))
        finally:
            self._tiers.give_up(loading)
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
            device_reserved_bytes=self._stages.reserved_bytes,
            idle_stage_processes=self._pool.idle,
            busy_stage_processes=len(self._stages.groups),
            groups=self._stages.groups,
            units=units,
            peer_port=self._peers.port,
            peer_secret=self._peers.secret,
            rates=self._rates.rates(),
            machine=self._machine,
        )

    def _note_transfers(self) -> None:
        self._rates.observe_all(NIC, self._tiers.network.take())
        of_all = [bytes_per_s * self._stages.sharing for bytes_per_s in self._tiers.from_ssd.take()]
        self._rates.observe_all(SSD, of_all)
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


def _machine() -> str:
    """What tells this machine from others, the same in all its containers; "" if the kernel does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
