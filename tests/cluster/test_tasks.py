"""What a node does beside its orders, and its end."""

import asyncio

from cluster.tasks import Tasks

DEADLINE_S = 20.0


async def test_what_a_task_begins_as_it_ends_is_ended_too() -> None:
    """It outlived the node's agent, and used what that had closed."""
    tasks, begun, ended = Tasks(), asyncio.Event(), asyncio.Event()

    async def last() -> None:
        try:
            await asyncio.sleep(10 * DEADLINE_S)
        finally:
            ended.set()

    async def first() -> None:
        try:
            begun.set()
            await asyncio.sleep(10 * DEADLINE_S)
        finally:
            tasks.spawn(last(), "last")
            await asyncio.sleep(0)

    tasks.spawn(first(), "first")
    await begun.wait()
    await asyncio.wait_for(tasks.close(), DEADLINE_S)
    assert ended.is_set()
