"""What holds of every cluster, with nodes or without: one suite on the real client and on the cluster in memory."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from cluster.client import ClusterClient
from cluster.contract import Cluster, FormedGroup, KvOf
from cluster.errors import ClusterError, NodeLost, Refused, StageFailed
from cluster.fake import FakeCluster
from cluster.model_facts import facts_of
from cluster.virtual_time import run_virtual
from cluster.wire.orders import MOST_RANKED
from cluster.wire.phases import BUILD_SKELETON, TAKE_PROCESS
from cluster.wire.requests import Embedded, Sampling, Submit
from schedules.events import Event, NodeReported, SchedulerJoined
from schedules.facts import Model, Placement, View
from schedules.foresight.retention import BY_USE, Retention
from schedules.placing.policies.fixed import place
from schedules.rates import NIC
from storage_tiers.checkpoint import Checkpoint
from tests.cluster.groups import Published
from tests.cluster.unpublished import described, facts
from tests.real_cluster import RealCluster
from tests.schedules.worlds import world_node

KV_TOKENS = 256
WITHIN_S = 60.0
PROMPT = (7, 8, 9)
GREEDY = Sampling(temperature=0.0)
_names = itertools.count()


class Heard:
    """What a cluster told."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._more = asyncio.Event()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        self._more.set()

    async def until(self, holds: Callable[[], object]) -> None:
        """It is so by the time that something is told."""
        async with asyncio.timeout(WITHIN_S):
            while not holds():
                self._more.clear()
                await self._more.wait()


@dataclass
class Played:
    """A cluster of at least two nodes, what it told, and a model that it can run."""

    cluster: Any
    heard: Heard
    checkpoint: Checkpoint
    model: Model

    @property
    def names(self) -> list[str]:
        """Those of the nodes."""
        return [node.name for node in self.cluster.view().nodes]

    def placement(self, *nodes: str, kv_tokens: int = KV_TOKENS) -> Placement:
        """One stage on each of the nodes called so."""
        view = View(tuple(node for node in self.cluster.view().nodes if node.name in nodes))
        found = place(self.model, view, len(nodes), kv_tokens)
        assert isinstance(found, Placement)
        return found

    async def form(self, *nodes: str) -> FormedGroup:
        """On the nodes called so."""
        found: FormedGroup = await self.order(self.placement(*nodes))
        return found

    async def order(self, placement: Placement, **more: bool) -> Any:
        name = f"contract-{next(_names)}"
        async with asyncio.timeout(WITHIN_S):
            return await self.cluster.form(name, placement, self.checkpoint, WITHIN_S, **more)

    def groups(self, node: str) -> tuple[str, ...]:
        """That are on the node, as last reported."""
        return next(known.groups for known in self.cluster.view().nodes if known.name == node)


def _ask(tokens: int = 8, stop_tokens: tuple[int, ...] = ()) -> Submit:
    return Submit(f"contract-{next(_names)}", PROMPT, len(PROMPT), tokens, stop_tokens, GREEDY)


def _rest(submit: Submit, done: Sequence[int]) -> Submit:
    tokens = (*submit.tokens, *done)
    return replace(_ask(submit.max_tokens - len(done), submit.stop_tokens), tokens=tokens)


async def _tokens(group: FormedGroup, submit: Submit) -> tuple[list[int], str | None]:
    """All tokens of a request, and why there are no more."""
    async with asyncio.timeout(WITHIN_S):
        events = [event async for event in group.generate(submit)]
    assert [event.finish for event in events[:-1]] == [None] * (len(events) - 1)
    return [token for event in events for token in event.tokens], events[-1].finish


# ---- what holds


async def gives_as_many_tokens_as_are_asked_for(played: Played) -> None:
    group = await played.form(played.names[0])
    tokens, finish = await _tokens(group, _ask(8))
    assert (len(tokens), finish) == (8, "length")
    await played.cluster.dissolve(group)


async def goes_on_elsewhere_with_the_same_tokens(played: Played) -> None:
    asked = _ask(8)
    pipeline, alone = await played.form(*played.names[:2]), await played.form(played.names[0])
    whole, _ = await _tokens(pipeline, asked)
    assert await _tokens(alone, _rest(asked, whole[:3])) == (whole[3:], "length")
    await asyncio.gather(played.cluster.dissolve(pipeline), played.cluster.dissolve(alone))


