"""Stages of a group that are played: doors at which a test speaks for them, and hears what they were told."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from cluster.group import Group
from cluster.wire.codec import frame, read_frame
from cluster.wire.hello import Hello
from cluster.wire.kv import KvPulled, PullKv
from cluster.wire.reports import StageFormed
from schedules.facts import Placement, StagePlan

WITHIN_S = 20.0
BYTES = 100
"""What every stage says that it has pulled."""


def pulled(ask: PullKv) -> KvPulled | None:
    """What a stage answers that could."""
    return KvPulled(ask.request, BYTES, 0.1)


def failed(ask: PullKv) -> KvPulled | None:
    """What a stage answers that could not."""
    return KvPulled(ask.request, 0, 0.1, "it is full")


def silent(_ask: PullKv) -> KvPulled | None:
    """A stage answers nothing, and keeps the connection."""
    return None


class PlayedStage:
    """Answers PullKv as `answer` says. What it is told, over whatever connection, is `heard`."""

    def __init__(self, answer: Callable[[PullKv], KvPulled | None]) -> None:
        self.answer = answer
        self.heard: list[Any] = []
        self.hellos: list[Hello] = []
        self._more = asyncio.Event()
        self._front_end: asyncio.StreamWriter | None = None

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """With one caller, until it leaves."""
        try:
            self.hellos.append(hello := await read_frame(reader))
            if not hello.kv:
                self._front_end = writer
            while (message := await read_frame(reader)) is not None:
                self.heard.append(message)
                self._more.set()
                if isinstance(message, PullKv) and (answer := self.answer(message)) is not None:
                    writer.write(frame(answer))
        finally:
            writer.close()

    def tell(self, *events: object) -> None:
        """The front end."""
        assert self._front_end is not None
        self._front_end.write(b"".join(frame(event) for event in events))

    def cut_off(self) -> None:
        """The front end; the stage is gone."""
        assert self._front_end is not None
        self._front_end.transport.abort()

    async def until(self, *kinds: type) -> Any:
        """Wait until it has heard messages of these kinds, and no others since the last that was asked for; the last."""
        async with asyncio.timeout(WITHIN_S):
            while len(self.heard) < len(kinds):
                self._more.clear()
                await self._more.wait()
        found, self.heard = self.heard[: len(kinds)], self.heard[len(kinds) :]
        assert [type(message) for message in found] == list(kinds)
        return found[-1]


@asynccontextmanager
async def played_group(
    name: str, bounds: Sequence[int], *answers: Callable[[PullKv], KvPulled | None]
) -> AsyncIterator[tuple[Group, list[PlayedStage]]]:
    """A group of as many stages as there are `answers`, with layers by `bounds`."""
    stages = [PlayedStage(answer) for answer in answers]
    async with AsyncExitStack() as stack:
        doors, plans = [], []
        for rank, stage in enumerate(stages):
            server = await asyncio.start_server(stage.talk, "127.0.0.1", 0)
            stack.callback(server.close)
            doors.append(StageFormed(name, rank, "127.0.0.1", server.sockets[0].getsockname()[1], f"{name}'s {rank}"))
            plans.append(StagePlan(f"node-{rank}", bounds[rank], bounds[rank + 1], (), 0, 0))
        group = Group(name, Placement("m", tuple(plans), 64, ()), ())
        await group.connect(doors, WITHIN_S, None, "us")
        stack.push_async_callback(group.close)
        yield group, stages
