"""What each of the demo's calls finds: who takes part, and that the model's bytes are in the store alone."""

import asyncio
from collections.abc import Awaitable, Callable

from firsttoken.components import tls_of
from firsttoken.errors import DemoStuck
from firsttoken.frontend import Frontend
from firsttoken.settings import Settings
from schedules.rates import DECODE, NIC, STREAM
from storage_tiers.checkpoint import Checkpoint

FOLDER = "demo"
NETWORK_BYTES_PER_S = 25_000_000
KEEP_ALIVE_S = 2.0
FEWEST_NODES = 2
_LOOK_EVERY_S = 0.1
_WITHIN_S = 120.0


def demo_settings(settings: Settings) -> Settings:
    """A platform in a folder of its own, so that nothing is left of it in what `firsttoken up` knows of its nodes and of who
    calls; it computes on the CPU, stages nothing ahead and moves nothing unasked. Only the store is in common."""
    home = settings.home / FOLDER
    cluster, node, frontend = settings.cluster, settings.node, settings.frontend
    never = {"every_s": 0.0}
    return settings.model_copy(
        update={
            "home": home,
            "cluster": cluster.model_copy(update={"nodes": max(FEWEST_NODES, cluster.nodes)}),
            "node": node.model_copy(
                update={
                    "device": "cpu",
                    "device_bytes": 0,
                    "network_bytes_per_s": node.network_bytes_per_s or NETWORK_BYTES_PER_S,
                }
            ),
            "frontend": frontend.model_copy(
                update={
                    "degree": max(FEWEST_NODES, cluster.nodes),
                    "ttft_slo_s": 0.0,
                    "tpot_slo_s": 0.0,
                    "min_replicas": 0,
                    "max_replicas": 1,
                    "keep_alive_s": KEEP_ALIVE_S,
                    "consolidate": False,
                }
            ),
            "models": {},
            "history": settings.history.model_copy(update={"url": f"sqlite:///{home / 'history.db'}"}),
            "prewarm": settings.prewarm.model_copy(update={**never, "models": ()}),
            "reap": settings.reap.model_copy(update=never),
            "backtest": settings.backtest.model_copy(update={"cron": ""}),
            "calibrate": settings.calibrate.model_copy(update=never),
            "planning": settings.planning.model_copy(update=never),
        }
    )


async def measured(frontend: Frontend) -> None:
    """Wait until every node knows how fast its network is and how it computes; that is kept for the next run."""

    async def known() -> bool:
        nodes = (await frontend.status())["nodes"]
        return all({NIC, STREAM, DECODE} <= set(node["rates"]) for node in nodes)

    await _until(known, "not every node has measured its network")


async def empty(settings: Settings, frontend: Frontend, checkpoint: Checkpoint) -> None:
    """Nobody runs the model, no node has any of its bytes, and the front end knows."""

    from cluster.client import ClusterClient  # only here, for it takes long to import

    async def idle() -> bool:
        return not (await frontend.status())["replicas"]

    await _until(idle, "the model's replica does not go")
    async with ClusterClient(settings.scheduler_address, tls_of(settings)) as client:
        names = [node.name for node in (await client.nodes(settings.cluster.nodes)).nodes]

        async def gone() -> bool:
            await asyncio.gather(*(client.evict(name, checkpoint) for name in names))
            nodes = (await frontend.status())["nodes"]
            return not any(node["dram_used_bytes"] or node["ssd_used_bytes"] for node in nodes)

        await _until(gone, "the nodes do not let go of the model's bytes")


async def leave_alone(frontend: Frontend, settings: Settings) -> tuple[str, ...]:
    """Drain all nodes but the first, as operators do; their names."""
    others = tuple(f"node-{number}" for number in range(2, settings.cluster.nodes + 1))
    for name in others:
        await frontend.wish({"kind": "drain", "node": name})
    return others


async def take_back(frontend: Frontend, names: tuple[str, ...]) -> None:
    """They take replicas again."""
    for name in names:
        await frontend.undrain(name)


async def _until(condition: Callable[[], Awaitable[bool]], otherwise: str) -> None:
    try:
        async with asyncio.timeout(_WITHIN_S):
            while True:
                if await condition():
                    return
                await asyncio.sleep(_LOOK_EVERY_S)
    except TimeoutError:
        raise DemoStuck(f"{otherwise} within {_WITHIN_S:.0f} s") from None
