"""A node behind a link of a set rate, as it measures it: by its probe and by its loads."""

import asyncio
import json
from pathlib import Path

import pytest

from benchmarks.bucket_server import serve_buckets
from benchmarks.needs import Absent
from benchmarks.shaped_link import shaped_link
from cluster.client import ClusterClient
from cluster.node.rate_book import FILE
from schedules.facts import Rate
from schedules.rates import NIC
from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore
from storage_tiers.publishing.publish import publish
from tests.cluster.groups import form, generate
from tests.real_cluster import run_cluster
from tests.tiny import make_tiny

MBIT_PER_S = 200
BYTES_PER_S = MBIT_PER_S * 1e6 / 8
WAIT_S = 60.0


async def _probed(client: ClusterClient) -> Rate:
    """What the only node says of its link once it has measured it."""
    while True:
        rates = client.view().nodes[0].rates
        if NIC in rates:
            return rates[NIC]
        await asyncio.sleep(0.1)


async def test_a_link_of_a_set_rate_is_measured_within_15_percent(tmp_path: Path) -> None:
    folder = make_tiny("llama", tmp_path / "source", hidden_size=512, vocab_size=8192)
    buckets = tmp_path / "buckets"
    checkpoint = publish(str(folder), "middling", ModelStore(ObjectStore(f"file://{buckets / 'models'}")))
    try:
        with shaped_link(MBIT_PER_S) as link, serve_buckets(buckets, link.host, link.prefix) as options:
            with run_cluster(tmp_path, "s3://models", 1, store_options=options, use_peers=False) as cluster:
                async with ClusterClient(cluster.scheduler_address) as client:
                    await client.nodes(1, WAIT_S)
                    probed = await asyncio.wait_for(_probed(client), WAIT_S)
                    group = await form(client, checkpoint, degree=1)
                    await generate(group, "r", [5, 6, 7], 2)
                    await client.dissolve(group)
                    measured = (await client.refresh()).nodes[0].rates[NIC]
            samples = json.loads((tmp_path / "node-0" / "ssd" / FILE).read_text())["samples"][NIC]
    except Absent as reason:
        pytest.skip(str(reason))
    assert probed.mean == pytest.approx(BYTES_PER_S, rel=0.15)
    assert measured.mean == pytest.approx(BYTES_PER_S, rel=0.15)
    assert len(samples) > 1
    assert sorted(samples)[len(samples) // 2] == pytest.approx(BYTES_PER_S, rel=0.15), samples
