"""What stage processes are told of their node's memory, as it becomes real."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
import pytest_asyncio

from cluster.errors import StageFailed
from cluster.node import pool_news
from cluster.node.pool_news import PoolNews
from cluster.wire.stages import PoolHere, PoolReal
from storage_tiers.tiers.shared_memory import BlockPool
from tests.cluster.played_pool import PlayedPool, until

_BLOCK = 4096
_PIECE = 4 * _BLOCK


@dataclass
class PlayedProcess:
    """Hears what it is sent, while `reads` is set; then it may be dead."""

    heard: list[object] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)
    reads: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.reads.set()

    async def send(self, message: object, fd: int | None = None) -> None:
        await self.reads.wait()
        if self.ended.done():
            raise StageFailed("the process is gone")
        self.heard.append(message)
        self.descriptors += [fd] if fd is not None else []

    @property
    def pieces(self) -> list[int]:
        return [piece for message in self.heard if isinstance(message, PoolReal) for piece in message.pieces]


@pytest_asyncio.fixture
async def memory() -> AsyncIterator[BlockPool]:
    made = BlockPool(64 * _BLOCK, block_bytes=_BLOCK, piece_bytes=_PIECE)
    yield made
    await asyncio.to_thread(made.close)


def _make_real(memory: BlockPool, blocks: int) -> None:
    memory.views(memory.allocate(blocks * _BLOCK), 0, blocks * _BLOCK)


async def test_a_process_hears_of_what_is_real_and_then_of_what_becomes_it(memory: BlockPool) -> None:
    _make_real(memory, 9)
    news, process = PoolNews(memory), PlayedProcess()
    news.tell(process)  # type: ignore[arg-type]
    await until(lambda: process.pieces == [0, 1])
    assert process.heard[0] == PoolHere(_PIECE)
    assert process.descriptors == [memory.read_only_fd]
    await asyncio.to_thread(_make_real, memory, 2)
    await asyncio.sleep(0.02)
    assert process.pieces == [0, 1], "a piece with a raw block is not told of"
    await asyncio.to_thread(_make_real, memory, 5)
    await until(lambda: process.pieces == [0, 1, 2, 3])
    await news.close()


async def test_who_does_not_read_hears_all_later_and_who_is_dead_nothing(
    memory: BlockPool, caplog: pytest.LogCaptureFixture
) -> None:
    news, slow, dead = PoolNews(memory), PlayedProcess(), PlayedProcess()
    for process in (slow, dead):
        process.reads.clear()
        news.tell(process)  # type: ignore[arg-type]
    await asyncio.sleep(0)
    dead.ended.set_result(None)
    await asyncio.to_thread(_make_real, memory, 12)
    for process in (slow, dead):
        process.reads.set()
    await until(lambda: slow.pieces == [0, 1, 2])
    assert not dead.heard
    slow.ended.set_result(None)
    await until(lambda: not news._tasks._running)
    assert not news._changes
    assert not caplog.records
    await news.close()


def test_memory_that_becomes_real_after_the_loop_is_nobodys_news() -> None:
    """It is given up last, on a thread of its own."""
    memory = BlockPool(8 * _BLOCK, block_bytes=_BLOCK, piece_bytes=_PIECE)

    async def tell() -> None:
        news = PoolNews(memory)
        news.tell(PlayedProcess())  # type: ignore[arg-type]
        await asyncio.sleep(0)
        await news.close()

    asyncio.run(tell())
    _make_real(memory, 8)
    assert len(memory.real_pieces()) == 2
    memory.close()


async def test_news_are_cut_into_messages_that_a_channel_takes(
    memory: BlockPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_news, "PIECES_AT_ONCE", 3)
    _make_real(memory, 32)
    news, process = PoolNews(memory), PlayedProcess()
    news.tell(process)  # type: ignore[arg-type]
    await until(lambda: len(process.pieces) == 8)
    assert process.heard[1:] == [PoolReal((0, 1, 2)), PoolReal((3, 4, 5)), PoolReal((6, 7))]
    await news.close()


async def test_a_pool_with_news_tells_each_of_its_processes_and_one_without_none(memory: BlockPool) -> None:
    _make_real(memory, 4)
    news = PoolNews(memory)
    for told in (news, None):
        pool = PlayedPool(news=told)
        pool.goes = "ready"
        pool.may_fork.set()
        process = await pool._take(spare=False)
        (played,) = pool.made
        if told is not None:
            await until(lambda played=played: len(played.heard) == 2)  # type: ignore[misc]
            assert played.heard == [PoolHere(_PIECE), PoolReal((0,))]
        await asyncio.sleep(0.02)
        assert bool(played.heard) == (told is not None)
        await process.end()
        await pool.close()
