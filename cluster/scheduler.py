"""The Dask scheduler, in this process."""

import asyncio
import signal


def run_scheduler(host: str, port: int, dashboard_port: int) -> None:
    """Be the cluster's scheduler until SIGTERM or SIGINT. OSError if a port is taken."""
    asyncio.run(_run(host, port, dashboard_port))


async def _run(host: str, port: int, dashboard_port: int) -> None:
    from distributed import Scheduler

    stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    async with Scheduler(host=host, port=port, dashboard_address=f"{host}:{dashboard_port}"):
        await stop.wait()
