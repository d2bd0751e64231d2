"""The loop of virtual time: waiting costs none, and times are exact."""

import asyncio
import time

import pytest

from cluster.virtual_time import Stuck, run_virtual


def test_a_year_passes_at_once_and_the_clock_says_so() -> None:
    async def main() -> float:
        await asyncio.sleep(365 * 86400.0)
        return asyncio.get_running_loop().time()

    began_s = time.monotonic()
    assert run_virtual(main()) == 365 * 86400.0
    assert time.monotonic() - began_s < 60.0


def test_a_timer_is_called_at_its_very_time() -> None:
    """What is told of time is no difference that was rounded on its way through select."""
    times = [0.1 * index + 1e9 / 7 for index in range(100)]

    async def main() -> list[float]:
        loop, seen = asyncio.get_running_loop(), list[float]()
        for at_s in reversed(times):
            loop.call_at(at_s, lambda: seen.append(loop.time()))
        await asyncio.sleep(times[-1] + 1.0)
        return seen

    assert run_virtual(main()) == times


def test_what_follows_from_a_timer_is_done_before_the_next() -> None:
    order: list[str] = []

    async def slow(name: str) -> None:
        for _ in range(50):
            await asyncio.sleep(0)
        order.append(name)

    async def main() -> None:
        loop, tasks = asyncio.get_running_loop(), list[asyncio.Task[None]]()
        for index, name in enumerate("abc"):
            loop.call_at(1.0 + index * 1e-6, lambda name=name: tasks.append(loop.create_task(slow(name))))
            loop.call_at(1.0 + (index + 0.5) * 1e-6, order.append, f"after {name}")
        await asyncio.sleep(2.0)
        await asyncio.gather(*tasks)

    run_virtual(main())
    assert order == ["a", "after a", "b", "after b", "c", "after c"]


def test_deadlines_are_kept() -> None:
    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5.0):
                await asyncio.Event().wait()
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == 5.0


def test_to_wait_for_what_never_comes_is_an_error_and_not_for_ever() -> None:
    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(Stuck):
        run_virtual(main())
