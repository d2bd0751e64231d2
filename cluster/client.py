"""The one door through which serving and flows reach nodes."""

import asyncio
import json
import logging
import time
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from types import TracebackType
from typing import Any, Self, TypeVar

from distributed import Client
from distributed.comm.core import Comm, CommClosedError, connect

from cluster.errors import ClusterError, ClusterUnreachable, NodeLost, ProtocolError, Refused, StageFailed
from cluster.group import Group
from cluster.node.rendezvous import group_secret
from cluster.wire.encryption import Tls, security
from cluster.wire.orders import (
    HANDLER,
    AskPhases,
    BringUnits,
    Dissolve,
    Evict,
    FormStage,
    LimitStore,
    Peer,
    Probe,
    Renew,
)
from cluster.wire.phases import timed_phase
from cluster.wire.reports import (
    TOPIC,
    Done,
    NodeReport,
    NotDone,
    Phase,
    Phases,
    Probed,
    StageFormed,
    StageLost,
    UnitsBrought,
)
from cluster.wire.vocabulary import from_wire, to_wire
from schedules.facts import Node, Placement, StagePlan, View
from schedules.placing.sources import choose_peers, store_first
from storage_tiers.checkpoint import Checkpoint, UnitIndex

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
LEASE_S = 30.0
RENEW_EVERY_S = 5.0
ORDER_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class _Secrets:
    """What a node wants to be shown: for its units, and, by group, at its rendezvous."""

    peer: str = field(repr=False)
    rendezvous: str = field(repr=False)


