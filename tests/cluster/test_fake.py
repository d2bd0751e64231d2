"""The cluster in memory: what befalls it has the consequences that it has among nodes, and tokens are the same anywhere."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace

import pytest

from cluster.errors import NodeLost, Refused, StageFailed
from cluster.fake import FakeCluster
from cluster.fake_group import FakeGroup, answer
from cluster.virtual_time import run_virtual
from cluster.wire.requests import Sampling, Submit
from schedules.events import Event, GroupFound, GroupLost, NodeLeft, NodeReported, SchedulerJoined, SchedulerLost
from schedules.facts import Placement, View
from schedules.foresight.retention import BY_USE, Retention
from schedules.placing.policies.fixed import place
from schedules.rates import DECODE, NIC
from storage_tiers.checkpoint import Checkpoint
from tests.cluster.unpublished import VOCABULARY, described, facts
from tests.schedules.worlds import MB, world_node

CHECKPOINT = described("m")
PROMPT = (3, 1, 4, 1, 5)
KV_TOKENS = 1024


class Played:
    """A cluster of two nodes, and what it told."""

    def __init__(self, cluster: FakeCluster, events: list[Event]) -> None:
        self.cluster, self.events = cluster, events

    async def form(self, *nodes: str, name: str = "g") -> FakeGroup:
        """The model over the nodes called so."""
        return await self.cluster.form(name, placement(self.cluster.view(), *nodes), CHECKPOINT, 60.0)

    def of(self, *kinds: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kinds)]


def placement(view: View, *nodes: str) -> Placement:
    """One stage on each of the nodes called so."""
    chosen = View(tuple(node for node in view.nodes if node.name in nodes))
    found = place(facts(CHECKPOINT), chosen, len(nodes), KV_TOKENS)
    assert isinstance(found, Placement)
    return found


@asynccontextmanager
async def _playing() -> AsyncIterator[Played]:
    events: list[Event] = []
    async with FakeCluster([world_node("a"), world_node("b")], listener=events.append) as cluster:
        yield Played(cluster, events)


def played(test: Callable[[Played], Awaitable[None]]) -> Callable[[], None]:
    """The test on a cluster, under virtual time."""

    async def main() -> None:
        async with _playing() as cluster:
            await test(cluster)

    def run() -> None:
        run_virtual(main())

    run.__doc__ = test.__doc__
    return run


def ask(request: str = "r", tokens: int = 20, **more: object) -> Submit:
    """Of PROMPT, and nothing that ends it but its length."""
    return replace(Submit(request, PROMPT, len(PROMPT), tokens, ()), **more)  # type: ignore[arg-type]


def rest_of(submit: Submit, request: str, done: Sequence[int]) -> Submit:
    """The same after some of its tokens."""
    tokens = (*submit.tokens, *done)
    return replace(submit, request=request, tokens=tokens, max_tokens=submit.max_tokens - len(done))


async def _tokens(group: FakeGroup, submit: Submit) -> list[int]:
    return [token async for event in group.generate(submit) for token in event.tokens]


# ---- tokens


def test_tokens_depend_on_model_prompt_and_place_alone() -> None:
    whole = answer("m", PROMPT, 50, VOCABULARY)
    assert answer("m", PROMPT, 20, VOCABULARY) == whole[:20]
    assert answer("n", PROMPT, 50, VOCABULARY) != whole
    assert answer("m", PROMPT[1:], 50, VOCABULARY) != whole
    assert all(0 <= token < VOCABULARY for token in whole)
    assert len(set(whole)) > 10


@played
async def test_a_request_that_goes_on_elsewhere_is_given_the_same_tokens(played: Played) -> None:
    whole = list(answer("m", PROMPT, 20, VOCABULARY))
    pipeline, alone = await played.form("a", "b"), await played.form("a", name="h")
    assert await _tokens(pipeline, ask()) == whole
    assert await _tokens(alone, rest_of(ask(), "r.2", whole[:7])) == whole[7:]


@played
async def test_stop_tokens_end_an_answer_but_not_before_its_least_length(played: Played) -> None:
    whole = answer("m", PROMPT, 200, VOCABULARY)
    stop = whole[5]
    assert stop not in whole[:5]
    group = await played.form("a")
    events = [event async for event in group.generate(ask(tokens=200, stop_tokens=(stop,)))]
    assert [token for event in events for token in event.tokens] == list(whole[:6])
    assert events[-1].finish == "stop"
    asked = ask("s", 200, stop_tokens=(stop,), min_tokens=100)
    longer = await _tokens(group, asked)
    assert stop not in longer[:100]
    assert len(longer) >= 100
    assert await _tokens(group, rest_of(asked, "t", longer[:50])) == longer[50:]


@played
async def test_log_probabilities_come_with_every_token_of_who_asks(played: Played) -> None:
    group = await played.form("a")
    async for event in group.generate(ask(sampling=Sampling(logprobs=2))):
        assert len(event.logprobs) == len(event.tokens)
        assert [len(each.top) for each in event.logprobs] == [2] * len(event.tokens)
        assert [each.top[0] for each in event.logprobs] == [(token, -0.5) for token in event.tokens]
    async for event in group.generate(ask("s")):
        assert event.logprobs == ()


@played
async def test_whoever_leaves_is_given_nothing_more_and_makes_room(played: Played) -> None:
    """Two rooms of 512 tokens are all there is."""
    group = await played.form("a")
    staying = asyncio.ensure_future(_tokens(group, ask("s", 500)))
    async with aclosing(group.generate(ask("r", 500))) as stream:
        await anext(stream)
        waiting = asyncio.ensure_future(_tokens(group, ask("w", 500)))
        await asyncio.sleep(0.1)
    await waiting
    assert len(await staying) == 500


# ---- what befalls it


@played
async def test_a_node_that_is_lost_breaks_what_runs_there_and_comes_back_with_its_ssd(played: Played) -> None:
    group = await played.form("a", "b")
    calls: list[str] = []
    group.watch(lambda: calls.append(group.cause))
    stream = group.generate(ask(tokens=500))
    first = (await anext(stream)).tokens
    played.cluster.lose_node("a")
    with pytest.raises(StageFailed, match="node a is gone"):
        [event async for event in stream]
    assert first == answer("m", PROMPT, 1, VOCABULARY)
    assert group.lost.is_set()
    assert calls == ["node a is gone"]
    assert played.of(NodeLeft, GroupLost) == [NodeLeft("a"), GroupLost("g", "node a is gone")]
    assert [node.name for node in played.cluster.view().nodes] == ["b"]
    with pytest.raises(StageFailed):
        await _tokens(group, ask("s"))
    played.cluster.restore("a")
    view = await played.cluster.nodes(2)
    node = view.node("a")
    assert node is not None
    assert set(node.units.values()) == {"ssd"}
    assert "a" in view.holding(CHECKPOINT.units[0].digest)


@played
async def test_a_start_ends_with_the_node_that_it_is_on(played: Played) -> None:
    forming = asyncio.ensure_future(played.form("a"))
    await asyncio.sleep(0.1)
    played.cluster.lose_node("a")
    with pytest.raises(NodeLost):
        await forming
    with pytest.raises(NodeLost):
        await played.cluster.form("h", placement(View((world_node("a"),)), "a"), CHECKPOINT, 60.0)


@played
async def test_a_node_that_is_silent_reports_nothing_and_its_streams_stand_still(played: Played) -> None:
    group = await played.form("a")
    reading = asyncio.ensure_future(_tokens(group, ask(tokens=500)))
    await asyncio.sleep(1.0)
    played.cluster.silence("a")
    await asyncio.sleep(0.1)
    count = len(played.of(NodeReported))
    await asyncio.sleep(10.0)
    reports = played.of(NodeReported)[count:]
    assert {event.node.name for event in reports if isinstance(event, NodeReported)} == {"b"}
    assert not reading.done()
    played.cluster.restore("a")
    assert await reading == list(answer("m", PROMPT, 500, VOCABULARY))


@played
async def test_a_node_that_drains_takes_nothing_new_and_goes_when_it_has_nothing(played: Played) -> None:
    group = await played.form("a")
    played.cluster.drain_node("a")
    await asyncio.sleep(1.0)
    node = played.cluster.view().node("a")
    assert node is not None
    assert node.draining
    with pytest.raises(Refused, match="node a is draining"):
        await played.cluster.form("h", group.placement, CHECKPOINT, 60.0)
    assert len(await _tokens(group, ask())) == 20
    await played.cluster.dissolve(group)
    await asyncio.sleep(1.0)
    assert played.of(NodeLeft, GroupLost) == [NodeLeft("a")]


@played
async def test_a_group_of_which_a_process_dies_is_lost_and_frees_its_memory(played: Played) -> None:
    group = await played.form("a")
    played.cluster.lose_group()
    await asyncio.sleep(0.1)
    assert played.of(GroupLost) == [GroupLost("g", "a stage process died")]
    node = played.cluster.view().node("a")
    assert node is not None
    assert node.device_reserved_bytes == 0
    await played.cluster.dissolve(group)


@played
async def test_one_start_is_refused(played: Played) -> None:
    played.cluster.refuse_next_start()
    with pytest.raises(Refused):
        await played.form("a")
    await played.form("a")


@played
async def test_a_group_whose_front_end_is_gone_is_found_and_adopted(played: Played) -> None:
    group = await played.form("a")
    stream = group.generate(ask(tokens=500))
    await anext(stream)
    played.cluster.abandon_group("g")
    with pytest.raises(StageFailed):
        [event async for event in stream]
    await asyncio.sleep(5.0)
    assert played.of(GroupFound) == [GroupFound("g", facts(CHECKPOINT).key, group.placement)]
    adopted = await played.cluster.adopt("g")
    assert await _tokens(adopted, ask("again")) == list(answer("m", PROMPT, 20, VOCABULARY))
    with pytest.raises(StageFailed):
        await played.cluster.adopt("nobody's")


@played
async def test_without_a_scheduler_all_that_is_known_goes_on(played: Played) -> None:
    group = await played.form("a")
    played.cluster.lose_scheduler()
    await asyncio.sleep(1.0)
    assert not played.cluster.joined
    assert len(await _tokens(group, ask())) == 20
    played.cluster.restore_scheduler()
    await asyncio.sleep(1.0)
    assert played.cluster.joined
    assert [type(event) for event in played.of(SchedulerLost, SchedulerJoined)] == [
        SchedulerJoined, SchedulerLost, SchedulerJoined,
    ]  # fmt: skip
    assert isinstance(played.events[0], SchedulerJoined)


@played
async def test_a_start_that_is_given_up_leaves_nothing(played: Played) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await played.form("a")
    await played.cluster.refresh()
    node = played.cluster.view().node("a")
    assert node is not None
    assert node.groups == ()
    await asyncio.sleep(5.0)
    await played.form("a")


# ---- what flows ask


def test_nodes_keep_what_is_worth_more_for_as_long_as_they_were_told_to() -> None:
    kept, other = CHECKPOINT, described("n")
    units = [unit.name for unit in kept.units]

    async def main() -> None:
        node = replace(world_node("a"), dram_bytes=kept.size_bytes * 3 // 2)
        async with FakeCluster([node]) as cluster:
            await cluster.retain("a", Retention({unit.digest: 1.0 for unit in kept.units}), BY_USE, 60.0)
            await cluster.bring("a", kept, units, "dram", 60.0)
            with pytest.raises(StageFailed, match="worth more"):
                await cluster.bring("a", other, units, "dram", 60.0)
            assert _in_dram(cluster, kept) == len(units)
            await asyncio.sleep(60.0)
            assert not cluster.retained
            await cluster.bring("a", other, units, "dram", 60.0)
            assert _in_dram(cluster, other) == len(units)

    run_virtual(main())


def _in_dram(cluster: FakeCluster, checkpoint: Checkpoint) -> int:
    node = cluster.view().node("a")
    assert node is not None
    return sum(node.units.get(unit.digest) == "dram" for unit in checkpoint.units)


@played
async def test_whoever_cancels_a_bringing_keeps_what_is_whole(played: Played) -> None:
    names, told = [unit.name for unit in CHECKPOINT.units], list[int]()
    bringing = asyncio.ensure_future(played.cluster.bring("a", CHECKPOINT, names, "dram", 60.0, told.append))
    await asyncio.sleep(2.5 * CHECKPOINT.units[0].size_bytes / (100 * MB))
    bringing.cancel()
    await asyncio.gather(bringing, return_exceptions=True)
    await asyncio.sleep(60.0)
    assert told == [CHECKPOINT.units[0].size_bytes, 2 * CHECKPOINT.units[0].size_bytes]
    assert _in_dram(played.cluster, CHECKPOINT) == 2


@played
async def test_units_are_brought_over_the_nodes_card_and_dropped_again(played: Played) -> None:
    names = [unit.name for unit in CHECKPOINT.units]
    brought = await played.cluster.bring("a", CHECKPOINT, names, "ssd", 60.0)
    assert (brought.fetched_bytes, brought.present_bytes) == (CHECKPOINT.size_bytes, 0)
    assert brought.seconds == pytest.approx(CHECKPOINT.size_bytes / (100 * MB))
    node = played.cluster.view().node("a")
    assert node is not None
    assert set(node.units.values()) == {"ssd"}
    again = await played.cluster.bring("a", CHECKPOINT, names, "dram", 60.0)
    assert again.fetched_bytes == 0
    await played.cluster.evict("a", CHECKPOINT)
    assert not played.cluster.view().holding(CHECKPOINT.units[0].digest)
    with pytest.raises(NodeLost):
        await played.cluster.bring("c", CHECKPOINT, names, "dram", 60.0)


@played
async def test_rates_are_probed_as_they_are_and_limits_are_kept(played: Played) -> None:
    assert await played.cluster.probe("a", [NIC, DECODE, "unheard of"], 1.0, keep=False) == {NIC: 1e8, DECODE: 1e10}
    await played.cluster.limit_store("a", 5.0)
    assert played.cluster.store_limits == {"a": 5.0}


@played
async def test_a_start_is_told_in_phases(played: Played) -> None:
    group = await played.form("a")
    await _tokens(group, ask())
    phases = await played.cluster.phases(group)
    assert {phase.where for phase in phases} == {"a"}
    fetched = next(phase for phase in phases if phase.name.startswith("fetch"))
    assert fetched.end_s - fetched.start_s == pytest.approx(CHECKPOINT.size_bytes / (100 * MB), abs=0.01)


async def test_on_a_loop_of_real_time_it_takes_its_time() -> None:
    """The same cluster, for those who want to wait."""
    loop = asyncio.get_running_loop()
    async with FakeCluster([world_node("a", formed=0.05, nic=10_000.0 * MB)]) as cluster:
        began_s = loop.time()
        group = await cluster.form("g", placement(cluster.view(), "a"), CHECKPOINT, 60.0)
        assert loop.time() - began_s >= 0.05
        assert await _tokens(group, ask()) == list(answer("m", PROMPT, 20, VOCABULARY))
