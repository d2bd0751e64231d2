"""A node: its agent, in this process, which is a Dask worker of whatever scheduler there is."""

import asyncio
import importlib
import os
import signal
from contextlib import suppress
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

from cluster.importing import uncollected
from cluster.node import zygote
from cluster.node.accelerator import Accelerator, find_accelerator
from cluster.node.config import NodeConfig
from cluster.node.zygote_process import Started, fork_zygote

if TYPE_CHECKING:
    from cluster.node.agent import NodeAgent

_SPINS = "10000"
"""Times that a thread of a stage looks for the next product before it sleeps, a few tenths of a millisecond in all: longer
than what lies between two products of a layer, and waking takes as long as a small product. Stages that share cores have
few threads instead, see FormStage.sharing."""
__all__ = ["NodeConfig", "preload", "run_node"]


def run_node(config: NodeConfig) -> None:
    """Be a node until SIGTERM or SIGINT, whatever becomes of schedulers meanwhile; then release everything. At SIGTERM it
    first waits for its stages to be gone, see NodeAgent.drain; at SIGINT, or a second SIGTERM, it does not.

    NoDevice if the machine does not have what it shall compute on, NoInterface if its address is not the machine's,
    BadCertificate if its certificates will not do, NameTaken if the scheduler has a node of this name when the first is
    joined.
    """
    accelerator = compute_on(config.device)
    budget_bytes = accelerator.budget(config.device_bytes, config.sharing)
    config = replace(config, device=accelerator.kind, device_bytes=budget_bytes, gpu=accelerator.uuid)
    forked = fork_zygote(config.host, config.threads, config.device) if zygote.preloaded() else None
    asyncio.run(_run(config, forked))


@cache
def compute_on(device: str) -> Accelerator:
    """Find what a node shall compute on, and let its libraries know: call it before they are imported. What comes of this
    process knows it too. NoDevice if the machine does not have it."""
    accelerator = find_accelerator(device)
    os.environ |= accelerator.environment(os.environ)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)
    return accelerator


def preload(device: str) -> None:
    """Import all that nodes that compute on `device` need: those that are forked from this process have it at once, and one
    zygote each. NoDevice if the machine does not have it."""
    compute_on(device)
    with uncollected():
        importlib.import_module("cluster.node.agent")
        importlib.import_module("cluster.node.joining")
        zygote.preload()


async def _run(config: NodeConfig, forked: Started | None) -> None:
    import dask

    from cluster.node.agent import NodeAgent
    from cluster.node.joining import stay_joined
    from cluster.node.rendezvous import interface_of

    os.environ["GLOO_SOCKET_IFNAME"] = interface_of(config.host)
    os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={interface_of(config.host)}")
    drain, stop = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, lambda: (stop if drain.is_set() else drain).set())
    loop.add_signal_handler(signal.SIGINT, stop.set)
    dask.config.set({
        "distributed.worker.memory.terminate": False,
        "distributed.worker.memory.pause": False,
        "distributed.worker.profile.enabled": False,  # it would look at the stack a hundred times a second
        "distributed.worker.http.routes": ["distributed.http.health"],
    })  # fmt: skip
    agent = NodeAgent(config, forked)
    try:
        await agent.start()
        joined = asyncio.ensure_future(stay_joined(config, agent))
        stopped = asyncio.ensure_future(stop.wait())
        drained = asyncio.ensure_future(_drained(drain, agent))
        await asyncio.wait({joined, stopped, drained}, return_when=asyncio.FIRST_COMPLETED)
        agent.close_door()
        for task in (joined, stopped, drained):
            task.cancel()
        with suppress(asyncio.CancelledError):
            await joined
    finally:
        await agent.close()


async def _drained(drain: asyncio.Event, agent: "NodeAgent") -> None:
    await drain.wait()
    await agent.drain()