class ClusterClient:
    """Knows the nodes by their reports, gives them orders. Use as an async context manager, from one event loop.

    `lost` is set when the scheduler that was joined is gone, even if another one answers at its address since: that one
    knows none of the nodes that were heard. There are no nodes then and every group is lost; make a new client.
    """

    def __init__(self, scheduler_address: str, tls: Tls | None = None, connect_timeout_s: float = 10.0) -> None:
        self._address, self._tls, self._connect_timeout_s = scheduler_address, tls, connect_timeout_s
        self._nodes: dict[str, Node] = {}
        self._holders: dict[str, set[str]] = {}
        self._secrets: dict[str, _Secrets] = {}  # beside the facts, which are shown to people
        self._heard: dict[tuple[str, str], int] = {}
        self._groups: dict[str, Group] = {}
        self._changed = asyncio.Condition()
        self._tasks: list[asyncio.Task[None]] = []
        self.lost = asyncio.Event()

    async def __aenter__(self) -> Self:
        """Connect and hear every node once. ClusterUnreachable if the scheduler does not answer in time, BadCertificate if
        the certificates will not do."""
        timeout_s, secured = self._connect_timeout_s, security(self._tls)
        self._to_stages = self._tls.client() if self._tls is not None else None
        async with AsyncExitStack() as joined:
            try:
                async with asyncio.timeout(timeout_s):
                    # before the client, which goes on with another scheduler at this address as if it were the same
                    how = secured.get_connection_args("client")
                    line = await connect(self._address, timeout=timeout_s, deserialize=False, **how)
                joined.callback(line.abort)
                self._client = await Client(
                    self._address, asynchronous=True, timeout=timeout_s, set_as_default=False, security=secured
                )
                joined.push_async_callback(self._client.close)
                self._client.subscribe_topic(TOPIC, self._on_event)
                self._client.subscribe_topic("all", self._on_membership)
                async with asyncio.timeout(timeout_s):
                    identity = await self._client.scheduler.identity(n_workers=-1)  # scheduler_info is a cache
            except (OSError, TimeoutError) as error:
                raise ClusterUnreachable(f"no Dask scheduler answers at {self._address}: {error}") from error
            asked = (asyncio.wait_for(self._ask(address), timeout_s) for address in identity["workers"])
            for answer in await asyncio.gather(*asked, return_exceptions=True):
                if isinstance(answer, NodeReport):
                    await self._note(answer)
            self._joined = joined.pop_all()
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._renew_always()), loop.create_task(self._watch(line))]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Dissolve the groups formed here and disconnect."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(self.dissolve(group) for group in list(self._groups.values())), return_exceptions=True)
        await self._joined.aclose()

    def view(self) -> View:
        """The nodes as last reported."""
        return View(tuple(self._nodes[name] for name in sorted(self._nodes)), self._holders)

    async def nodes(self, minimum: int = 1, timeout_s: float = 30.0) -> View:
        """The view once it has `minimum` nodes. NodeLost if it has not within the timeout."""
        try:
            async with asyncio.timeout(timeout_s), self._changed:
                await self._changed.wait_for(lambda: len(self._nodes) >= minimum)
        except TimeoutError:
            raise NodeLost(f"{len(self._nodes)} of {minimum} nodes have joined within {timeout_s:.0f} s") from None
        return self.view()

    async def form(self, placement: Placement, checkpoint: Checkpoint, timeout_s: float) -> Group:
        """Form the group that `placement` says; its stages may still wait for their units.

        Refused if a node would not, StageFailed or NodeLost if it could not; nothing is left of it then.
        """
        started_s = time.monotonic()
        name = f"g{uuid.uuid4().hex[:12]}"
        orders = self._orders(name, placement, checkpoint, timeout_s)
        tasks = [asyncio.ensure_future(self._order(node, order, StageFormed, timeout_s)) for node, order in orders]
        try:
            formed = await asyncio.gather(*tasks)
            phases = (timed_phase("form group", "front end", started_s),)
            group = Group(name, placement, phases)
            await group.connect(formed[0], timeout_s, self._to_stages)
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._dissolve_on(name, [node for node, _ in orders])
            raise
        self._groups[name] = group
        return group

    async def phases(self, group: Group) -> tuple[Phase, ...]:
        """What the nodes and stages of the group did at its start, by time; nodes that do not answer are left out."""
        asked = [self._order(stage.node, AskPhases(group.name), Phases, 5.0) for stage in group.placement.stages]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        found = [phase for answer in answers if isinstance(answer, Phases) for phase in answer.phases]
        return tuple(sorted((*group.phases, *found), key=lambda phase: phase.start_s))

    async def dissolve(self, group: Group) -> None:
        """End the group on all its nodes and forget it."""
        self._groups.pop(group.name, None)
        await group.close()
        await self._dissolve_on(group.name, [stage.node for stage in group.placement.stages])

    async def bring(
        self, node: str, checkpoint: Checkpoint, units: Sequence[str], tier: str, timeout_s: float
    ) -> UnitsBrought:
        """Bring units of a model to a tier of a node, behind its cold starts."""
        wanted = tuple(checkpoint.unit(name) for name in units)
        order = BringUnits(checkpoint.name, wanted, tier, timeout_s, self._peers_of(node, wanted))
        return await self._order(node, order, UnitsBrought, timeout_s)

    async def evict(self, node: str, checkpoint: Checkpoint) -> None:
        """Drop a model's units from the node's tiers, except those in use."""
        digests = tuple(unit.digest for unit in checkpoint.units)
        await self._order(node, Evict(digests), Done, ORDER_TIMEOUT_S)
        await self._note(await self._order(node, None, NodeReport, ORDER_TIMEOUT_S))

    async def probe(self, node: str, what: Sequence[str], seconds: float, *, keep: bool) -> Mapping[str, float]:
        """Have a node measure quantities by their names in schedules.rates, the store for about `seconds`; with `keep` it
        counts them among its rates. What cannot be measured there is absent.

        Refused if the node is in the middle of a cold start or loads units, StageFailed if the store cannot be read.
        """
        order = Probe(tuple(what), seconds, keep)
        return (await self._order(node, order, Probed, seconds + ORDER_TIMEOUT_S)).values

    async def limit_store(self, node: str, bytes_per_s: float | None) -> None:
        """Tell a node what the store gives to all nodes together; None if it was not seen to limit them."""
        await self._order(node, LimitStore(bytes_per_s), Done, ORDER_TIMEOUT_S)

    async def refresh(self) -> View:
        """The view after every node has reported once more; nodes that do not answer stay as they were."""
        asked = (self._order(node, None, NodeReport, ORDER_TIMEOUT_S) for node in list(self._nodes))
        for answer in await asyncio.gather(*asked, return_exceptions=True):
            if isinstance(answer, NodeReport):
                await self._note(answer)
        return self.view()

    # ---- orders

    def _orders(
        self, name: str, placement: Placement, checkpoint: Checkpoint, timeout_s: float
    ) -> list[tuple[str, FormStage]]:
        first = self._node(placement.stages[0].node)
        machines = Counter(self._node(stage.node).shared_with for stage in placement.stages)
        bounds = (*(stage.first_layer for stage in placement.stages), placement.stages[-1].end_layer)
        assert all(a < b for a, b in pairwise(bounds))

        def order(rank: int, stage: StagePlan) -> FormStage:
            units = tuple(checkpoint.unit(unit) for unit in stage.units)
            return FormStage(
                group=name,
                model=checkpoint.name,
                rank=rank,
                config_json=json.dumps(dict(checkpoint.config)),
                dtype=checkpoint.dtype,
                bounds=bounds,
                units=units,
                rendezvous_host=first.host,
                rendezvous_port=first.rendezvous_port,
                rendezvous_secret=group_secret(self._secrets[first.name].rendezvous, name),
                reserve_bytes=stage.reserve_bytes,
                kv_tokens=placement.kv_tokens,
                timeout_s=timeout_s,
                lease_s=max(LEASE_S, timeout_s),
                peers=self._peers_of(stage.node, units),
                store_first=store_first([unit.digest for unit in units], stage.node, self.view()),
                later=stage.later,
                sharing=machines[self._node(stage.node).shared_with],
            )

        return [(stage.node, order(rank, stage)) for rank, stage in enumerate(placement.stages)]

    def _peers_of(self, target: str, units: Sequence[UnitIndex]) -> tuple[Peer, ...]:
        """Whom the node may ask for the units. In the order of asking, so a peer comes once as first choice for some
        units, and again as second choice for others."""
        digests: dict[tuple[int, str], list[str]] = {}
        for digest, names in choose_peers([unit.digest for unit in units], target, self.view()).items():
            for choice, name in enumerate(names):
                digests.setdefault((choice, name), []).append(digest)
        return tuple(
            Peer(name, self._nodes[name].host, self._nodes[name].peer_port, self._secrets[name].peer, tuple(held))
            for (_, name), held in sorted(digests.items())
        )

    async def _dissolve_on(self, group: str, nodes: Sequence[str]) -> None:
        async def dissolve(node: str) -> None:
            await self._order(node, Dissolve(group), Done, ORDER_TIMEOUT_S)
            await self._note(await self._order(node, None, NodeReport, ORDER_TIMEOUT_S))

        orders = (dissolve(node) for node in nodes if node in self._nodes)
        for answer in await asyncio.gather(*orders, return_exceptions=True):
            if isinstance(answer, ClusterError):
                _log.warning("group %s: %s; its lease will end it", group, answer)

    async def _renew_always(self) -> None:
        while True:
            await asyncio.sleep(RENEW_EVERY_S)
            by_node: dict[str, list[str]] = {}
            for group in self._groups.values():
                for stage in group.placement.stages:
                    by_node.setdefault(stage.node, []).append(group.name)
            orders = (
                self._order(node, Renew(tuple(groups), LEASE_S), Done, RENEW_EVERY_S)
                for node, groups in by_node.items()
                if node in self._nodes
            )
            await asyncio.gather(*orders, return_exceptions=True)

    def _node(self, name: str) -> Node:
        try:
            return self._nodes[name]
        except KeyError:
            raise NodeLost(f"node {name!r} is not connected") from None

    async def _order(self, node: str, order: object, answer: type[_T], timeout_s: float) -> _T:
        """Give an order and return its answer; what the node did not do is raised."""
        try:
            result = await asyncio.wait_for(self._ask(self._node(node).address, order), timeout_s)
        except TimeoutError as error:
            raise NodeLost(f"node {node} did not answer {type(order).__name__} within {timeout_s:.0f} s") from error
        except (OSError, CommClosedError) as error:
            raise NodeLost(f"node {node} is gone: {error}") from error
        if isinstance(result, NotDone):
            raise (Refused if result.refused else StageFailed)(result.message)
        if not isinstance(result, answer):
            raise ProtocolError(f"node {node} answered {type(order).__name__} with {type(result).__name__}")
        return result

    async def _ask(self, address: str, order: object = None) -> Any:
        rpc = getattr(self._client.rpc(address), HANDLER)
        return from_wire(await rpc(order=None if order is None else to_wire(order)))

    # ---- what is heard

    async def _watch(self, line: Comm) -> None:
        """Wait until the scheduler at the other end of `line` is gone: nobody speaks on it."""
        with suppress(OSError):
            await line.read()
        self.lost.set()
        for name in list(self._nodes):
            await self._forget(name)

    async def _on_event(self, event: tuple[float, dict[str, Any]]) -> None:
        try:
            message = from_wire(event[1])
        except ProtocolError as error:
            _log.warning("a report is not understood: %s", error)
            return
        if isinstance(message, NodeReport):
            await self._note(message)
        elif isinstance(message, StageLost) and message.group in self._groups:
            self._groups[message.group].explain(f"{message.node}: {message.cause}")

    async def _on_membership(self, event: tuple[float, dict[str, Any]]) -> None:
        action, address = event[1].get("action"), event[1].get("worker")
        if action == "remove-worker":
            for name in [name for name, node in self._nodes.items() if node.address == address]:
                await self._forget(name)

    async def _note(self, report: NodeReport) -> None:
        key = (report.name, report.address)
        if self.lost.is_set() or self._heard.get(key, 0) >= report.sequence:
            return
        node = Node(**{field: getattr(report, field) for field in Node.__dataclass_fields__ if field != "draining"})
        async with self._changed:
            self._heard[key] = report.sequence
            self._index(report.name, node.units)
            self._nodes[report.name] = node
            self._secrets[report.name] = _Secrets(report.peer_secret, report.rendezvous_secret)
            self._changed.notify_all()

    async def _forget(self, name: str) -> None:
        _log.warning("node %s is gone", name)
        async with self._changed:
            self._index(name, {})
            node = self._nodes.pop(name)
            del self._secrets[name]
            self._heard.pop((name, node.address), None)
            self._changed.notify_all()
        for group in list(self._groups.values()):
            if any(stage.node == name for stage in group.placement.stages):
                group.lose(f"node {name} is gone")

    def _index(self, name: str, units: Mapping[str, str]) -> None:
        """Note which units the node holds from now on; called before `_nodes` is told."""
        known = self._nodes[name].units.keys() if name in self._nodes else set[str]()
        for digest in known - units.keys():
            self._holders[digest].discard(name)
            if not self._holders[digest]:
                del self._holders[digest]
        for digest in units.keys() - known:
            self._holders.setdefault(digest, set()).add(name)
