"""The one door through which serving and flows reach nodes."""

import asyncio
import json
import logging
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from itertools import pairwise
from types import TracebackType
from typing import Self, TypeVar

from cluster.adoption import Adoption
from cluster.contract import FormedGroup, Progress
from cluster.errors import ClusterError, NodeLost, NoToken, Refused, StageFailed
from cluster.group import Group
from cluster.hearing import Hearing, Listeners
from cluster.leases import LEASE_S, Leases
from cluster.staging import ANSWER_WITHIN_S, Staging
from cluster.tasks import Tasks
from cluster.wire.encryption import Tls
from cluster.wire.hello import group_secret
from cluster.wire.orders import (
    AskPhases,
    AwaitUnits,
    BringUnits,
    Dissolve,
    Evict,
    FormStage,
    Hurry,
    LimitStore,
    Peer,
    Probe,
    Ranked,
    Retain,
)
from cluster.wire.phases import Phase, in_our_clock, timed_phase
from cluster.wire.reports import Done, Phases, Probed, StageFormed, StageLease, StageLost, UnitsBrought
from cluster.wire.requests import Submit
from schedules.events import Event, GroupLost
from schedules.facts import Node, Placement, StagePlan, View
from schedules.foresight.retention import Retention
from schedules.placing.sources import Sources, peer_of
from storage_tiers.checkpoint import Checkpoint

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
ORDER_TIMEOUT_S = 30.0
PHASES_WITHIN_S = 5.0
CONNECT_WITHIN_S = 5.0
_TRIED = (0, 0, 0)


