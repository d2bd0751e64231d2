"""A node's own storage that fails: killed in the middle of a load, a disk that is full or read-only."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from cluster.client import ClusterClient
from cluster.errors import ClusterError
from storage_tiers.model_store import ModelStore
from tests.cluster.groups import PROMPT, TIMEOUT_S, TOKENS, Published, form_on, generate, served
from tests.cluster.leftovers import held_by_anyone, memory_of, nothing_of, report_of, tree, unit_files
from tests.real_cluster import RealCluster, run_cluster
from tests.storage_tiers.handmade import flip
from tests.withholding_store import run_withholding_store

UNITS = ("embed", "layer.0000", "layer.0001", "layer.0002", "layer.0003", "head")
LATE, BAD = "layer.0003", "layer.0001"


@pytest.fixture(scope="module")
def cluster(store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCluster]:
    with run_cluster(tmp_path_factory.mktemp("cluster"), store.objects.url, nodes=0) as running:
        yield running


@asynccontextmanager
async def joined(cluster: RealCluster, name: str) -> AsyncIterator[ClusterClient]:
    """A client that has heard of the node."""
    async with ClusterClient(cluster.scheduler_address) as client:
        await until(lambda: client.view().node(name) is not None)
        yield client


@asynccontextmanager
async def node(cluster: RealCluster, name: str, ssd: Path, **overrides: object) -> AsyncIterator[ClusterClient]:
    """A client of a new node, which lives as long as the block or until it is killed in it."""
    cluster.start_node(name, ssd_dir=str(ssd), **overrides)
    try:
        async with joined(cluster, name) as client:
            yield client
    finally:
        if name in cluster.processes:
            cluster.kill(name)


@asynccontextmanager
async def silent_store(published: Published, unit: str) -> AsyncIterator[str]:
    """The URL of a server that has all that is published, and says nothing when it is asked for one unit."""
    with run_withholding_store(Path(published.store.objects.url.removeprefix("file://")), unit) as silent:
        yield f"{silent.url}/withheld"


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that no event tells of."""
    async with asyncio.timeout(TIMEOUT_S):
        while not condition():  # noqa: ASYNC110 - files and logs tell nobody
            await asyncio.sleep(0.02)


# ---- killed in the middle of a load


async def test_a_node_killed_in_the_middle_of_a_load_finds_its_whole_units_again_and_serves(
    cluster: RealCluster, published: Published, tmp_path: Path
) -> None:
    """One unit hangs in the store while the others have come to ssd. Nothing reads those at the next start: a byte that
    has changed meanwhile is found when the unit is loaded, and only then."""
    ssd = tmp_path / "ssd"
    digests = {name: published.checkpoint.unit(name).digest for name in UNITS}
    async with silent_store(published, LATE) as url, node(cluster, "victim", ssd, store_url=url) as client:
        group = await form_on(client, "victim", published.checkpoint)
        request = asyncio.ensure_future(generate(group, "r", PROMPT, TOKENS))
        await until(lambda: set(unit_files(ssd)) == set(digests.values()) - {digests[LATE]})
        processes = tree(cluster.processes["victim"].pid)
        assert cluster.stages("victim")
        memory = memory_of(processes[0])
        assert memory
        cluster.kill("victim")
        with pytest.raises(ClusterError):
            await request
    _, alive = await asyncio.to_thread(psutil.wait_procs, processes, timeout=TIMEOUT_S)
    assert not alive
    assert not held_by_anyone(memory)

    flip(ssd / digests[BAD], 5000)
    (ssd / f"{digests[LATE]}.0123.partial").write_bytes(b"half")
    async with node(cluster, "victim", ssd) as client:
        report = await report_of(client, "victim")
        assert report.gained == {digest: "ssd" for name, digest in digests.items() if name != LATE}
        assert report.ssd_used_bytes == sum(unit_files(ssd).values())
        assert digests[LATE] not in unit_files(ssd)
        group = await form_on(client, "victim", published.checkpoint)
        assert await generate(group, "r", PROMPT, TOKENS) == published.expected
        fetched = {p.name: p.where for p in await client.phases(group) if p.name.startswith("fetch")}
        assert fetched == {
            f"fetch {name}": f"victim from {'remote' if name in (LATE, BAD) else 'ssd'}" for name in UNITS
        }
        await client.dissolve(group)
        await nothing_of(published.checkpoint, client, cluster, "victim", ssd)


