"""The first tokens do not wait for the embedding's unit: the rows of the tokens that are fed come first."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.client import ClusterClient
from cluster.group import Group
from cluster.model_facts import facts_of
from cluster.stage.building.lookup import ROWS
from cluster.wire.requests import Submit
from schedules.facts import Placement, View
from schedules.placing.policies.fixed import place
from storage_tiers.checkpoint import Checkpoint
from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore
from storage_tiers.publishing.publish import publish
from tests.cluster.groups import GREEDY, TIMEOUT_S, generate, new_name, prompts_of
from tests.real_cluster import RealCluster, run_cluster
from tests.reference import greedy, load_reference
from tests.tiny import SUPPORTED_FAMILIES, make_tiny
from tests.withholding_store import WithholdingStore, run_withholding_store

NEW_TOKENS = 40
VOCABULARY = 8192
_seeds = itertools.count(700)
_LEARNED_POSITIONS = ("gpt2", "opt")


@pytest.fixture(scope="module")
def withholding(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WithholdingStore]:
    with run_withholding_store(tmp_path_factory.mktemp("store")) as store:
        yield store


@pytest.fixture(scope="module")
def cluster(withholding: WithholdingStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCluster]:
    """Node "first" gets no embedding's unit while it is withheld, "last" gets everything; neither asks the other."""
    folder = tmp_path_factory.mktemp("cluster")
    with run_cluster(folder, f"{withholding.url}/open", nodes=0) as running:
        running.start_node("first", store_url=f"{withholding.url}/withheld", use_peers=False)
        running.start_node("last", use_peers=False)
        yield running
        withholding.release()


@pytest.fixture
async def client(cluster: RealCluster, withholding: WithholdingStore) -> AsyncIterator[ClusterClient]:
    withholding.withhold()
    withholding.refuse_rows = False
    async with ClusterClient(cluster.scheduler_address) as connected:
        await connected.nodes(2, 90)
        try:
            yield connected
        finally:
            withholding.release()


class Published:
    """A model with an embedding much larger than what a prompt needs of it, and what it says after two prompts."""

    def __init__(self, withholding: WithholdingStore, folder: Path, family: str, tied: bool) -> None:
        seed = next(_seeds)  # nodes keep units, so each test has some of its own
        source = make_tiny(family, folder / "source", tied=tied, seed=seed, vocab_size=VOCABULARY)
        name = f"{family}-{seed}"
        self.checkpoint: Checkpoint = publish(str(source), name, ModelStore(ObjectStore(str(withholding.folder))))
        self.prompts = prompts_of(VOCABULARY, (17, 5))
        reference = load_reference(source)
        reference.generation_config.eos_token_id = None
        self.expected = [greedy(reference, prompt, NEW_TOKENS) for prompt in self.prompts]


@asynccontextmanager
async def formed(client: ClusterClient, checkpoint: Checkpoint, degree: int) -> AsyncIterator[Group]:
    """A group whose first stage is on the node "first", the other on "last"."""
    names = ("first", "last")[:degree]
    nodes = tuple(node for node in client.view().nodes if node.name in names)
    placement = place(facts_of(checkpoint), View(nodes), degree, 4096)
    assert isinstance(placement, Placement)
    stages = tuple(replace(stage, node=name) for stage, name in zip(placement.stages, names, strict=True))
    group = await client.form(new_name(), replace(placement, stages=stages), checkpoint, TIMEOUT_S)
    try:
        yield group
    finally:
        await client.dissolve(group)


async def first_stage_did(client: ClusterClient, group: Group) -> list[str]:
    """The names of the first stage's own phases."""
    return [phase.name for phase in await client.phases(group) if phase.where == "stage 0"]


async def until_in_dram(client: ClusterClient, checkpoint: Checkpoint) -> None:
    """The node "first" has the embedding's unit."""
    digest = checkpoint.unit("embed").digest

    def there() -> bool:
        node = client.view().node("first")
        return node is not None and node.units.get(digest) == "dram"

    async with asyncio.timeout(TIMEOUT_S):
        await client._hearing.until(there)


