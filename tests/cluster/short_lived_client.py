"""A front end that forms a group of two stages, begins an answer that does not end, and renews its lease until it is killed.

Arguments: the scheduler's address, the store's URL, a model's name.
"""

import asyncio
import sys

from cluster.client import ClusterClient
from cluster.wire.requests import Submit
from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore
from tests.cluster.groups import GREEDY, PROMPT, form


async def live(address: str, store_url: str, model: str) -> None:
    """Until it is killed."""
    checkpoint = ModelStore(ObjectStore(store_url)).open(model)
    async with ClusterClient(address) as client:
        await client.nodes(2, 60)
        group = await form(client, checkpoint, 2)
        print("formed", group.name, flush=True)
        submit = Submit("endless", tuple(PROMPT), len(PROMPT), 4000, (), GREEDY)
        said = False
        async for _ in group.generate(submit):
            if not said:
                print("answering", flush=True)
                said = True


asyncio.run(live(*sys.argv[1:]))
