"""A group that comes behind: whole when it is there, and in nobody's way until then."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from cluster.client import ClusterClient
from cluster.errors import NoToken, StageFailed
from cluster.group import Group
from cluster.model_facts import facts_of
from cluster.wire.phases import FIRST_STEP
from cluster.wire.requests import Submit, Tokens
from schedules.facts import Placement
from schedules.placing.policies.fixed import place
from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore
from tests.cluster.groups import PROMPT, TIMEOUT_S, TOKENS, Published, form, form_on, generate, new_name, placement_on
from tests.real_cluster import START_DEADLINE_S, RealCluster, run_cluster
from tests.withholding_store import WithholdingStore, run_withholding_store

WITHHELD = "layer.0003"


@pytest.fixture(scope="module")
def withholding(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WithholdingStore]:
    """Gives nothing of one layer until it is released."""
    with run_withholding_store(tmp_path_factory.mktemp("store"), WITHHELD) as store:
        yield store


@pytest.fixture(scope="module")
def cluster(withholding: WithholdingStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCluster]:
    with run_cluster(tmp_path_factory.mktemp("cluster"), f"{withholding.url}/withheld", nodes=2) as running:
        yield running
        withholding.release()


@pytest.fixture
async def client(cluster: RealCluster, withholding: WithholdingStore) -> AsyncIterator[ClusterClient]:
    withholding.withhold()
    async with ClusterClient(cluster.scheduler_address) as connected:
        async with asyncio.timeout(START_DEADLINE_S):
            await connected._hearing.until(lambda: sum(n.idle_stage_processes > 0 for n in connected.view().nodes) == 2)
        try:
            yield connected
        finally:
            withholding.release()


def _published(withholding: WithholdingStore, folder: Path, **options: int) -> Published:
    return Published(ModelStore(ObjectStore(str(withholding.folder))), folder, **options)


def _forming(
    client: ClusterClient, published: Published, placement: Placement | None = None, timeout_s: float = TIMEOUT_S
) -> "asyncio.Task[Group]":
    """Behind, over both nodes if nothing else is said."""
    found = placement or place(facts_of(published.checkpoint), client.view(), 2, 4096)
    assert isinstance(found, Placement)
    return asyncio.ensure_future(client.form(new_name(), found, published.checkpoint, timeout_s, behind=True))


async def test_it_is_formed_when_all_its_stages_have_all_their_units(
    client: ClusterClient, withholding: WithholdingStore, tmp_path: Path
) -> None:
    """One that does not is formed long before, and a request waits for what is withheld."""
    published = _published(withholding, tmp_path)
    ordinary = await form(client, published.checkpoint, 2)
    behind = _forming(client, published)
    await asyncio.sleep(1.0)
    assert not behind.done()
    withholding.release()
    group = await asyncio.wait_for(behind, TIMEOUT_S)
    phases = await client.phases(group)
    assert await generate(group, "r", PROMPT, TOKENS) == published.expected
    assigned = {phase.name for phase in phases if phase.name.startswith("assign")}
    assert assigned == {f"assign {unit.name}" for unit in published.checkpoint.units}
    assert FIRST_STEP in {phase.name for phase in phases}, "whoever goes on there does not wait for what is new to it"
    await asyncio.gather(client.dissolve(group), client.dissolve(ordinary))


async def test_it_does_not_hold_up_a_cold_start_on_its_node(
    client: ClusterClient, withholding: WithholdingStore, tmp_path: Path
) -> None:
    """Which finds the process that waits there."""
    late, early = _published(withholding, tmp_path / "a"), _published(withholding, tmp_path / "b", num_hidden_layers=2)
    behind = _forming(client, late, placement_on(client, "node-0", late.checkpoint))
    await asyncio.sleep(1.0)
    start = await form_on(client, "node-0", early.checkpoint)
    assert await generate(start, "r", PROMPT, TOKENS) == early.expected
    assert not behind.done()
    withholding.release()
    group = await asyncio.wait_for(behind, TIMEOUT_S)
    assert await generate(group, "r", PROMPT, TOKENS) == late.expected
    await asyncio.gather(client.dissolve(group), client.dissolve(start))


async def test_what_does_not_come_in_time_is_given_up_and_leaves_nothing(
    client: ClusterClient, withholding: WithholdingStore, tmp_path: Path
) -> None:
    behind = _forming(client, _published(withholding, tmp_path), timeout_s=3.0)
    with pytest.raises(StageFailed, match="did not all come within"):
        await asyncio.wait_for(behind, TIMEOUT_S)
    await client.refresh()
    assert [node.groups for node in client.view().nodes] == [(), ()]


async def test_whoever_gives_it_up_while_it_loads_leaves_nothing(
    client: ClusterClient, withholding: WithholdingStore, tmp_path: Path
) -> None:
    behind = _forming(client, _published(withholding, tmp_path))
    await asyncio.sleep(1.0)
    behind.cancel()
    await asyncio.wait({behind}, timeout=TIMEOUT_S)
    assert behind.cancelled()
    await client.refresh()
    assert [node.groups for node in client.view().nodes] == [(), ()]


async def test_one_that_gives_no_token_is_not_gone_on_with(
    client: ClusterClient, withholding: WithholdingStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That the tokens it is tried with lead to no number is no fault of it: those of others may."""
    withholding.release()
    published = _published(withholding, tmp_path)
    monkeypatch.setattr(Group, "generate", _silent)
    with pytest.raises(StageFailed, match="gave no token in"):
        await asyncio.wait_for(_forming(client, published, timeout_s=6.0), TIMEOUT_S)
    await client.refresh()
    assert [node.groups for node in client.view().nodes] == [(), ()]
    monkeypatch.setattr(Group, "generate", _numberless)
    group = await asyncio.wait_for(_forming(client, published), TIMEOUT_S)
    monkeypatch.undo()
    assert await generate(group, "r", PROMPT, TOKENS) == published.expected
    await client.dissolve(group)


async def _silent(_group: Group, _submit: Submit) -> AsyncIterator[Tokens]:
    await asyncio.Event().wait()
    yield Tokens("", ())


async def _numberless(_group: Group, _submit: Submit) -> AsyncIterator[Tokens]:
    raise NoToken("the model's logits are not finite numbers")
    yield Tokens("", ())
