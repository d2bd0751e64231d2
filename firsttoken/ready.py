"""How one tells from outside that a component serves. Every function waits without end: callers set the deadline.

They ask again and again because another process's server announces itself no other way.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx

_ASK_EVERY_S = 0.1


async def port_open(host: str, port: int) -> None:
    """Until something accepts connections at host:port."""

    async def accepts() -> bool:
        try:
            _, writer = await asyncio.open_connection(host, port)
        except OSError:
            return False
        writer.close()
        return True

    await _until(accepts)


async def http_ok(url: str) -> None:
    """Until GET `url` answers 200."""
    async with _asking() as client:

        async def ok() -> bool:
            try:
                return (await client.get(url)).status_code == 200
            except httpx.TransportError:
                return False

        await _until(ok)


class Nodes:
    """The nodes as the front end's status, at `status_url`, lists them. Whoever waits for one asks for all that do."""

    def __init__(self, status_url: str) -> None:
        self._status_url = status_url
        self._asking = asyncio.Lock()
        self._asked_s = -math.inf
        self._processes: dict[str, int] = {}

    async def serves(self, node: str, pool_size: int) -> None:
        """Until `node` is listed with its pool of stage processes filled."""
        async with _asking() as client:

            async def listed() -> bool:
                async with self._asking:
                    if time.monotonic() - self._asked_s >= _ASK_EVERY_S:
                        self._processes = await self._ask(client)
                        self._asked_s = time.monotonic()
                return self._processes.get(node, -1) >= pool_size

            await _until(listed)

    async def _ask(self, client: httpx.AsyncClient) -> dict[str, int]:
        """How many stage processes each node has."""
        try:
            answer = await client.get(self._status_url)
        except httpx.TransportError:
            return {}
        if answer.status_code != 200:
            return {}
        waiting = {entry["name"]: entry["stage_processes"] for entry in answer.json()["nodes"]}
        return {name: processes["idle"] + processes["busy"] for name, processes in waiting.items()}


async def file_there(path: Path) -> None:
    """Until `path` exists."""

    async def there() -> bool:
        return path.exists()  # noqa: ASYNC240 a local folder, as quick as it gets

    await _until(there)


def _asking() -> httpx.AsyncClient:
    """Of components on this machine, whose HTTP is plain: trusted certificates, which take long to load, are not read."""
    return httpx.AsyncClient(timeout=5.0, trust_env=False, verify=False)  # noqa: S501


async def _until(probe: Callable[[], Awaitable[bool]]) -> None:
    while not await probe():  # noqa: ASYNC110 the event is in another process
        await asyncio.sleep(_ASK_EVERY_S)
