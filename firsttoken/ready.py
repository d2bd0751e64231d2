"""How one tells from outside that a component serves. Every function waits without end: callers set the deadline.

They ask again and again because another process's server announces itself no other way.
"""

import asyncio
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
    async with httpx.AsyncClient(timeout=5.0, trust_env=False) as client:

        async def ok() -> bool:
            try:
                return (await client.get(url)).status_code == 200
            except httpx.TransportError:
                return False

        await _until(ok)


async def node_serves(status_url: str, node: str, pool_size: int) -> None:
    """Until the front end's status, at `status_url`, lists `node` with its pool of stage processes filled."""
    async with httpx.AsyncClient(timeout=5.0, trust_env=False) as client:

        async def listed() -> bool:
            try:
                answer = await client.get(status_url)
            except httpx.TransportError:
                return False
            if answer.status_code != 200:
                return False
            processes = {entry["name"]: entry["stage_processes"] for entry in answer.json()["nodes"]}.get(node)
            return processes is not None and processes["idle"] + processes["busy"] >= pool_size

        await _until(listed)


async def file_there(path: Path) -> None:
    """Until `path` exists."""

    async def there() -> bool:
        return path.exists()  # noqa: ASYNC240 a local folder, as quick as it gets

    await _until(there)


async def _until(probe: Callable[[], Awaitable[bool]]) -> None:
    while not await probe():  # noqa: ASYNC110 the event is in another process
        await asyncio.sleep(_ASK_EVERY_S)
