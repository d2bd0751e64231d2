"""Processes killed and stopped at random while clients stream: what the clients see, and what is left afterwards."""

import time
from pathlib import Path
from typing import Any

import pytest

from tests.asking import get
from tests.cluster.chaos import KEEP_ALIVE_S, SETTLE_S, Chaos, at_rest, settled
from tests.real_cluster import run_cluster

SECONDS, EVERY_S = 25.0, 1.0
FEW = 4
"""Descriptors that may be there more: of connections to the scheduler."""
LITTLE_MIB = 128
"""By so much a node may grow: what a first start needs, it keeps."""


@pytest.mark.timeout(300)
def test_clients_see_pauses_and_nodes_lose_nothing(tmp_path: Path) -> None:
    """After two hundred kills a node had lost fifteen descriptors, and one that was stopped cost a start two minutes."""
    chaos = Chaos(tmp_path)
    with run_cluster(tmp_path, chaos.store.objects.url, nodes=2) as cluster:
        url = cluster.start_frontend(keep_alive_s=KEEP_ALIVE_S)
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


def nodes(url: str) -> list[dict[str, Any]]:
    """What the nodes have reported of themselves."""
    found: list[dict[str, Any]] = get(f"{url}/admin/status", timeout=60).json()["nodes"]
    return found