async def gives_the_same_vector_from_any_group(played: Played) -> None:
    pipeline, alone = await played.form(*played.names[:2]), await played.form(played.names[0])
    vectors = []
    for group, name in ((pipeline, "contract-v1"), (alone, "contract-v2")):
        async with asyncio.timeout(WITHIN_S):
            asked = Submit(name, PROMPT, len(PROMPT), 0, (), pooling="mean")
            (told,) = [event async for event in group.generate(asked)]
        assert isinstance(told, Embedded)
        assert (told.request, told.tokens, told.finish) == (name, (), "stop")
        vectors.append(np.frombuffer(told.vector, "<f4"))
    assert len(vectors[0]) > 1
    assert np.allclose(*vectors, rtol=1e-4, atol=1e-5)
    await asyncio.gather(played.cluster.dissolve(pipeline), played.cluster.dissolve(alone))


async def ends_with_a_stop_token(played: Played) -> None:
    group = await played.form(played.names[0])
    whole, _ = await _tokens(group, _ask(8))
    stop = whole[3]
    assert await _tokens(group, _ask(8, (stop,))) == (whole[: whole.index(stop) + 1], "stop")
    await played.cluster.dissolve(group)


async def makes_room_for_others_when_somebody_leaves(played: Played) -> None:
    group = await played.form(played.names[0])
    async with aclosing(group.generate(_ask(KV_TOKENS - len(PROMPT)))) as stream:
        await anext(stream)
    assert len((await _tokens(group, _ask(8)))[0]) == 8
    await played.cluster.dissolve(group)


async def refuses_a_request_that_will_never_fit(played: Played) -> None:
    group = await played.form(played.names[0])
    with pytest.raises(Refused):
        await _tokens(group, _ask(KV_TOKENS))
    await _tokens(group, _ask(1))
    await played.cluster.dissolve(group)


async def ends_every_stream_of_a_group_that_is_lost(played: Played) -> None:
    group = await played.form(played.names[0])
    causes: list[str] = []
    group.watch(lambda: causes.append(group.cause))
    stream = group.generate(_ask(KV_TOKENS - len(PROMPT)))
    await anext(stream)
    group.lose("for a test")
    group.lose("once more")
    with pytest.raises(StageFailed, match="for a test"):
        [event async for event in stream]
    with pytest.raises(StageFailed, match="for a test"):
        await _tokens(group, _ask())
    assert causes == ["for a test"]
    assert group.lost.is_set()
    await played.cluster.dissolve(group)


async def frees_what_was_reserved(played: Played) -> None:
    group = await played.form(*played.names[:2])
    await played.heard.until(lambda: all(group.name in played.groups(name) for name in played.names[:2]))
    await played.cluster.dissolve(group)
    await played.heard.until(lambda: not any(group.name in played.groups(name) for name in played.names[:2]))


async def refuses_more_than_there_is(played: Played) -> None:
    node = played.cluster.view().nodes[0]
    placement = played.placement(node.name)
    stage = replace(placement.stages[0], kv_bytes=2 * node.device_bytes)
    with pytest.raises(Refused):
        await played.order(replace(placement, stages=(stage,)))
    await played.cluster.dissolve(await played.form(node.name))


async def knows_no_node_that_is_not_there(played: Played) -> None:
    placement = played.placement(played.names[0])
    stage = replace(placement.stages[0], node="nobody")
    with pytest.raises(NodeLost):
        await played.order(replace(placement, stages=(stage,)))
    with pytest.raises(NodeLost):
        await played.cluster.nodes(1000, 0.05)
    with pytest.raises(NodeLost):
        await played.cluster.probe("nobody", [NIC], 0.01, keep=False)


async def leaves_nothing_of_what_is_given_up(played: Played) -> None:
    name = played.names[0]
    before = played.groups(name)
    forming = asyncio.ensure_future(played.form(name))
    await asyncio.sleep(0.01)
    forming.cancel()
    await asyncio.gather(forming, return_exceptions=True)
    await played.cluster.refresh()
    assert played.groups(name) == before


async def adopts_nothing_that_is_not_there(played: Played) -> None:
    with pytest.raises(ClusterError):
        await played.cluster.adopt("nobody's")


async def brings_units_and_drops_them(played: Played) -> None:
    name, units = played.names[0], [unit.name for unit in played.checkpoint.units]
    brought = await played.cluster.bring(name, played.checkpoint, units, "dram", WITHIN_S)
    assert (brought.node, brought.tier, brought.units) == (name, "dram", len(units))
    assert brought.fetched_bytes + brought.present_bytes == played.checkpoint.size_bytes
    view = await played.cluster.refresh()
    assert all(name in view.holding(unit.digest) for unit in played.checkpoint.units)
    await played.cluster.evict(name, played.checkpoint)
    view = await played.cluster.refresh()
    assert not any(name in view.holding(unit.digest) for unit in played.checkpoint.units)


