"""What a node says of itself: numbers as they are now, and of its units what has changed."""

import secrets
from pathlib import Path

from cluster.node.config import NodeConfig
from cluster.node.device_memory import DeviceMemory
from cluster.node.exchange import UnitExchange
from cluster.node.local_stages import LocalStages
from cluster.node.order_door import OrderDoor
from cluster.node.pool import StagePool
from cluster.node.rate_book import RateBook
from cluster.node.rendezvous import Rendezvous
from cluster.node.unit_journal import UnitJournal
from cluster.wire.orders import AskReport
from cluster.wire.reports import NodeReport
from schedules.rates import NIC, SSD, part_bytes, streams
from storage_tiers.tiers.stack import TierStack


class Reporter:
    """Use from the node's event loop. `address` is where the node is as a Dask worker, "" while it is none."""

    def __init__(
        self,
        config: NodeConfig,
        tiers: TierStack,
        memory: DeviceMemory,
        stages: LocalStages,
        pool: StagePool,
        rates: RateBook,
        peers: UnitExchange,
        rendezvous: Rendezvous,
        orders: OrderDoor,
    ) -> None:
        self._config, self._tiers, self._memory, self._stages, self._pool = config, tiers, memory, stages, pool
        self._rates = rates
        self._peers, self._rendezvous, self._orders = peers, rendezvous, orders
        self._machine = _machine()
        self._life = secrets.token_hex(8)
        self._journal = UnitJournal()
        self._reports = 0
        self.address = ""
        self._told = 0

    def tell(self) -> NodeReport:
        """For all who listen: units as they changed since the last that they were told."""
        report = self._report(self._told)
        self._told = report.version
        return report

    def answer(self, order: AskReport) -> NodeReport:
        """For one who asks: units as they changed since the version that it has heard of."""
        return self._report(order.version if order.life == self._life else 0)

    def note_transfers(self) -> None:
        """Learn from what has been read since this was last called."""
        self._rates.observe_all(NIC, self._tiers.network.take())
        of_all = [bytes_per_s * self._stages.sharing for bytes_per_s in self._tiers.from_ssd.take()]
        self._rates.observe_all(SSD, of_all)
        rates = self._rates.rates()
        self._tiers.read_at_once(streams(rates), part_bytes(rates))

    def _report(self, since: int) -> NodeReport:
        self._journal.note(
            dict.fromkeys(self._tiers.ssd.held(), "ssd") | dict.fromkeys(self._tiers.dram.held(), "dram")
        )
        units = self._journal.since(since)
        self._reports += 1
        self.note_transfers()
        return NodeReport(
            sequence=self._reports,
            life=self._life,
            name=self._config.name,
            address=self.address,
            host=self._config.host,
            orders_port=self._orders.port,
            orders_secret=self._orders.secret,
            rendezvous_port=self._rendezvous.port,
            rendezvous_secret=self._rendezvous.secret,
            dram_bytes=self._config.dram_bytes,
            dram_used_bytes=self._tiers.dram.used_bytes,
            ssd_bytes=self._config.ssd_bytes,
            ssd_used_bytes=self._tiers.ssd.used_bytes,
            device_bytes=self._memory.offered_bytes,
            device_reserved_bytes=self._stages.reserved_bytes,
            idle_stage_processes=self._pool.idle,
            busy_stage_processes=len(self._stages.groups),
            stages=self._stages.leases,
            base=units.base,
            version=units.version,
            gained=units.gained,
            lost=units.lost,
            peer_port=self._peers.port,
            peer_secret=self._peers.secret,
            rates=self._rates.rates(),
            machine=self._machine,
            gpu=self._config.gpu,
            context_bytes=self._memory.context_bytes,
            draining=self._stages.draining,
            fetching=self._tiers.fetching,
        )


def _machine() -> str:
    """What tells this machine from others, the same in all its containers; "" if the kernel does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
