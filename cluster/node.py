"""A node: a Dask worker with its agent, in this process."""

import asyncio
import os
import signal

from cluster.node_config import NodeConfig

__all__ = ["NodeConfig", "run_node"]


def run_node(config: NodeConfig) -> None:
    """Be a node until SIGTERM or SIGINT, or until the scheduler is gone for good; then release everything."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault(
        "GOMP_SPINCOUNT", "0"
    )  # stages share cores: a thread that spins takes them from its neighbour
    asyncio.run(_run(config))


async def _run(config: NodeConfig) -> None:
    import dask
    from distributed import Worker

    from cluster.agent import NodeAgent
    from cluster.rendezvous import interface_of

    os.environ["GLOO_SOCKET_IFNAME"] = interface_of(config.host)
    stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    dask.config.set({"distributed.worker.memory.terminate": False, "distributed.worker.memory.pause": False})
    worker = Worker(
        config.scheduler_address, name=config.name, host=config.host, nthreads=1, dashboard=False,
        local_directory=f"{config.ssd_dir}.dask", plugins=[NodeAgent(config)], memory_limit=0,
    )  # fmt: skip
    async with worker:
        finished = asyncio.ensure_future(worker.finished())
        stopped = asyncio.ensure_future(stop.wait())
        await asyncio.wait({finished, stopped}, return_when=asyncio.FIRST_COMPLETED)
        for task in (finished, stopped):
            task.cancel()
