"""A node: a Dask worker with its agent, in this process."""

import asyncio
import logging
import os
import signal
import tempfile
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from cluster.node.accelerator import find_accelerator
from cluster.node.config import NodeConfig
from cluster.wire.encryption import security

if TYPE_CHECKING:
    from distributed import Worker

_log = logging.getLogger(__name__)
_SPINS = "10000"
"""Times that a thread of a stage looks for the next product before it sleeps, a few tenths of a millisecond in all: longer
than what lies between two products of a layer, and waking takes as long as a small product. Stages that share cores have
few threads instead, see FormStage.sharing."""
__all__ = ["NodeConfig", "run_node"]


def run_node(config: NodeConfig) -> None:
    """Be a node until SIGTERM or SIGINT, or until the scheduler is gone for good; then release everything.

    NoDevice if the machine does not have what it shall compute on, BadCertificate if its certificates will not do.
    """
    accelerator = find_accelerator(config.device)
    budget_bytes = config.device_bytes or accelerator.budget_bytes
    config = replace(config, device=accelerator.kind, device_bytes=budget_bytes)
    os.environ |= accelerator.environment(os.environ)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)
    asyncio.run(_run(config))


async def _run(config: NodeConfig) -> None:
    import dask
    from distributed import Worker

    from cluster.node.agent import NodeAgent
    from cluster.node.rendezvous import interface_of

    os.environ["GLOO_SOCKET_IFNAME"] = interface_of(config.host)
    os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={interface_of(config.host)}")
    stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    dask.config.set({
        "distributed.worker.memory.terminate": False,
        "distributed.worker.memory.pause": False,
        "distributed.worker.profile.enabled": False,  # it would look at the stack a hundred times a second
        "distributed.worker.http.routes": ["distributed.http.health"],
    })  # fmt: skip
    worker = Worker(
        config.scheduler_address, name=config.name, host=config.host, nthreads=1, dashboard=False,
        local_directory=_scratch(config), plugins=[NodeAgent(config)], memory_limit=0, security=security(config.tls),
    )  # fmt: skip
    living = asyncio.ensure_future(_live(worker))
    stopped = asyncio.ensure_future(stop.wait())
    await asyncio.wait({living, stopped}, return_when=asyncio.FIRST_COMPLETED)
    for task in (living, stopped):
        task.cancel()
    with suppress(asyncio.CancelledError):
        await living


def _scratch(config: NodeConfig) -> str | None:
    """The folder for what Dask must write to run, beside the ssd's; its own choice if nothing can be written there."""
    folder = f"{config.ssd_dir}.dask"
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
            file.flush()
    except OSError as error:
        _log.warning("nothing can be written to %s (%s); Dask uses the machine's temporary folder", folder, error)
        return None
    return folder


async def _live(worker: "Worker") -> None:
    """Join the scheduler, however long that takes, and stay until it is gone; close the worker at the end of either."""
    try:
        await worker
        await worker.finished()
    finally:
        await worker.close()
