"""The KV cache of a request on its way from the stages of one group to those of another, each asked at its own door."""

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from cluster.errors import ProtocolError, StageFailed
from cluster.wire.codec import frame, read_frame
from cluster.wire.hello import Hello
from cluster.wire.kv import DropKv, KvPulled, KvSource, PullKv
from cluster.wire.reports import StageFormed
from schedules.facts import Placement

PATIENCE = 0.9
"""So much of the time that a copy may take a stage has for its part; the rest is for saying what was wrong."""
DROP_WITHIN_S = 5.0


@dataclass(frozen=True)
class Copied:
    """So many tokens' KV cache was copied, which is so many bytes."""

    tokens: int = 0
    size_bytes: int = 0


class Doors:
    """Where the stages of a group take callers. Every call is a connection of its own: each stage has its own way to each
    other, and what one is at holds up nobody else."""

    def __init__(self, placement: Placement, formed: Sequence[StageFormed], tls: ssl.SSLContext | None) -> None:
        self._stages = list(zip(placement.stages, formed, strict=True))
        self._tls = tls

    def sources(self, slot: int) -> tuple[KvSource, ...]:
        """What the stages know as `slot`, for those that shall have it."""
        return tuple(
            KvSource(door.host, door.port, door.group, slot, stage.first_layer, stage.end_layer, door.secret)
            for stage, door in self._stages
        )

    async def pull(self, request: str, tokens: int, sources: Sequence[KvSource], timeout_s: float) -> int:
        """Have every stage fetch its layers of the KV cache, all at once; how many bytes that was. StageFailed if one could
        not, or not in time: then others may have theirs, see `drop`."""
        until_s = time.monotonic() + PATIENCE * timeout_s
        pulls = [
            asyncio.ensure_future(
                self._pull(door, request, tokens, _within(sources, stage.first_layer, stage.end_layer), until_s)
            )
            for stage, door in self._stages
        ]
        try:
            async with asyncio.timeout(timeout_s):
                return sum(await asyncio.gather(*pulls))
        except TimeoutError:
            raise StageFailed(f"it was not copied within {timeout_s:.1f} s") from None
        except (ProtocolError, OSError) as error:
            raise StageFailed(str(error)) from error
        finally:
            for pull in pulls:
                pull.cancel()
            await asyncio.gather(*pulls, return_exceptions=True)

    async def drop(self, request: str) -> None:
        """Have the stages forget what they pulled for the request. Those that cannot be told so are left alone."""
        await asyncio.gather(*(self._drop(door, request) for _, door in self._stages))

    async def _pull(
        self, door: StageFormed, request: str, tokens: int, sources: tuple[KvSource, ...], until_s: float
    ) -> int:
        async with self._call(door) as (reader, writer):
            writer.write(frame(PullKv(request, tokens, sources, max(0.0, until_s - time.monotonic()))))
            answer = await read_frame(reader)
        if not isinstance(answer, KvPulled):
            raise StageFailed(f"stage {door.rank} does not say that it has it")
        if answer.fault:
            raise StageFailed(f"stage {door.rank}: {answer.fault}")
        return answer.size_bytes

    async def _drop(self, door: StageFormed, request: str) -> None:
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(DROP_WITHIN_S), self._call(door) as (_reader, writer):
                writer.write(frame(DropKv(request)))
                writer.close()
                await writer.wait_closed()

    @contextlib.asynccontextmanager
    async def _call(self, door: StageFormed) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection(door.host, door.port, ssl=self._tls)
        try:
            writer.write(frame(Hello(door.group, door.secret, kv=True)))
            yield reader, writer
        finally:
            writer.transport.abort()


def _within(sources: Sequence[KvSource], first_layer: int, end_layer: int) -> tuple[KvSource, ...]:
    """Those that have any of the layers."""
    return tuple(one for one in sources if one.first_layer < end_layer and first_layer < one.end_layer)