async def is_told_what_to_keep(played: Played) -> None:
    name, worth = played.names[0], {unit.digest: 1.0 for unit in played.checkpoint.units}
    await played.cluster.retain(name, Retention(worth), BY_USE, 60.0)
    await played.cluster.retain(name, BY_USE, Retention(worth, -1.0), 60.0)
    too_many = Retention({f"{number:064x}": 1.0 for number in range(MOST_RANKED + 1)})
    with pytest.raises(ClusterError, match="at most 50,000"):
        await played.cluster.retain(name, too_many, BY_USE, 60.0)
    with pytest.raises(ClusterError, match=r"not .*-1\.0 s"):
        await played.cluster.retain(name, BY_USE, BY_USE, -1.0)
    with pytest.raises(NodeLost):
        await played.cluster.retain("nobody", BY_USE, BY_USE, 60.0)
    await played.cluster.retain(name, BY_USE, BY_USE, 0.1)


async def tells_what_a_start_was_like(played: Played) -> None:
    group = await played.form(played.names[0])
    await _tokens(group, _ask(1))
    phases = await played.cluster.phases(group)
    starts_s = [phase.start_s for phase in phases]
    assert starts_s == sorted(starts_s)
    assert {TAKE_PROCESS, BUILD_SKELETON} <= {phase.name for phase in phases}
    assert played.names[0] in {phase.where for phase in phases}
    assert all(phase.start_s <= phase.end_s for phase in phases)
    await played.cluster.dissolve(group)


async def tells_its_listener_of_scheduler_and_nodes(played: Played) -> None:
    assert isinstance(played.heard.events[0], SchedulerJoined)
    told = {event.node.name for event in played.heard.events if isinstance(event, NodeReported)}
    assert told == set(played.names)
    count = len(played.heard.events)
    await played.heard.until(lambda: any(isinstance(event, NodeReported) for event in played.heard.events[count:]))


async def ends_after_its_step_what_is_yielded_up(played: Played) -> None:
    """With all its tokens and no finish; its room is free then."""
    group = await played.form(played.names[0])
    asked = _ask(KV_TOKENS - len(PROMPT))
    async with asyncio.timeout(WITHIN_S):
        given = []
        async for event in group.generate(asked):
            given.append(event)
            group.yield_up(asked.request)
    assert {event.finish for event in given} == {None}
    done = [token for event in given for token in event.tokens]
    group.yield_up(asked.request)
    group.yield_up("nobody's")
    rest, finish = await _tokens(group, _rest(asked, done))
    assert (len(done) + len(rest), finish) == (asked.max_tokens, "length")
    await played.cluster.dissolve(group)


async def goes_on_where_it_was_followed(played: Played) -> None:
    await _shift(played, copy=False)


async def goes_on_with_its_kv_cache_where_it_was_followed(played: Played) -> None:
    await _shift(played, copy=True)


async def _shift(played: Played, *, copy: bool) -> None:
    """In the middle of an answer, with the same tokens as if it had stayed."""
    there, here = await played.form(*played.names[:2]), await played.form(played.names[0])
    asked = _ask(100)
    whole, _ = await _tokens(there, asked)
    asked = replace(asked, request=f"{asked.request}-again")
    done, told = list[int](), asyncio.Event()

    async def read() -> None:
        async for event in there.generate(asked):
            done.extend(event.tokens)
            told.set()

    reading = asyncio.ensure_future(read())
    async with asyncio.timeout(WITHIN_S):
        await told.wait()
        known = len(done)
        kv_of = KvOf(there, asked.request) if copy else None
        following = await here.follow(_rest(asked, done), kv_of, WITHIN_S)
        assert await following.caught_up() == len(PROMPT) + known
        assert (following.copied_tokens > 0) is copy
        assert (following.copied_bytes > 0) is copy
        gap, known = done[known:], len(done)
        following.more(gap)
        assert await following.caught_up() == len(PROMPT) + known
        there.yield_up(asked.request)
        await reading
        async with aclosing(following.go_on(done[known:])) as stream:
            events = [event async for event in stream]
    rest = [token for event in events for token in event.tokens]
    assert rest, "it had all its tokens before"
    assert done + rest == whole
    assert events[-1].finish == "length"
    await asyncio.gather(played.cluster.dissolve(there), played.cluster.dissolve(here))


async def makes_room_for_others_when_nobody_follows_any_more(played: Played) -> None:
    group = await played.form(played.names[0])
    async with asyncio.timeout(WITHIN_S):
        following = await group.follow(_ask(KV_TOKENS - len(PROMPT)), None, WITHIN_S)
        await following.caught_up()
        await following.close()
        await following.close()
    assert len((await _tokens(group, _ask(KV_TOKENS - len(PROMPT))))[0]) == KV_TOKENS - len(PROMPT)
    await played.cluster.dissolve(group)


