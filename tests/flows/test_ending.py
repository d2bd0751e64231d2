"""The flow service ends, whatever the runner of Prefect makes of being cancelled."""

import asyncio
import logging

import pytest

from flows.service import _end


async def _takes_one_for_its_own() -> None:
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        await asyncio.sleep(60)


async def _falls_over() -> None:
    try:
        await asyncio.sleep(60)
    finally:
        raise OSError("the server is gone")


async def test_a_runner_that_takes_one_cancellation_for_its_own_is_cancelled_again() -> None:
    """It then waited for a Prefect that was gone, and the service with it."""
    serving = asyncio.create_task(_takes_one_for_its_own())
    await asyncio.sleep(0)
    await asyncio.wait_for(_end(serving), 10)
    assert serving.cancelled()


async def test_a_runner_that_falls_over_at_its_end_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    serving = asyncio.create_task(_falls_over())
    await asyncio.sleep(0)
    with caplog.at_level(logging.WARNING):
        await _end(serving)
    assert "the server is gone" in caplog.text
