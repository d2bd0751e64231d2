"""Processes killed and stopped at random while clients stream: what the clients see, and what is left afterwards."""

import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.moves_chaos import Chaos as ChaosOfMoves
from benchmarks.moves_chaos import leaks
from benchmarks.moves_models import publish_tiny
from benchmarks.moves_operator import KEY
from benchmarks.moves_run import bodies
from tests.asking import get
from tests.cluster.chaos import KEEP_ALIVE_S, SETTLE_S, Chaos, at_rest, settled
from tests.real_cluster import STOP_DEADLINE_S, RealCluster, run_cluster

SECONDS, EVERY_S = 25.0, 1.0
FEW = 4
"""Descriptors that may be there more: of connections to the scheduler."""
LITTLE_MIB = 128
"""By so much a node may grow: what a first start needs, it keeps."""
KILLS, MOVES_SEED = 10, 3
"""What fails with a seed is tried again with it."""


@pytest.mark.timeout(300)
def test_clients_see_pauses_and_nodes_lose_nothing(tmp_path: Path) -> None:
    """After two hundred kills a node had lost fifteen descriptors, and one that was stopped cost a start two minutes."""
    chaos = Chaos(tmp_path)
    with run_cluster(tmp_path, chaos.store.objects.url, nodes=2) as cluster:
        url = cluster.start_frontend(keep_alive_s=KEEP_ALIVE_S, consolidate=True)
        before = settled(cluster, at_rest)
        chaos.run(cluster, url, SECONDS, EVERY_S, seed=5)
        after = settled(
            cluster,
            lambda held: at_rest(held) and held["descriptors"] <= FEW + min(then["descriptors"] for then in before),
        )
        account = chaos.account
        assert not account.wrong
        assert account.whole, account
        assert sum(account.harms.values()) > SECONDS / EVERY_S / 3
        assert all(at_rest(held) for held in after), after
        grown = [now["descriptors"] - then["descriptors"] for now, then in zip(after, before, strict=True)]
        assert max(grown) <= FEW, (before, after)
        more = [now["memory_mib"] - then["memory_mib"] for now, then in zip(after, before, strict=True)]
        assert max(more) <= LITTLE_MIB, (before, after)
        deadline_s = time.monotonic() + SETTLE_S
        while any(node["device_reserved_bytes"] or node["stage_processes"]["busy"] for node in nodes(url)):
            assert time.monotonic() < deadline_s, nodes(url)
            time.sleep(0.2)


@dataclass(frozen=True)
class Parts:
    """A cluster whose parts may die, and come back where they were."""

    cluster: RealCluster

    @property
    def processes(self) -> Mapping[str, "subprocess.Popen[bytes]"]:
        return self.cluster.processes

    def kill(self, name: str) -> None:
        self.cluster.processes[name].kill()
        self.cluster.processes[name].wait(STOP_DEADLINE_S)

    def again(self, name: str) -> None:
        if name == "scheduler":
            self.cluster.start_scheduler()
        else:
            self.cluster.start_node(name)


@pytest.mark.timeout(300)
def test_whatever_dies_while_requests_move_no_token_is_lost_or_doubled(tmp_path: Path) -> None:
    """Stage processes, zygotes, nodes and the scheduler. In the end nothing is held, and no move is left open."""
    store_url = f"file://{tmp_path / 'store'}"
    model = publish_tiny(store_url).name
    with run_cluster(tmp_path, store_url, nodes=3) as cluster:
        url = cluster.start_frontend(
            max_degree=2, max_replicas=2, keep_alive_s=KEEP_ALIVE_S, operator_key=KEY, consolidate=True
        )
        parts = Parts(cluster)
        account = ChaosOfMoves(parts, url, bodies(model)).run(KILLS, EVERY_S, MOVES_SEED)
        assert (account.wrong, account.torn) == ([], [])
        assert account.whole, account
        assert account.shifted, account
        assert leaks(parts, url) == []


def nodes(url: str) -> list[dict[str, Any]]:
    """What the nodes have reported of themselves."""
    found: list[dict[str, Any]] = get(f"{url}/admin/status", timeout=60).json()["nodes"]
    return found
