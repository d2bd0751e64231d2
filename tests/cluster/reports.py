"""Reports of nodes that nobody runs, for what reads them."""

from collections.abc import Sequence
from typing import Any

from cluster.node.unit_journal import UnitJournal
from cluster.wire.reports import NodeReport, StageLease


class ReportingNode:
    """Says of itself what a test wants it to, as a node's Reporter would."""

    def __init__(self, name: str, life: str = "first") -> None:
        self.name, self.life = name, life
        self.journal = UnitJournal()
        self.stages: Sequence[StageLease] = ()
        self._sequence = self._told = 0

    def tell(self, **numbers: Any) -> NodeReport:
        """For all: what has changed since the last."""
        report = self._report(self._told, numbers)
        self._told = report.version
        return report

    def answer(self, life: str, version: int) -> NodeReport:
        """For one who has heard so far."""
        return self._report(version if life == self.life else 0, {})

    def _report(self, since: int, numbers: dict[str, Any]) -> NodeReport:
        self._sequence += 1
        change = self.journal.since(since)
        fields: dict[str, Any] = {
            "address": f"tcp://127.0.0.1/{self.name}", "host": "127.0.0.1", "orders_port": 1, "orders_secret": "s",
            "rendezvous_port": 2, "rendezvous_secret": "r", "dram_bytes": 100, "dram_used_bytes": 0, "ssd_bytes": 100,
            "ssd_used_bytes": 0, "device_bytes": 100, "device_reserved_bytes": 0, "idle_stage_processes": 1,
            "busy_stage_processes": 0, "peer_port": 3, "peer_secret": "p", "rates": {}, "machine": "",
            "gpu": "", "context_bytes": 0, "draining": False, "fetching": False,
        }  # fmt: skip
        return NodeReport(
            sequence=self._sequence, life=self.life, name=self.name, stages=tuple(self.stages), base=change.base,
            version=change.version, gained=change.gained, lost=change.lost, **(fields | numbers),
        )  # fmt: skip
