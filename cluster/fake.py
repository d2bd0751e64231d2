"""A whole cluster in memory, behind the same door as the real one (`cluster.contract`).

It is `schedules.world` on the timers of the running loop: under a loop of virtual time (`cluster.virtual_time`) hours of
it pass in seconds, and the same program meets the same cluster whenever it runs. No model computes: tokens are made up, and
are the same wherever a request is run. What befalls it is told to it by its methods.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from cluster.contract import FormedGroup, Listener, Progress
from cluster.errors import ClusterError, NodeLost, Refused, StageFailed
from cluster.fake_group import FakeGroup
from cluster.wire.orders import MOST_RANKED
from cluster.wire.phases import BUILD_SKELETON, FETCH, TAKE_PROCESS, Phase, unix_s
from cluster.wire.reports import UnitsBrought
from schedules.events import (
    Event,
    GroupFailed,
    GroupFormed,
    GroupLost,
    GroupStopped,
    NodeLeft,
    NodeReported,
    RequestBroke,
    RequestProgressed,
    RequestRefused,
    SchedulerJoined,
    SchedulerLost,
)
from schedules.facts import Model, ModelKey, Node, Placement, Unit, View
from schedules.foresight.retention import BY_USE, Retention
from schedules.ledgers.unit_holders import UnitHolders
from schedules.rates import NIC
from schedules.world.groups import Ask
from schedules.world.habits import Habits, Misfortune
from schedules.world.happenings import CaughtUp, Told, Yielded
from schedules.world.world import World
from storage_tiers.checkpoint import Checkpoint

FIRST_REPORTS_WITHIN_S = 10.0


@dataclass(frozen=True)
class _Ordered:
    """What is known of a group by those who form it; `vocabulary` is how many tokens its model has."""

    placement: Placement
    vocabulary: int


class FakeCluster:
    """Use as an async context manager, from one event loop. Nodes are as fast as their rates say."""

    def __init__(
        self, nodes: Iterable[Node], habits: Habits | None = None, listener: Listener = lambda _event: None
    ) -> None:
        self._facts, self._habits, self._listener = tuple(nodes), habits, listener
        self._nodes: dict[str, Node] = {}
        self._holders = UnitHolders()
        self._groups: dict[str, FakeGroup] = {}
        self._ordered: dict[str, _Ordered] = {}
        self._answers: dict[str, asyncio.Future[GroupFormed | GroupFailed]] = {}
        self._stopping: dict[str, asyncio.Future[None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self.joined = False
        self.store_limits: dict[str, float | None] = {}
        """What nodes were told that the store gives to all of them together, in bytes/s."""
        self.retained: dict[str, tuple[Retention, Retention]] = {}
        """What nodes keep in dram and on ssd, as long as they were told to."""
        self._forgetting: dict[str, asyncio.TimerHandle] = {}

    async def __aenter__(self) -> Self:
        """Hear every node once."""
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._world = World(self._facts, (), self._habits, self._now_s)
        self._arm()
        await self.nodes(len(self._facts), FIRST_REPORTS_WITHIN_S)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Dissolve the groups formed here and disconnect."""
        await asyncio.gather(*(self.dissolve(group) for group in list(self._groups.values())))
        if self._timer is not None:
            self._timer.cancel()
        for node in list(self._forgetting):
            self._forget(node)

    # ---- the contract

    def view(self) -> View:
        """The nodes as last reported."""
        return View(tuple(self._nodes[name] for name in sorted(self._nodes)), self._holders)

    async def nodes(self, minimum: int = 1, timeout_s: float = 30.0) -> View:
        """The view once it has `minimum` nodes. NodeLost if it has not within the timeout."""
        try:
            async with asyncio.timeout(timeout_s):
                while len(self._nodes) < minimum:
                    await self._changed.wait()
        except TimeoutError:
            raise NodeLost(f"{len(self._nodes)} of {minimum} nodes have joined within {timeout_s:.0f} s") from None
        return self.view()

    async def form(
        self, name: str, placement: Placement, checkpoint: Checkpoint, timeout_s: float, *, behind: bool = False
    ) -> FakeGroup:
        """Form the group; see the contract."""
        key = ModelKey(checkpoint.name, checkpoint.digest)
        units = tuple(Unit(unit.name, unit.digest, unit.size_bytes) for unit in checkpoint.units)
        self._world.know(Model(*key, units, tied_embeddings=False, kv_bytes_per_token=0))
        self._ordered[name] = _Ordered(placement, checkpoint.config["vocab_size"])
        self._world.form(name, key, placement, timeout_s, self._now_s, behind=behind)
        try:
            return await self._formed(name)
        except asyncio.CancelledError:
            await self._stop(name)
            raise
        except StageFailed as error:
            if any(stage.node not in self._nodes for stage in placement.stages):
                raise NodeLost(str(error)) from error
            raise

    async def hurry(self, name: str, nodes: Sequence[str]) -> None:
        """What a group lacks that comes behind others makes way no more."""
        for node in nodes:
            self._node(node)
        self._world.hurry(name, self._now_s)

    async def adopt(self, name: str) -> FakeGroup:
        """Take over a group that was found. StageFailed if it is not there."""
        self._world.adopt(name, self._now_s)
        return await self._formed(name)

    async def dissolve(self, group: FormedGroup) -> None:
        """End the group on all its nodes and forget it."""
        self._groups.pop(group.name, None)
        await group.close()
        await self._stop(group.name)

    async def phases(self, group: FormedGroup) -> tuple[Phase, ...]:
        """What its nodes did at its start, by time, in unix seconds: each the same as the others."""
        times, found = self._world.times(group.name), list[Phase]()
        for node in (stage.node for stage in group.placement.stages) if times is not None else ():
            assert times is not None
            assert times.formed_s is not None
            begun_s, formed_s = unix_s(times.ordered_s), unix_s(times.formed_s)
            found.append(Phase(TAKE_PROCESS, node, begun_s, begun_s))
            found.append(Phase(BUILD_SKELETON, node, formed_s, formed_s))
            if times.fetched_s is not None:
                found.append(Phase(f"{FETCH}units", node, begun_s, unix_s(times.fetched_s)))
        return tuple(sorted(found, key=lambda phase: phase.start_s))

    async def bring(
        self,
        node: str,
        checkpoint: Checkpoint,
        units: Sequence[str],
        tier: str,
        timeout_s: float,
        on_progress: Progress | None = None,
    ) -> UnitsBrought:
        """Bring units of a model to a tier of a node, over its card alone, as if nobody else used it."""
        wanted = [Unit(unit.name, unit.digest, unit.size_bytes) for unit in map(checkpoint.unit, units)]
        began_s, fetched_bytes, done_bytes = self._now_s, 0, 0
        try:
            async with asyncio.timeout(timeout_s):
                for unit in wanted:
                    there = self._node(node)
                    if unit.digest not in there.units:
                        await asyncio.sleep(unit.size_bytes / there.rates[NIC].mean)
                        fetched_bytes += unit.size_bytes
                    self._node(node)
                    self._world.bring(node, [unit], tier, self._now_s)
                    await self.refresh()
                    done_bytes += unit.size_bytes
                    if on_progress is not None:
                        on_progress(done_bytes)
        except TimeoutError:
            raise StageFailed(
                f"{done_bytes:,} bytes were brought to {node} in {timeout_s:.0f} s, and not all"
            ) from None
        held = self._node(node).units
        if any(held.get(unit.digest) not in (tier, "dram") for unit in wanted):
            raise StageFailed(f"there is no room in {tier} of {node} for all of them: what could go is worth more")
        present_bytes, seconds = done_bytes - fetched_bytes, self._now_s - began_s
        return UnitsBrought(node, tier, len(wanted), fetched_bytes, present_bytes, seconds)

    async def evict(self, node: str, checkpoint: Checkpoint) -> None:
        """Drop a model's units from the node's tiers, except those in use."""
        await self.drop(node, [unit.digest for unit in checkpoint.units])

    async def drop(self, node: str, digests: Sequence[str]) -> None:
        """The same, of units whosever they are."""
        self._node(node)
        self._world.evict(node, digests, self._now_s)
        await self.refresh()

    async def retain(self, node: str, dram: Retention, ssd: Retention, for_s: float) -> None:
        """Have a node that needs room in a tier drop what is worth least there."""
        if for_s <= 0.0 or max(len(dram.worth), len(ssd.worth)) > MOST_RANKED:
            raise ClusterError(f"a node takes at most {MOST_RANKED:,} units and some time, not {for_s} s")
        self._node(node)
        self._forget(node)
        self.retained[node] = (dram, ssd)
        self._world.retain(node, dram, ssd)
        self._forgetting[node] = self._loop.call_later(for_s, self._forget, node)

    async def probe(self, node: str, what: Sequence[str], seconds: float, *, keep: bool) -> Mapping[str, float]:
        """What the node's rates are, after `seconds`; they stay so, whatever `keep` says."""
        await asyncio.sleep(seconds)
        rates = self._node(node).rates
        return {name: rates[name].mean for name in what if name in rates}

    async def limit_store(self, node: str, bytes_per_s: float | None) -> None:
        """Tell a node what the store gives to all nodes together."""
        self.store_limits[self._node(node).name] = bytes_per_s

    async def refresh(self) -> View:
        """The view after every node that answers has reported once more."""
        for report in self._world.reports():
            self._tell(report)
        return self.view()

    # ---- what befalls it

    def lose_node(self, name: str) -> None:
        """Its processes are gone, and what was in its memory."""
        self.befall(Misfortune.NODE_LOST, name)

    def drain_node(self, name: str) -> None:
        """It was told to end: it takes no more stages, and goes when it has none, or after its grace."""
        self.befall(Misfortune.NODE_DRAINING, name)

    def silence(self, name: str) -> None:
        """The node stands still, and says nothing."""
        self.befall(Misfortune.NODE_SILENT, name)

    def restore(self, name: str) -> None:
        """A node that was lost or silent is there again."""
        self.befall(Misfortune.NODE_BACK, name)

    def lose_group(self, name: str = "") -> None:
        """A process of the group dies; by default of the one that is up the longest."""
        self.befall(Misfortune.GROUP_LOST, name)

    def abandon_group(self, name: str = "") -> None:
        """The front end that formed the group is gone; the group is found, by whoever listens here."""
        self.befall(Misfortune.GROUP_ABANDONED, name)

    def refuse_next_start(self) -> None:
        """A node has other things to say of its memory when the next group is to be formed."""
        self.befall(Misfortune.START_REFUSED, "")

    def lose_scheduler(self) -> None:
        """It is away; what is known goes on."""
        self.befall(Misfortune.SCHEDULER_LOST, "")

    def restore_scheduler(self) -> None:
        """It is there again."""
        self.befall(Misfortune.SCHEDULER_BACK, "")

    def befall(self, what: Misfortune, name: str = "") -> None:
        """By its kind, as the world takes it."""
        self._world.befall(what, name, self._now_s)
        self._arm()

    # ---- what its groups ask (`cluster.fake_group.Plays`)

    def run(self, group: str, ask: Ask) -> None:
        """Give the request its tokens."""
        self._world.run(group, ask, self._now_s)
        self._arm()

    def follow(self, group: str, ask: Ask, copy_of: str) -> None:
        """Take the request in, which another group generates."""
        self._world.follow(group, ask, copy_of, self._now_s)
        self._arm()

    def more(self, request: str, tokens: int) -> None:
        """Who follows has so many more tokens."""
        self._world.more(request, tokens, self._now_s)
        self._arm()

    def go_on(self, request: str, tokens: int) -> None:
        """The same, and give it what follows."""
        self._world.go_on(request, tokens, self._now_s)
        self._arm()

    def yield_up(self, request: str) -> None:
        """Give the request nothing after its step."""
        self._world.yield_up(request, self._now_s)
        self._arm()

    def cancel(self, request: str) -> None:
        """Nobody wants the request's tokens any more."""
        self._world.cancel(request, self._now_s)
        self._arm()

    # ---- groups

    async def _formed(self, name: str) -> FakeGroup:
        """The group once it is formed. Refused or StageFailed if it will not be."""
        waiting: asyncio.Future[GroupFormed | GroupFailed] = self._loop.create_future()
        self._answers[name] = waiting
        self._arm()
        try:
            came = await waiting
        finally:
            del self._answers[name]
        if isinstance(came, GroupFailed):
            raise (Refused if came.refused else StageFailed)(came.reason)
        ordered = self._ordered[name]
        group = FakeGroup(name, ordered.placement, ordered.vocabulary, self)
        self._groups[name] = group
        return group

    async def _stop(self, name: str) -> None:
        if name not in self._stopping:
            self._stopping[name] = self._loop.create_future()
            self._world.stop(name, self._now_s)
            self._arm()
        await asyncio.shield(self._stopping[name])

    def _forget(self, node: str) -> None:
        """What it was told to keep, if anything."""
        if node in self._forgetting:
            self._forgetting.pop(node).cancel()
            del self.retained[node]
            self._world.retain(node, BY_USE, BY_USE)

    def _node(self, name: str) -> Node:
        if name not in self._nodes:
            raise NodeLost(f"node {name!r} is not connected")
        return self._nodes[name]

    # ---- what happens

    @property
    def _now_s(self) -> float:
        return self._loop.time()

    def _arm(self) -> None:
        """See to it that the next thing happens in time."""
        next_s = self._world.next_s
        if self._timer is not None:
            if self._timer.when() == next_s:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(next_s, self._happen) if next_s < float("inf") else None

    def _happen(self) -> None:
        """One thing, so that all that follows from it is done before the next."""
        self._timer = None
        for event in self._world.happen()[1]:
            self._tell(event)
        self._arm()

    def _tell(self, event: Told) -> None:
        match event:
            case GroupFormed(name) | GroupFailed(name):
                if name in self._answers and not self._answers[name].done():
                    self._answers[name].set_result(event)
            case GroupStopped(name):
                self._ordered.pop(name, None)
                self._stopping.pop(name).set_result(None)
            case RequestProgressed(request, name, tokens) if name in self._groups:
                self._groups[name].progressed(request, tokens)
            case RequestRefused(request, name, reason) if name in self._groups:
                self._groups[name].refused(request, reason)
            case CaughtUp(_, name) if name in self._groups:
                self._groups[name].caught_up(event)
            case Yielded(request, name) if name in self._groups:
                self._groups[name].yielded(request)
            case RequestProgressed() | RequestRefused() | RequestBroke() | CaughtUp() | Yielded():
                pass  # their streams have ended with their group
            case _:
                self._note(event)
                self._listener(event)

    def _note(self, event: Event) -> None:
        """What the client knows of it before it tells others."""
        match event:
            case NodeReported(node, gained, lost):
                self._nodes[node.name] = node
                self._holders.gain(node.name, gained)
                self._holders.lose(node.name, lost)
                self._wake()
            case NodeLeft(name):
                node = self._nodes.pop(name)
                self._holders.lose(name, node.units)
                self._wake()
            case GroupLost(name, cause):
                group = self._groups.pop(name, None)
                if group is not None:
                    group.lose(cause)
            case SchedulerJoined() | SchedulerLost():
                self.joined = isinstance(event, SchedulerJoined)
            case _:
                pass

    def _wake(self) -> None:
        """Those who wait for nodes look again."""
        self._changed.set()
        self._changed = asyncio.Event()
