"""Units brought to real nodes ahead of their use: how far, for whom they wait, and whose room they take."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from cluster import staging
from cluster.client import ClusterClient
from cluster.errors import ClusterError, StageFailed
from schedules.facts import Node
from schedules.foresight.retention import BY_USE, Retention
from storage_tiers.checkpoint import Checkpoint
from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore
from tests.cluster.groups import PROMPT, TIMEOUT_S, TOKENS, Published, form_on, generate, served
from tests.real_cluster import RealCluster, run_cluster
from tests.withholding_store import WithholdingStore, run_withholding_store

WITHHELD = "layer.0001"
KEPT_S = 600.0


@pytest.fixture(scope="module")
def withholding(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WithholdingStore]:
    """Gives nothing of one layer until it is released."""
    with run_withholding_store(tmp_path_factory.mktemp("store"), WITHHELD) as store:
        yield store


@pytest.fixture(scope="module")
def models(withholding: WithholdingStore, tmp_path_factory: pytest.TempPathFactory) -> tuple[Published, Published]:
    """Of equal size."""
    store = ModelStore(ObjectStore(str(withholding.folder)))
    first, second = (Published(store, tmp_path_factory.mktemp("source")) for _ in range(2))
    assert first.checkpoint.size_bytes == second.checkpoint.size_bytes
    return first, second


@pytest.fixture(scope="module")
def cluster(
    withholding: WithholdingStore, models: tuple[Published, Published], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RealCluster]:
    """Two nodes; the dram of the one that is called small has room for one and a half of the models."""
    folder, size_bytes = tmp_path_factory.mktemp("cluster"), models[0].checkpoint.size_bytes
    with run_cluster(folder, f"{withholding.url}/withheld", nodes=1) as running:
        running.start_node("small", dram_bytes=size_bytes * 3 // 2)
        yield running
        withholding.release()


@pytest.fixture
async def client(
    cluster: RealCluster, withholding: WithholdingStore, models: tuple[Published, Published]
) -> AsyncIterator[ClusterClient]:
    """Of nodes that hold nothing, while the store withholds nothing."""
    withholding.release()
    async with ClusterClient(cluster.scheduler_address) as connected:
        for node in (await connected.nodes(2, 90)).nodes:
            await connected.retain(node.name, BY_USE, BY_USE, KEPT_S)
            for model in models:
                await connected.evict(node.name, model.checkpoint)
        yield connected
        withholding.release()


async def _bring(client: ClusterClient, node: str, model: Published, tier: str = "dram") -> int:
    """All of it; how many bytes had to come."""
    units = [unit.name for unit in model.checkpoint.units]
    return (await client.bring(node, model.checkpoint, units, tier, TIMEOUT_S)).fetched_bytes


async def _held(client: ClusterClient, node: str, checkpoint: Checkpoint, *tiers: str) -> set[str]:
    """Names of the units that the node has in one of the tiers, by its own word."""
    await client.refresh()
    found = _node(client, node).units
    return {unit.name for unit in checkpoint.units if found.get(unit.digest) in tiers}


def _node(client: ClusterClient, name: str) -> Node:
    """As last reported."""
    found = client.view().node(name)
    assert found is not None
    return found


async def _until(client: ClusterClient, condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        await client._hearing.until(condition)


def _worth(model: Published, worth: float) -> Retention:
    return Retention({unit.digest: worth for unit in model.checkpoint.units})


# ---- how far it is


async def test_whoever_asks_hears_how_far_it_is(
    client: ClusterClient, models: tuple[Published, Published], withholding: WithholdingStore
) -> None:
    withholding.withhold()
    checkpoint, come = models[0].checkpoint, asyncio.Event()
    units = [unit.name for unit in checkpoint.units]
    before = sum(checkpoint.unit(name).size_bytes for name in units[: units.index(WITHHELD)])
    told = list[int]()

    def hear(size_bytes: int) -> None:
        told.append(size_bytes)
        if size_bytes == before:
            come.set()

    bringing = asyncio.ensure_future(client.bring("node-0", checkpoint, units, "dram", TIMEOUT_S, hear))
    await asyncio.wait_for(come.wait(), TIMEOUT_S)
    withholding.release()
    report = await bringing
    assert told == sorted(told)
    assert told[-1] == report.fetched_bytes == checkpoint.size_bytes


async def test_what_takes_too_long_says_how_far_it_came(
    client: ClusterClient, models: tuple[Published, Published], withholding: WithholdingStore
) -> None:
    withholding.withhold()
    checkpoint = models[0].checkpoint
    units = [unit.name for unit in checkpoint.units]
    there = sum(checkpoint.unit(name).size_bytes for name in units[: units.index(WITHHELD)])
    with pytest.raises(StageFailed, match=f"{there:,} bytes were brought in 2 s, and not all"):
        await client.bring("node-0", checkpoint, units, "dram", 2.0)


async def test_whoever_cancels_it_ends_it_at_the_node_and_keeps_what_is_whole(
    client: ClusterClient, models: tuple[Published, Published], withholding: WithholdingStore
) -> None:
    """What was on its way is let go of, unless it is whole before the node hears of that; what would have come after it never
    comes."""
    withholding.withhold()
    checkpoint = models[0].checkpoint
    units = [unit.name for unit in checkpoint.units]
    before = set(units[: units.index(WITHHELD)])
    whole_bytes, come = sum(checkpoint.unit(name).size_bytes for name in before), asyncio.Event()

    def hear(size_bytes: int) -> None:
        if size_bytes == whole_bytes:
            come.set()

    bringing = asyncio.ensure_future(client.bring("small", checkpoint, units, "dram", TIMEOUT_S, hear))
    await asyncio.wait_for(come.wait(), TIMEOUT_S)
    bringing.cancel()
    await asyncio.gather(bringing, return_exceptions=True)
    await asyncio.sleep(1.0)
    withholding.release()
    most_bytes = whole_bytes + checkpoint.unit(WITHHELD).size_bytes
    await _until(client, lambda: _node(client, "small").dram_used_bytes in (whole_bytes, most_bytes))
    await asyncio.sleep(0.5)
    assert await _held(client, "small", checkpoint, "dram", "ssd") - {WITHHELD} == before


# ---- for whom it waits


@pytest.mark.parametrize("tier", ["dram", "ssd"])
async def test_it_stands_still_while_a_cold_start_on_another_node_waits_for_units(
    client: ClusterClient, models: tuple[Published, Published], withholding: WithholdingStore, tier: str
) -> None:
    withholding.withhold()
    cold, brought = models
    group = await form_on(client, "node-0", cold.checkpoint)
    await _until(client, lambda: client._hearing.roster.fetching == {"node-0"})
    first = brought.checkpoint.units[0].name
    bringing = asyncio.ensure_future(client.bring("small", brought.checkpoint, [first], tier, TIMEOUT_S))
    await asyncio.sleep(2 * staging.HOLD_S)
    assert not bringing.done()
    withholding.release()
    assert (await bringing).fetched_bytes == brought.checkpoint.units[0].size_bytes
    assert await generate(group, "r", PROMPT, TOKENS) == cold.expected
    await _until(client, lambda: not client._hearing.roster.fetching)
    await client.dissolve(group)


async def test_it_comes_in_the_end_though_cold_starts_follow_one_another(
    client: ClusterClient,
    models: tuple[Published, Published],
    withholding: WithholdingStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:

    monkeypatch.setattr(staging, "LONGEST_HOLD_S", 2.0)
    withholding.withhold()
    cold, brought = models
    units = [unit.name for unit in brought.checkpoint.units if unit.name != WITHHELD]
    told, begun = list[int](), asyncio.Event()

    def hear(size_bytes: int) -> None:
        told.append(size_bytes)
        begun.set()

    group = await form_on(client, "node-0", cold.checkpoint)
    await _until(client, lambda: bool(client._hearing.roster.fetching))
    report = await client.bring("small", brought.checkpoint, units, "dram", TIMEOUT_S, hear)
    assert told[-1] == report.fetched_bytes
    assert client._hearing.roster.fetching == {"node-0"}
    withholding.release()
    assert await generate(group, "r", PROMPT, TOKENS) == cold.expected
    await client.dissolve(group)


async def test_a_cold_start_on_the_same_node_is_not_held_with_it(
    client: ClusterClient, models: tuple[Published, Published], withholding: WithholdingStore
) -> None:
    withholding.withhold()
    cold, brought = models
    bringing = asyncio.ensure_future(_bring(client, "node-0", brought))
    group = await form_on(client, "node-0", cold.checkpoint)
    withholding.release()
    assert await generate(group, "r", PROMPT, TOKENS) == cold.expected
    assert await bringing == brought.checkpoint.size_bytes
    await client.dissolve(group)


# ---- whose room it takes


async def test_what_is_worth_more_stays_and_what_is_brought_says_why_it_cannot_come(
    client: ClusterClient, models: tuple[Published, Published]
) -> None:
    kept, other = models
    await client.retain("small", _worth(kept, 1.0), BY_USE, KEPT_S)
    await _bring(client, "small", kept)
    with pytest.raises(ClusterError, match="what could go for them is worth more there"):
        await _bring(client, "small", other)
    everything = {unit.name for unit in kept.checkpoint.units}
    assert await _held(client, "small", kept.checkpoint, "dram") == everything


async def test_what_is_brought_is_not_brought_for_the_room_of_its_own_beginning(
    client: ClusterClient, models: tuple[Published, Published]
) -> None:
    """The first units are used first, and are worth what the last ones are. It went round and said that it was done."""
    first, second = models
    await client.retain("small", _worth(first, 1.0), BY_USE, KEPT_S)
    units = [unit.name for unit in first.checkpoint.units]
    await client.bring("small", first.checkpoint, units[2:], "dram", TIMEOUT_S)
    with pytest.raises(ClusterError, match="used meanwhile"):
        await _bring(client, "small", second)
    assert await _held(client, "small", second.checkpoint, "dram") >= set(units[:2])
    assert await _held(client, "small", first.checkpoint, "dram") == set(units[2:])


async def test_what_is_worth_less_makes_room_and_a_cold_start_has_room_whatever_it_takes(
    client: ClusterClient, models: tuple[Published, Published]
) -> None:
    first, second = models
    await client.retain("small", _worth(second, 1.0), BY_USE, KEPT_S)
    await _bring(client, "small", first)
    await _bring(client, "small", second)
    everything = {unit.name for unit in second.checkpoint.units}
    assert await _held(client, "small", second.checkpoint, "dram") == everything
    await served(client, "small", first)
    assert await _held(client, "small", first.checkpoint, "dram") == everything


async def test_what_is_brought_to_dram_is_on_ssd_as_well_where_it_is_to_be(
    client: ClusterClient, models: tuple[Published, Published]
) -> None:
    both, dram_alone = models
    await client.retain("node-0", BY_USE, _worth(both, 1.0), KEPT_S)
    for model in (dram_alone, both):
        await _bring(client, "node-0", model)
    await _until(client, lambda: _node(client, "node-0").ssd_used_bytes == both.checkpoint.size_bytes)
    for model in models:
        assert len(await _held(client, "node-0", model.checkpoint, "dram")) == len(model.checkpoint.units)
