"""A node's place among Dask's workers: it joins the scheduler at its address, and the next one there when that is gone.

A Dask worker ends with its scheduler. The agent lives on: its tiers, its stages and their groups know no scheduler.
"""

import asyncio
import logging
import os
import tempfile

from distributed import Worker

from cluster.errors import NameTaken
from cluster.node.agent import NodeAgent
from cluster.node.config import NodeConfig
from cluster.wire.encryption import security
from cluster.wire.scheduler import until_there

_log = logging.getLogger(__name__)
FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 2.0


async def stay_joined(config: NodeConfig, agent: NodeAgent) -> None:
    """Be a worker of whatever scheduler answers, until cancelled.

    NameTaken if the first that is joined has a node of this name; later that is this node's own, which it will miss soon.
    """
    joined, wait_s = False, FIRST_WAIT_S
    folder = _scratch(config)
    while True:
        await until_there(config.scheduler_address, security(config.tls), "worker")
        worker = Worker(
            config.scheduler_address, name=config.name, host=config.host, nthreads=1, dashboard=False,
            local_directory=folder, memory_limit=0, security=security(config.tls),
        )  # fmt: skip
        agent.serve(worker)
        try:
            await worker
            agent.join(worker)
            joined, wait_s = True, FIRST_WAIT_S
            await worker.finished()
            _log.warning("the scheduler at %s is gone; the node waits for the next", config.scheduler_address)
        except (RuntimeError, OSError) as error:
            cause = error.__cause__ or error
            if not joined and isinstance(cause, ValueError):
                raise NameTaken(f"the scheduler does not take node {config.name}: {cause}") from error
            _log.warning("the scheduler at %s could not be joined: %s", config.scheduler_address, cause)
        finally:
            agent.leave()
            await worker.close()
        await asyncio.sleep(wait_s)
        wait_s = min(2 * wait_s, LONGEST_WAIT_S)


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
