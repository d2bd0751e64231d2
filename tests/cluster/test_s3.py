"""A node that loads from an object store over the network: a real S3 server."""

from pathlib import Path

from cluster.client import ClusterClient
from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore
from storage_tiers.publishing.publish import publish
from tests.cluster.groups import form, generate
from tests.real_cluster import run_cluster
from tests.reference import greedy, load_reference
from tests.s3_server import run_s3_server
from tests.tiny import make_tiny


async def test_a_model_published_to_s3_is_served_from_there(tmp_path: Path) -> None:
    source = make_tiny("llama", tmp_path / "source", seed=41)
    reference = load_reference(source)
    reference.generation_config.eos_token_id = None
    (tmp_path / "buckets").mkdir()
    with run_s3_server(tmp_path / "buckets") as server:
        url = server.bucket("models")
        checkpoint = publish(str(source), "tiny", ModelStore(ObjectStore(url, server.options)))
        with run_cluster(tmp_path, url, nodes=1, store_options=server.options) as cluster:
            async with ClusterClient(cluster.scheduler_address) as client:
                await client.nodes(1, 90)
                group = await form(client, checkpoint, 1)
                assert await generate(group, "r", [7, 8, 9], 12) == greedy(reference, [7, 8, 9], 12)
                sources = {phase.where for phase in await client.phases(group) if phase.name.startswith("fetch")}
                assert sources == {"node-0 from remote"}