@pytest.mark.parametrize(
    ("family", "tied", "degree"),
    [
        ("llama", False, 1), ("llama", False, 2), ("llama", True, 2), ("gemma", True, 2), ("gemma3_text", False, 1),
        ("gemma3_text", True, 2), ("granite", False, 1), ("falcon", False, 1), ("gpt_neox", False, 2),
    ],
)  # fmt: skip
async def test_tokens_come_before_the_embedding_does_and_go_on_when_it_is_there(
    client: ClusterClient, withholding: WithholdingStore, tmp_path: Path, family: str, tied: bool, degree: int
) -> None:
    model = Published(withholding, tmp_path, family, tied)
    async with formed(client, model.checkpoint, degree) as group:
        assert await generate(group, "r0", model.prompts[0], NEW_TOKENS) == model.expected[0]
        did = await first_stage_did(client, group)
        assert f"wait for {ROWS}" in did
        assert "assign embed" not in did, "the unit was withheld, and is there"

        prompt = model.prompts[1]
        submit = Submit("r1", tuple(prompt), len(prompt), NEW_TOKENS, (), GREEDY)
        got: list[int] = []
        async with asyncio.timeout(TIMEOUT_S), aclosing(group.generate(submit)) as stream:
            async for event in stream:
                withholding.release()
                got += event.tokens
        assert got == model.expected[1]

        await until_in_dram(client, model.checkpoint)
        assert await generate(group, "r2", model.prompts[0], NEW_TOKENS) == model.expected[0]
        read = withholding.rows_read
        assert await generate(group, "r3", model.prompts[1], NEW_TOKENS) == model.expected[1]
        assert withholding.rows_read == read, "rows were read of a unit that is there"
        assert "assign embed" in await first_stage_did(client, group)


@pytest.mark.parametrize("limited", [True, False])
async def test_where_the_store_limits_the_rest_is_asked_for_after_the_first_token(
    client: ClusterClient, withholding: WithholdingStore, tmp_path: Path, limited: bool
) -> None:
    """It was asked for at once, and took from what other stages of the group still waited for."""
    model = Published(withholding, tmp_path, "llama", tied=False)
    withholding.release()
    await client.limit_store("first", 1e9 if limited else None)
    await client.refresh()
    try:
        before = withholding.units_asked
        async with formed(client, model.checkpoint, 2) as group:
            if limited:
                await asyncio.sleep(0.5)
                assert withholding.units_asked == before
            else:
                await until_in_dram(client, model.checkpoint)
            assert await generate(group, "r0", model.prompts[0], NEW_TOKENS) == model.expected[0]
            await until_in_dram(client, model.checkpoint)
            assert withholding.units_asked > before
    finally:
        await client.limit_store("first", None)


async def test_an_output_matrix_that_is_the_embedding_waits_for_its_unit(
    client: ClusterClient, withholding: WithholdingStore, tmp_path: Path
) -> None:
    model = Published(withholding, tmp_path, "llama", tied=True)
    async with formed(client, model.checkpoint, 1) as group:
        answer = asyncio.ensure_future(generate(group, "r0", model.prompts[0], NEW_TOKENS))
        async with asyncio.timeout(TIMEOUT_S):
            while f"wait for {ROWS}" not in await first_stage_did(client, group):
                await asyncio.wait({answer}, timeout=0.02)
        done, _ = await asyncio.wait({answer}, timeout=1.0)
        assert not done
        withholding.release()
        assert await answer == model.expected[0]
        assert "wait for embed" in await first_stage_did(client, group)


async def test_where_rows_cannot_be_had_the_unit_does(
    client: ClusterClient, withholding: WithholdingStore, tmp_path: Path
) -> None:
    model = Published(withholding, tmp_path, "llama", tied=False)
    withholding.refuse_rows = True
    async with formed(client, model.checkpoint, 2) as group:
        answer = asyncio.ensure_future(generate(group, "r0", model.prompts[0], NEW_TOKENS))
        done, _ = await asyncio.wait({answer}, timeout=1.0)
        assert not done
        withholding.release()
        assert await answer == model.expected[0]


async def test_a_model_that_was_published_without_checksums_of_blocks_waits_for_the_unit(
    client: ClusterClient, withholding: WithholdingStore, tmp_path: Path
) -> None:
    model = Published(withholding, tmp_path, "llama", tied=False)
    bare = replace(model.checkpoint, units=tuple(replace(unit, blocks=None) for unit in model.checkpoint.units))
    async with formed(client, bare, 1) as group:
        answer = asyncio.ensure_future(generate(group, "r0", model.prompts[0], NEW_TOKENS))
        withholding.release()
        assert await answer == model.expected[0]
        assert f"wait for {ROWS}" not in await first_stage_did(client, group)


@pytest.mark.parametrize("family", SUPPORTED_FAMILIES)
def test_every_family_but_those_with_learned_positions_begins_with_rows(family: str, tmp_path: Path) -> None:
    store = ModelStore(ObjectStore(str(tmp_path / "store")))
    checkpoint = publish(str(make_tiny(family, tmp_path / "source")), "model", store)
    assert facts_of(checkpoint).rows_first == (family not in _LEARNED_POSITIONS)
