"""What a client hears of nodes, through the scheduler and from the nodes themselves, and its orders to them.

Nodes report about every second through the scheduler. One that is not heard of for a while is asked straight, so that it
never seems silent because the scheduler is slow or gone. Schedulers come and go; what is known of nodes stays.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from cluster.errors import BadCertificate, ClusterUnreachable, NodeLost, ProtocolError
from cluster.node_lines import NodeLines
from cluster.roster import Known, Missed, Roster
from cluster.scheduler_line import SchedulerLine
from cluster.tasks import Tasks
from cluster.wire.encryption import Tls, security
from cluster.wire.orders import AskReport
from cluster.wire.reports import NodeReport, StageLease, StageLost
from cluster.wire.scheduler import until_there
from cluster.wire.vocabulary import from_wire
from schedules.events import Event, NodeLeft, NodeReported, SchedulerJoined, SchedulerLost

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
LOOK_EVERY_S = 0.25
SILENT_S, ASK_WITHIN_S = 1.5, 1.0
"""A node that is not heard of for so long is asked, and has so long to answer."""
LOST_S, LOST_AFTER_ASKS = 10.0, 3
"""It is lost when it is not heard of for so long, and has not answered so often: it may be we that were held up."""
MISSED_FOR_S = 600.0
"""For so long a node that was lost is asked whether it is back."""
REJOIN_WITHIN_S = 10.0


@dataclass(frozen=True)
class Listeners:
    """Who is told what: `tell` of events; `stages` of what a node reports to run there; `gone` of a node that is gone, and
    why; `lost` of stages that nodes say are lost. They are called in the event loop and do not wait."""

    tell: Callable[[Event], None]
    stages: Callable[[str, Sequence[StageLease]], None]
    gone: Callable[[str, str], None]
    lost: Callable[[StageLost], None]


class Hearing:
    """See the module. Use from one event loop."""

    def __init__(self, scheduler_address: str, tls: Tls | None, listeners: Listeners) -> None:
        self._address, self._tls, self._to = scheduler_address, tls, listeners
        self._roster = Roster()
        self._lines = NodeLines(None)
        self._tasks = Tasks()
        self._scheduler: SchedulerLine | None = None
        self._asking: set[str] = set()
        self._missed: dict[str, tuple[Missed, float]] = {}
        self._changed = asyncio.Event()

    @property
    def roster(self) -> Roster:
        """The nodes that are known."""
        return self._roster

    @property
    def joined(self) -> bool:
        """Whether a scheduler is there."""
        return self._scheduler is not None

    async def open(self, timeout_s: float) -> None:
        """Join the scheduler, hear every node once, and stay joined. ClusterUnreachable if it does not answer in time,
        BadCertificate if the certificates will not do."""
        self._secured = security(self._tls)
        self._lines = NodeLines(self._tls.client() if self._tls is not None else None)
        await self._join(timeout_s)
        self._tasks.keep(self._stay_joined, "stay joined")
        self._tasks.keep(self._look_always, "look for silent nodes")

    async def close(self) -> None:
        """Hear nothing more."""
        await self._tasks.close()
        self._lines.close()
        if self._scheduler is not None:
            await self._scheduler.close()

    def known(self, node: str) -> Known:
        """What is known of a node. NodeLost if it is not there."""
        try:
            return self._roster.known[node]
        except KeyError:
            raise NodeLost(f"node {node!r} is not connected", node) from None

    async def order(self, node: str, order: object, answer: type[_T], timeout_s: float) -> _T:
        """Give a node an order, see NodeLines.order. NodeLost if it is not there."""
        return await self._lines.order(node, self.known(node).place, order, answer, timeout_s)

    async def refresh(self, node: str, timeout_s: float) -> None:
        """Hear how a node stands now. NodeLost if it does not say so in time."""
        known = self.known(node)
        self._hear(await self.order(node, AskReport(known.life, known.version), NodeReport, timeout_s), asked=True)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds, which is looked at whenever a node was heard or is gone."""
        while not condition():
            await self._changed.wait()

    # ---- the scheduler

    async def _join(self, timeout_s: float) -> None:
        self._scheduler = scheduler = await SchedulerLine.join(
            self._address, self._secured, timeout_s, self._on_report, self._on_membership
        )
        self._to.tell(SchedulerJoined())
        for report in await scheduler.reports(timeout_s):
            self._hear(report, asked=True)

    async def _stay_joined(self) -> None:
        while True:
            if self._scheduler is not None:
                await self._scheduler.gone()
                _log.warning("the cluster's scheduler at %s is gone; what runs goes on", self._address)
                left, self._scheduler = self._scheduler, None
                self._to.tell(SchedulerLost())
                self._tasks.spawn(left.close(), "leave the scheduler")
            await until_there(self._address, self._secured, "client")
            try:
                await self._join(REJOIN_WITHIN_S)
            except (ClusterUnreachable, BadCertificate) as error:
                _log.warning("%s; trying again", error)

    def _on_report(self, event: tuple[float, dict[str, Any]]) -> None:
        try:
            message = from_wire(event[1])
        except ProtocolError as error:
            _log.warning("a report is not understood: %s", error)
            return
        if isinstance(message, NodeReport):
            self._hear(message, asked=False)
        elif isinstance(message, StageLost):
            self._to.lost(message)

    def _on_membership(self, event: tuple[float, dict[str, Any]]) -> None:
        """A worker that is gone may be its node's death, or only that worker's."""
        if event[1].get("action") == "remove-worker":
            name = self._roster.at(str(event[1].get("worker")))
            if name is not None:
                self._ask(_current(self._roster.known[name]))

    # ---- nodes

    async def _look_always(self) -> None:
        """Ask those that are silent, and those that were lost."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            self._lines.tidy()
            now_s = time.monotonic()
            for name, known in list(self._roster.known.items()):
                unheard_s = now_s - known.heard_s
                if unheard_s >= LOST_S and known.unanswered >= LOST_AFTER_ASKS:
                    self._missed[name] = (Missed(name, known.place, "", 0), now_s)
                    self._gone(name, f"not heard of for {unheard_s:.0f} s")
                elif unheard_s >= SILENT_S:
                    self._ask(_current(known))
            for name, (missed, since_s) in list(self._missed.items()):
                if now_s - since_s > MISSED_FOR_S or name in self._roster.known:
                    del self._missed[name]
                else:
                    self._ask(missed)

    def _ask(self, missed: Missed) -> None:
        """Ask a node straight how it stands, unless it is being asked."""
        if missed.name not in self._asking:
            self._asking.add(missed.name)
            self._tasks.spawn(self._ask_now(missed), "ask a node")

    async def _ask_now(self, missed: Missed) -> None:
        known = self._roster.known.get(missed.name)
        try:
            async with asyncio.timeout(ASK_WITHIN_S):
                answer = await self._lines.ask(missed.place, AskReport(missed.life, missed.version))
            if not isinstance(answer, NodeReport):
                raise ProtocolError(f"it answers with {type(answer).__name__}")
            self._hear(answer, asked=True)
        except ConnectionRefusedError:
            self._missed.pop(missed.name, None)
            if known is not None and known.place == missed.place:
                self._gone(missed.name, "it takes no orders any more")
        except OSError:
            if known is not None:
                known.unanswered += 1
        except ProtocolError as error:
            _log.warning("node %s is not understood: %s", missed.name, error)
        finally:
            self._asking.discard(missed.name)

    def _hear(self, report: NodeReport, *, asked: bool) -> None:
        known = self._roster.known.get(report.name)
        if asked and known is not None and known.life != report.life:
            self._gone(report.name, "it was started again")
        heard = self._roster.hear(report, time.monotonic(), asked=asked)
        if isinstance(heard, Missed):
            self._ask(heard)
        elif isinstance(heard, NodeReported):
            self._to.tell(heard)
            self._to.stages(report.name, report.stages)
            self._pulse()

    def _gone(self, name: str, cause: str) -> None:
        if self._roster.forget(name) is None:
            return
        _log.warning("node %s is gone: %s", name, cause)
        self._to.tell(NodeLeft(name))
        self._to.gone(name, cause)
        self._pulse()

    def _pulse(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _current(known: Known) -> Missed:
    """What a node that is known could tell that is new."""
    return Missed(known.node.name, known.place, known.life, known.version)