async def refuses_to_follow_what_will_never_fit(played: Played) -> None:
    group = await played.form(played.names[0])
    with pytest.raises(Refused):
        await (await group.follow(_ask(KV_TOKENS), None, WITHIN_S)).caught_up()
    await played.cluster.dissolve(group)


async def follows_nothing_once_it_is_lost(played: Played) -> None:
    group = await played.form(played.names[0])
    following = await group.follow(_ask(), None, WITHIN_S)
    await following.caught_up()
    group.lose("for a test")
    following.more((1,))
    with pytest.raises(StageFailed, match="for a test"):
        await following.caught_up()
    with pytest.raises(StageFailed, match="for a test"):
        await group.follow(_ask(), None, WITHIN_S)
    await following.close()
    await played.cluster.dissolve(group)


async def has_all_units_of_what_comes_behind(played: Played) -> None:
    name, units = played.names[-1], played.checkpoint.units
    await played.cluster.evict(name, played.checkpoint)
    placement = played.placement(name)
    later = tuple(unit.name for unit in units)
    behind = replace(placement, stages=tuple(replace(stage, later=later) for stage in placement.stages))
    group = await played.order(behind, behind=True)
    view = await played.cluster.refresh()
    assert {view.node(name).units.get(unit.digest) for unit in units} == {"dram"}
    assert len((await _tokens(group, _ask(8)))[0]) == 8
    await played.cluster.dissolve(group)


async def hurries_what_comes_behind(played: Played) -> None:
    name, group = played.names[-1], f"contract-{next(_names)}"
    await played.cluster.evict(name, played.checkpoint)
    form = played.cluster.form(group, played.placement(name), played.checkpoint, WITHIN_S, behind=True)
    forming = asyncio.ensure_future(form)
    while not forming.done():
        with suppress(Refused):  # the node has not heard of the group yet
            await played.cluster.hurry(group, [name])
            break
        await asyncio.sleep(0.01)
    formed = await asyncio.wait_for(forming, WITHIN_S)
    assert len((await _tokens(formed, _ask(8)))[0]) == 8
    with pytest.raises(NodeLost):
        await played.cluster.hurry(group, ["nobody"])
    await played.cluster.dissolve(formed)


CONTRACT = (
    gives_as_many_tokens_as_are_asked_for,
    goes_on_elsewhere_with_the_same_tokens,
    gives_the_same_vector_from_any_group,
    ends_with_a_stop_token,
    makes_room_for_others_when_somebody_leaves,
    refuses_a_request_that_will_never_fit,
    ends_every_stream_of_a_group_that_is_lost,
    frees_what_was_reserved,
    refuses_more_than_there_is,
    knows_no_node_that_is_not_there,
    leaves_nothing_of_what_is_given_up,
    adopts_nothing_that_is_not_there,
    brings_units_and_drops_them,
    is_told_what_to_keep,
    tells_what_a_start_was_like,
    tells_its_listener_of_scheduler_and_nodes,
    ends_after_its_step_what_is_yielded_up,
    goes_on_where_it_was_followed,
    goes_on_with_its_kv_cache_where_it_was_followed,
    makes_room_for_others_when_nobody_follows_any_more,
    refuses_to_follow_what_will_never_fit,
    follows_nothing_once_it_is_lost,
    has_all_units_of_what_comes_behind,
    hurries_what_comes_behind,
)
_holds = pytest.mark.parametrize("holds", CONTRACT, ids=lambda holds: holds.__name__)


@_holds
def test_a_cluster_in_memory(holds: Callable[[Played], Awaitable[None]]) -> None:
    async def main() -> None:
        checkpoint, heard = described("m"), Heard()
        async with FakeCluster([world_node("a"), world_node("b")], listener=heard) as cluster:
            _obeys(cluster)
            await holds(Played(cluster, heard, checkpoint, facts(checkpoint)))

    run_virtual(main())


@_holds
@pytest.mark.asyncio(loop_scope="session")
async def test_a_real_cluster(
    holds: Callable[[Played], Awaitable[None]], shared_cluster: RealCluster, model: Checkpoint
) -> None:
    heard = Heard()
    async with ClusterClient(shared_cluster.scheduler_address, listener=heard) as client:
        _obeys(client)
        await client.nodes(4, 90)
        await holds(Played(client, heard, model, facts_of(model)))


@pytest.fixture(scope="module")
def model(shared_store: Any, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """In the store that the shared cluster reads from."""
    return Published(shared_store, tmp_path_factory.mktemp("contract")).checkpoint


def _obeys(cluster: Cluster) -> None:
    """Checked by whoever reads the types."""