class ClusterClient:
    """Knows the nodes by their reports, gives them orders. Use as an async context manager, from one event loop.

    It outlives schedulers: while none is there, `joined` is false, what runs goes on, and nodes that are known still take
    orders. `listener` is told in the event loop what is heard; what it is told of first is that a scheduler was joined.
    """

    def __init__(
        self,
        scheduler_address: str,
        tls: Tls | None = None,
        connect_timeout_s: float = 10.0,
        listener: Callable[[Event], None] | None = None,
    ) -> None:
        self._tls, self._connect_timeout_s, self._listener = tls, connect_timeout_s, listener
        self._groups: dict[str, Group] = {}
        self._owner = uuid.uuid4().hex
        self._tasks = Tasks()
        self._hearing = Hearing(
            scheduler_address, tls, Listeners(self._tell, self._on_stages, self._on_gone, self._on_lost)
        )
        self._staging = Staging(self._hearing)
        self._leases = Leases(self._owner, self._hearing, self._lose)
        self._adoption = Adoption(self._owner, self._hearing, self._tasks, self._tell)

    async def __aenter__(self) -> Self:
        """Connect and hear every node once. ClusterUnreachable if the scheduler does not answer in time, BadCertificate if
        the certificates will not do."""
        self._to_stages = self._tls.client() if self._tls is not None else None
        try:
            await self._hearing.open(self._connect_timeout_s)
        except BaseException:
            await self._hearing.close()
            raise
        self._tasks.keep(self._leases.renew_always, "renew leases")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Dissolve the groups that are ours and disconnect."""
        await self._tasks.close()
        await asyncio.gather(*(self.dissolve(group) for group in list(self._groups.values())), return_exceptions=True)
        await self._hearing.close()

    @property
    def joined(self) -> bool:
        """Whether a scheduler is there."""
        return self._hearing.joined

    def view(self) -> View:
        """The nodes as last reported."""
        return self._hearing.roster.view()

    async def nodes(self, minimum: int = 1, timeout_s: float = 30.0) -> View:
        """The view once it has `minimum` nodes. NodeLost if it has not within the timeout."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._hearing.until(lambda: len(self._hearing.roster.known) >= minimum)
        except TimeoutError:
            there = len(self._hearing.roster.known)
            raise NodeLost(f"{there} of {minimum} nodes have joined within {timeout_s:.0f} s") from None
        return self.view()

    async def form(
        self, name: str, placement: Placement, checkpoint: Checkpoint, timeout_s: float, *, behind: bool = False
    ) -> Group:
        """Form the group that `placement` says, under a name that is never used twice; its stages may still wait for their
        units. One that comes `behind` has them all, which make way for all that anybody waits for.

        Refused if a node would not, StageFailed or NodeLost if it could not; nothing is left of it then.
        """
        started_s = time.monotonic()
        orders = self._orders(name, placement, checkpoint, timeout_s, behind)
        nodes = [node for node, _ in orders]
        with self._leases.coming(name, nodes):
            try:
                formed = await self._order_all(orders, StageFormed, timeout_s)
                phases = (timed_phase("form group", "front end", started_s),)
                if behind:
                    await self._await_units(name, nodes, max(0.0, started_s + timeout_s - time.monotonic()))
                group = await self._connect(Group(name, placement, phases), formed, timeout_s)
            except BaseException:
                await self._dissolve_on(name, nodes)
                raise
        if behind:
            await self._try_out(group, max(0.0, started_s + timeout_s - time.monotonic()))
        return group

    async def hurry(self, name: str, nodes: Sequence[str]) -> None:
        """Somebody waits for a group that comes behind others on these nodes, and is not formed yet: what it lacks makes way
        no more. ClusterError if a node cannot be told; the group comes all the same."""
        await self._order_all([(node, Hurry(name)) for node in nodes], Done, ORDER_TIMEOUT_S)

    async def adopt(self, name: str) -> Group:
        """Take over the group, which GroupFound has told of. Refused if somebody else was first or its owner is alive after
        all; StageFailed or NodeLost if it cannot serve, and nothing is left of it then."""
        _, placement = await self._adoption.placement(name)
        nodes = [stage.node for stage in placement.stages]
        with self._leases.coming(name, nodes):
            try:
                doors = await self._adoption.take(name, placement)
                return await self._connect(Group(name, placement, ()), doors, CONNECT_WITHIN_S)
            except Refused:
                raise
            except BaseException:
                await self._dissolve_on(name, nodes)
                raise

    async def phases(self, group: FormedGroup) -> tuple[Phase, ...]:
        """What the nodes and stages of the group did at its start, by time, in unix seconds of our own clock; nodes that do
        not answer are left out."""
        asked = (self._phases(stage.node, group.name) for stage in group.placement.stages)
        answers = await asyncio.gather(*asked, return_exceptions=True)
        found = [phase for answer in answers if not isinstance(answer, BaseException) for phase in answer]
        return tuple(sorted((*group.phases, *found), key=lambda phase: phase.start_s))

    async def dissolve(self, group: FormedGroup) -> None:
        """End the group on all its nodes and forget it."""
        self._groups.pop(group.name, None)
        self._leases.release(group.name)
        await group.close()
        await self._dissolve_on(group.name, [stage.node for stage in group.placement.stages])

    async def bring(
        self,
        node: str,
        checkpoint: Checkpoint,
        units: Sequence[str],
        tier: str,
        timeout_s: float,
        on_progress: Progress | None = None,
    ) -> UnitsBrought:
        """Bring units of a model to a tier of a node, behind its cold starts, and standing still while one on another node
        waits for units. Who cancels it ends it; units that are whole stay."""
        wanted = tuple(checkpoint.unit(name) for name in units)
        digests = [unit.digest for unit in wanted]
        sources = Sources(digests, self.view()).of(self._node(node))
        asked = dict(zip(digests, sources, strict=True))
        order = BringUnits(checkpoint.name, wanted, tier, timeout_s, self._peers(sources), asked)
        return await self._staging.bring(node, order, on_progress)

    async def evict(self, node: str, checkpoint: Checkpoint) -> None:
        """Drop a model's units from the node's tiers, except those in use."""
        await self.drop(node, [unit.digest for unit in checkpoint.units])

    async def drop(self, node: str, digests: Sequence[str]) -> None:
        """The same, of units whosever they are."""
        await self._order(node, Evict(tuple(digests)), Done, ORDER_TIMEOUT_S)
        await self._hearing.refresh(node, ORDER_TIMEOUT_S)

    async def retain(self, node: str, dram: Retention, ssd: Retention, for_s: float) -> None:
        """Have a node that needs room in a tier drop what is worth least there, for so long or until it is told otherwise;
        then again what was used longest ago. ClusterError if it is more than a node takes."""
        try:
            order = Retain(Ranked.of(dram), Ranked.of(ssd), for_s)
        except ValueError as error:
            raise ClusterError(f"node {node} cannot be told what to keep: {error}") from error
        await self._order(node, order, Done, ORDER_TIMEOUT_S)

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
        asked = (self._hearing.refresh(node, ORDER_TIMEOUT_S) for node in list(self._hearing.roster.known))
        for answer in await asyncio.gather(*asked, return_exceptions=True):
            if isinstance(answer, BaseException) and not isinstance(answer, ClusterError):
                raise answer
        return self.view()

    # ---- orders

    def _orders(
        self, name: str, placement: Placement, checkpoint: Checkpoint, timeout_s: float, behind: bool = False
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
                rendezvous_secret=group_secret(self._hearing.known(first.name).rendezvous_secret, name),
                reserve_bytes=stage.reserve_bytes,
                kv_tokens=placement.kv_tokens,
                timeout_s=timeout_s,
                lease_s=LEASE_S,
                peers=self._peers(stage.sources),
                sources={unit.digest: asked for unit, asked in zip(units, stage.sources, strict=False)},
                later=() if behind else stage.later,
                held_back=() if behind else stage.held_back,
                sharing=machines[self._node(stage.node).shared_with],
                digest=checkpoint.digest,
                owner=self._owner,
                outside_bytes=stage.outside_bytes,
                behind=behind,
            )

        return [(stage.node, order(rank, stage)) for rank, stage in enumerate(placement.stages)]

    async def _await_units(self, group: str, nodes: Sequence[str], timeout_s: float) -> None:
        """Until the stages of the group have all their units."""
        order = AwaitUnits(group, timeout_s)
        await self._order_all([(node, order) for node in nodes], Done, timeout_s + ANSWER_WITHIN_S)

    def _peers(self, sources: Iterable[Sequence[str]]) -> tuple[Peer, ...]:
        """Where those are that lists of sources name, and what they want to be shown; who is gone by now is left out."""
        names = dict.fromkeys(peer for asked in sources for source in asked if (peer := peer_of(source)) is not None)
        known = [self._hearing.roster.known[name] for name in names if name in self._hearing.roster.known]
        return tuple(Peer(k.node.name, k.node.host, k.node.peer_port, k.peer_secret) for k in known)

    async def _connect(self, group: Group, doors: Sequence[StageFormed], timeout_s: float) -> Group:
        """The group is formed: talk to its first stage, and keep it until it is dissolved."""
        await group.connect(doors, timeout_s, self._to_stages, self._owner)
        self._groups[group.name] = group
        self._leases.hold(group.name, [stage.node for stage in group.placement.stages])
        group.watch(lambda: self._mourn(group))
        return group

    async def _try_out(self, group: Group, within_s: float) -> None:
        """Have it give a few tokens to nobody: what is computed for the first time takes long, and whoever goes on there
        shall not wait for that. StageFailed if it gives none in time; nothing is left of it then."""
        asked = Submit(f"{group.name}.trial", _TRIED, len(_TRIED), len(_TRIED), ())
        try:
            async with asyncio.timeout(within_s), aclosing(group.generate(asked)) as given:
                async for _ in given:
                    pass
        except NoToken:
            pass  # which these tokens may come to, and others not
        except BaseException as error:
            await self.dissolve(group)
            if isinstance(error, TimeoutError):
                raise StageFailed(f"group {group.name} gave no token in {within_s:.0f} s") from error
            raise

    async def _dissolve_on(self, group: str, nodes: Sequence[str]) -> None:
        async def dissolve(node: str) -> None:
            await self._order(node, Dissolve(group, self._owner), Done, ORDER_TIMEOUT_S)
            await self._hearing.refresh(node, ORDER_TIMEOUT_S)

        orders = (dissolve(node) for node in nodes if node in self._hearing.roster.known)
        for answer in await asyncio.gather(*orders, return_exceptions=True):
            if isinstance(answer, Refused):
                _log.warning("group %s is not ended: %s", group, answer)
            elif isinstance(answer, ClusterError):
                _log.warning("group %s: %s; its lease will end it", group, answer)

    async def _phases(self, node: str, group: str) -> tuple[Phase, ...]:
        asked_s = time.monotonic()
        answer = await self._order(node, AskPhases(group), Phases, PHASES_WITHIN_S)
        return in_our_clock(answer.phases, answer.now_s, asked_s, time.monotonic())

    def _node(self, name: str) -> Node:
        return self._hearing.known(name).node

    async def _order(self, node: str, order: object, answer: type[_T], timeout_s: float) -> _T:
        """Give an order and return its answer; what the node did not do is raised."""
        return await self._hearing.order(node, order, answer, timeout_s)

    async def _order_all(self, orders: Sequence[tuple[str, object]], answer: type[_T], timeout_s: float) -> list[_T]:
        """Give orders to nodes, all at once, and return their answers; if one is not done the others are given up."""
        tasks = [asyncio.ensure_future(self._order(node, order, answer, timeout_s)) for node, order in orders]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # ---- what is heard

    def _tell(self, event: Event) -> None:
        if self._listener is not None:
            self._listener(event)

    def _on_stages(self, node: str, stages: Sequence[StageLease]) -> None:
        if self._listener is not None:
            self._adoption.hear(node, stages)

    def _on_gone(self, node: str, cause: str) -> None:
        self._adoption.forget(node)
        for group in list(self._groups.values()):
            if any(stage.node == node for stage in group.placement.stages):
                group.lose(f"node {node} is gone: {cause}")

    def _on_lost(self, message: StageLost) -> None:
        if message.group in self._groups:
            self._groups[message.group].explain(f"{message.node}: {message.cause}")

    def _lose(self, group: str, cause: str) -> None:
        if group in self._groups:
            self._groups[group].lose(cause)

    def _mourn(self, group: Group) -> None:
        """A group that we did not dissolve ourselves has ended."""
        self._leases.release(group.name)
        if self._groups.get(group.name) is group:
            self._tell(GroupLost(group.name, group.cause))
