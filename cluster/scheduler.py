"""The Dask scheduler, in this process."""

import asyncio
import logging
import signal


def run_scheduler(host: str, port: int, dashboard_port: int) -> None:
    """Be the cluster's scheduler until SIGTERM or SIGINT. OSError if a port is taken."""
    asyncio.run(_run(host, port, dashboard_port))


def without_contents(record: logging.LogRecord) -> bool:
    """A filter of the scheduler's log: what could not be sent to a client that has gone is left out, since reports carry
    their nodes' secrets."""
    if str(record.msg).startswith("Closed comm") and record.args:
        record.msg, record.args, record.exc_info = "a client has gone", (), None
        record.levelno, record.levelname = logging.INFO, logging.getLevelName(logging.INFO)
    return True


async def _run(host: str, port: int, dashboard_port: int) -> None:
    import dask
    from distributed import Scheduler

    dask.config.set(
        {"distributed.worker.profile.enabled": False}
    )  # it would look at the stack a hundred times a second
    logging.getLogger("distributed.scheduler").addFilter(without_contents)
    stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    async with Scheduler(host=host, port=port, dashboard_address=f"{host}:{dashboard_port}"):
        await stop.wait()