# ---- a disk that is full or read-only


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A disk of its own that holds two or three units of a tiny model."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a disk to fill it")
    folder = tmp_path_factory.mktemp("disk")
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=352k", "none", folder], capture_output=True, check=False)
    if made.returncode:
        pytest.skip(f"no disk can be mounted here: {made.stderr.decode()}")
    (folder / "ssd").mkdir()
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture(scope="module")
def on_disk(cluster: RealCluster, disk: Path) -> str:
    """A node whose ssd is that disk, by another name: what Dask writes beside it is not there and keeps it writable."""
    by_another_name = cluster.folder / "ssd"
    by_another_name.symlink_to(disk / "ssd")
    cluster.start_node("on-disk", ssd_dir=str(by_another_name))
    return "on-disk"


def remount(disk: Path, *options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{','.join(options)}", disk], check=True)


def warnings(cluster: RealCluster, name: str, *words: str) -> list[str]:
    """Lines of a node's log that have all these words."""
    return [line for line in cluster.log(name).splitlines() if all(word in line for word in words)]


async def account(client: ClusterClient, name: str, ssd: Path) -> set[str]:
    """The units on ssd, once what the node says of it is what lies there: it writes behind."""
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            report, files = await report_of(client, name), unit_files(ssd)
            of_the_node = {digest for digest, tier in report.gained.items() if tier == "ssd"}
            if report.ssd_used_bytes == sum(files.values()) and of_the_node <= set(files) <= set(report.gained):
                return set(files)
            await asyncio.sleep(0.05)


async def test_a_disk_that_is_full_costs_its_cache_and_nothing_else(
    cluster: RealCluster, published: Published, disk: Path, on_disk: str
) -> None:
    """It is told once, not for every unit, and when there is room units are kept again."""
    ssd = disk / "ssd"
    async with joined(cluster, on_disk) as client:
        assert await served(client, on_disk, published) == {f"{on_disk} from remote"}
        await until(lambda: bool(warnings(cluster, on_disk, "not kept on ssd", "No space left")))
        assert 0 < len(await account(client, on_disk, ssd)) < len(UNITS)

        remount(disk, "size=8m")
        await nothing_of(published.checkpoint, client, cluster, on_disk, ssd)
        assert await served(client, on_disk, published) == {f"{on_disk} from remote"}
        await until(lambda: len(unit_files(ssd)) == len(UNITS))
        assert len(await account(client, on_disk, ssd)) == len(UNITS)
        await nothing_of(published.checkpoint, client, cluster, on_disk, ssd)
    (told,) = warnings(cluster, on_disk, "not kept on ssd", "No space left")
    assert str(cluster.folder / "ssd") in told


async def test_a_disk_that_is_read_only_is_read_and_no_more(
    cluster: RealCluster, store: ModelStore, published: Published, tmp_path: Path, disk: Path, on_disk: str
) -> None:
    """The node goes on when it becomes so, and starts when it is. What lay there is used, and removed when it may be."""
    ssd = disk / "ssd"
    remount(disk, "size=8m")
    (tmp_path / "other").mkdir()
    other = Published(store, tmp_path / "other")
    mine = {unit.digest for unit in published.checkpoint.units}
    async with joined(cluster, on_disk) as client:
        await served(client, on_disk, published)
        await until(lambda: set(unit_files(ssd)) == mine)
        remount(disk, "ro")
        assert await served(client, on_disk, other) == {f"{on_disk} from remote"}
        await until(lambda: bool(warnings(cluster, on_disk, "not kept on ssd", "Read-only")))
        assert await account(client, on_disk, ssd) == mine
    assert len(warnings(cluster, on_disk, "not kept on ssd", "Read-only")) == 1
    cluster.kill(on_disk)

    async with node(cluster, "restarted", ssd) as client:
        assert await served(client, "restarted", published) == {"restarted from ssd"}
        assert await served(client, "restarted", other) == {"restarted from remote"}
        for each in (published, other):
            await client.evict("restarted", each.checkpoint)
        assert set(unit_files(ssd)) == mine
        remount(disk, "rw")
        assert await served(client, "restarted", other) == {"restarted from remote"}
        await nothing_of(other.checkpoint, client, cluster, "restarted", ssd)
