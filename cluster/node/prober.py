"""A node measures itself: what it has never seen, behind its cold starts, and what it is ordered to."""

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from cluster.errors import ClusterError, Refused
from cluster.node.config import NodeConfig
from cluster.node.pool import StagePool
from cluster.node.rate_book import RateBook
from cluster.wire.orders import OF_COMPUTE, OF_NODE, OF_STORE, STORE_S, Probe
from cluster.wire.reports import Probed
from cluster.wire.stages import Idle
from schedules.rates import NIC, REACH, SSD, STREAM
from storage_tiers.errors import StorageError
from storage_tiers.model_store import ModelStore
from storage_tiers.tiers.trials import Interrupted, Stop, find_published, probe_reach, probe_ssd, probe_store

_log = logging.getLogger(__name__)
STREAM_S = 0.35
TRY_EVERY_S = 10.0
_READY_WITHIN_S = 30.0


class Prober:
    """Use from the node's event loop. What is measured goes into `book`; `busy`, asked from any thread, says whether
    a cold start is under way or units are: who measures then takes their share, and finds too little."""

    def __init__(self, config: NodeConfig, models: ModelStore, book: RateBook, busy: Callable[[], bool]) -> None:
        self._config, self._models, self._book, self._busy = config, models, book, busy
        self._ready = asyncio.Event()
        self._one = asyncio.Lock()
        self._closing = threading.Event()
        self._told = ""

    def hear(self, idle: Idle) -> None:
        """A stage process is ready, and may have measured while it warmed up."""
        for name, value in idle.rates.items():
            self._book.observe(name, value)
        self._ready.set()

    def close(self) -> None:
        """What is being measured ends soon."""
        self._closing.set()

    async def fill_gaps(self) -> None:
        """Measure what was never measured, once the first stage process is ready: until then it has the cores."""
        try:
            async with asyncio.timeout(_READY_WITHIN_S):
                await self._ready.wait()
        except TimeoutError:
            _log.warning("no stage process is ready after %.0f s", _READY_WITHIN_S)
        while missing := [name for name in (SSD, *OF_STORE) if name not in self._book]:
            for what in ({SSD}, set(OF_STORE)):
                if wanted := tuple(name for name in missing if name in what):
                    await self._try(wanted)
            await asyncio.sleep(max(TRY_EVERY_S, self._config.report_interval_s))

    async def carry_out(self, order: Probe, pool: StagePool) -> Probed:
        """Refused while the node is busy, and if it becomes so. StorageError if the store cannot be read, if nothing
        is published in it, say."""
        if unknown := set(order.what) - {*OF_NODE, *OF_STORE}:
            raise ClusterError(f"{', '.join(sorted(unknown))} cannot be measured on order")
        values = await self._measure(order.what, order.seconds)
        if set(order.what) & set(OF_COMPUTE):
            values |= {name: value for name, value in (await pool.measure()).items() if name in order.what}
        if order.keep:
            for name, value in values.items():
                self._book.observe(name, value)
        return Probed(values)

    async def _try(self, what: tuple[str, ...]) -> None:
        """Measure if that can be; what could not be is said once."""
        try:
            for name, value in (await self._measure(what, STORE_S)).items():
                self._book.observe(name, value)
        except Refused:
            return
        except (StorageError, OSError) as error:
            if str(error) != self._told:
                _log.info("not measured: %s", error)
            self._told = str(error)

    async def _measure(self, what: tuple[str, ...], seconds: float) -> dict[str, float]:
        """What `what` names of ssd and store, one after the other."""
        async with self._one:
            if self._busy():
                raise Refused(f"node {self._config.name} starts a model or loads units: it measures nothing now")
            values: dict[str, float] = {}
            try:
                if SSD in what:
                    values |= await self._in_thread(self._ssd)
                if set(what) & set(OF_STORE):
                    values |= await self._in_thread(lambda stop: self._store(what, seconds, stop))
            except Interrupted as error:
                raise Refused(f"node {self._config.name}: {error}") from error
            return values

    async def _in_thread(self, work: Callable[[Stop], Mapping[str, float]]) -> Mapping[str, float]:
        """Measure beside the event loop; whoever is cancelled has the measurement end soon, and waits for that: the next one
        would find too little."""
        unwanted = threading.Event()

        def stop() -> bool:
            return unwanted.is_set() or self._closing.is_set() or self._busy()

        measuring = asyncio.get_running_loop().run_in_executor(None, work, stop)
        try:
            await asyncio.wait({measuring})
        except asyncio.CancelledError:
            unwanted.set()
            await asyncio.wait({measuring})
            measuring.exception()  # seen: nobody wants to hear it
            raise
        return measuring.result()

    def _ssd(self, stop: Stop) -> Mapping[str, float]:
        try:
            found = probe_ssd(Path(self._config.ssd_dir), self._config.fetch_threads, stop)
        except OSError as error:
            raise StorageError(f"ssd folder {self._config.ssd_dir}: {error.strerror}") from error
        return {} if found is None else {SSD: found}

    def _store(self, what: tuple[str, ...], seconds: float, stop: Stop) -> Mapping[str, float]:
        published = find_published(self._models)
        values = {REACH: probe_reach(self._models, published)} if REACH in what else {}
        if STREAM in what:
            values[STREAM] = probe_store(self._models, published, 1, min(seconds, STREAM_S), stop)
        if NIC in what:
            values[NIC] = probe_store(self._models, published, self._config.fetch_threads, seconds, stop)
        return values
