"""The nodes as they reported themselves: the latest of each, put together from what they say has changed.

Reports come by two ways, as events of the scheduler and as answers to whoever asks, and may overtake each other or be
missed. Knows no clock and no connection.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from cluster.node_lines import Place
from cluster.wire.reports import NodeReport, StageLease
from schedules.events import NodeReported
from schedules.facts import Node, View
from schedules.ledgers.unit_holders import UnitHolders


@dataclass
class Known:
    """A node: as it stands, what it wants to hear, and how current that is. `heard_s` is when it last gave a sign of life,
    `unanswered` how often it has not answered since."""

    node: Node
    place: Place
    peer_secret: str = field(repr=False)
    rendezvous_secret: str = field(repr=False)
    life: str
    version: int
    sequence: int
    stages: tuple[StageLease, ...]
    heard_s: float
    unanswered: int = 0


@dataclass(frozen=True)
class Missed:
    """A report cannot be understood without what came before: ask the node at `place`, from `version` of its `life` on."""

    name: str
    place: Place
    life: str
    version: int


class Roster:
    """See the module."""

    def __init__(self) -> None:
        self.known: dict[str, Known] = {}
        self.fetching: set[str] = set()
        """Names of those on which a cold start waits for units."""
        self._holders = UnitHolders()
        self._view: View | None = None

    def view(self) -> View:
        """All nodes."""
        if self._view is None:
            nodes = tuple(self.known[name].node for name in sorted(self.known))
            self._view = View(nodes, self._holders)
        return self._view

    def hear(self, report: NodeReport, now_s: float, *, asked: bool) -> NodeReported | Missed | None:
        """What the report tells; None if it is older than what is known already. `asked` says that the node answers to us
        just now, so that this is the life that it has."""
        known = self.known.get(report.name)
        place = Place(report.host, report.orders_port, report.orders_secret)
        if known is not None and known.life == report.life:
            if report.sequence <= known.sequence:
                return None
            if report.base > known.version:
                return Missed(report.name, place, known.life, known.version)
        elif not asked or report.base:
            return Missed(report.name, place, "", 0)
        units, gained, lost = _merged(known.node.units if known is not None else {}, report)
        node = _node(report, units)
        (self.fetching.add if report.fetching else self.fetching.discard)(report.name)
        self._holders.lose(report.name, lost)
        self._holders.gain(report.name, gained)
        self.known[report.name] = Known(
            node, place, report.peer_secret, report.rendezvous_secret, report.life, report.version, report.sequence,
            report.stages, now_s,
        )  # fmt: skip
        self._view = None
        return NodeReported(node, gained, lost)

    def forget(self, name: str) -> Known | None:
        """The node is gone; what was known of it, if anything was."""
        known = self.known.pop(name, None)
        self.fetching.discard(name)
        if known is not None:
            self._holders.lose(name, known.node.units)
            self._view = None
        return known

    def at(self, worker_address: str) -> str | None:
        """The name of the node that is this Dask worker."""
        found = (name for name, known in self.known.items() if known.node.address == worker_address)
        return next(found, None)


def _merged(
    known: Mapping[str, str], report: NodeReport
) -> tuple[Mapping[str, str], Mapping[str, str], tuple[str, ...]]:
    """The units that the node has now, those that are new or elsewhere, and those that it has not any more."""
    gained = {digest: tier for digest, tier in report.gained.items() if known.get(digest) != tier}
    gone = known.keys() - report.gained.keys() if not report.base else known.keys() & set(report.lost)
    if not gained and not gone:
        return known, {}, ()
    units = {digest: tier for digest, tier in known.items() if digest not in gone} | gained
    return units, gained, tuple(sorted(gone))


def _node(report: NodeReport, units: Mapping[str, str]) -> Node:
    return Node(
        name=report.name,
        address=report.address,
        host=report.host,
        rendezvous_port=report.rendezvous_port,
        dram_bytes=report.dram_bytes,
        dram_used_bytes=report.dram_used_bytes,
        ssd_bytes=report.ssd_bytes,
        ssd_used_bytes=report.ssd_used_bytes,
        device_bytes=report.device_bytes,
        device_reserved_bytes=report.device_reserved_bytes,
        idle_stage_processes=report.idle_stage_processes,
        busy_stage_processes=report.busy_stage_processes,
        groups=tuple(stage.group for stage in report.stages),
        units=units,
        peer_port=report.peer_port,
        rates=report.rates,
        machine=report.machine,
        gpu=report.gpu,
        context_bytes=report.context_bytes,
        draining=report.draining,
    )
