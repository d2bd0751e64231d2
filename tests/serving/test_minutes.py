"""Arrivals by minute, over SQLite and a real PostgreSQL: each is counted once, whoever counts and whatever breaks between."""

import asyncio
import json
import math
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from sqlalchemy import func, select, update

import serving.history.history as history_module
from serving.history.history import MODELS_AT_ONCE, History
from serving.history.minutes import Minutes, count_loose
from serving.history.tables import ARRIVALS, MINUTES, Arrival, history_engine
from tests.serving.databases import DEADLINE_S, Database, until, writing

BEGIN_S = 1_700_000_040.0
"""A whole minute."""
DAY_S = 86_400.0
ARRIVAL = Arrival("llama", BEGIN_S, prompt_tokens=3, max_tokens=16, generated_tokens=7, outcome="served")


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_module, "FLUSH_S", 0.05)


@pytest.fixture
def seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is counted after the start."""
    monkeypatch.setattr(history_module, "COUNT_EVERY_S", math.inf)


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written is counted soon, a few at a time."""
    monkeypatch.setattr(history_module, "COUNT_EVERY_S", 0.1)
    monkeypatch.setattr(history_module, "COUNTED_ROWS", 7)


def at(*offsets_s: float, model: str = "llama") -> list[Arrival]:
    return [replace(ARRIVAL, model=model, arrived_s=BEGIN_S + offset_s) for offset_s in offsets_s]


async def write(url: str, arrivals: Sequence[Arrival]) -> None:
    async with writing(url, keep_days=1e6) as history:
        await asyncio.wait_for(history.prepared.wait(), DEADLINE_S)
        for arrival in arrivals:
            history.add_arrival(arrival)


@asynccontextmanager
async def reading(url: str) -> AsyncIterator[History]:
    """A history that writes nothing, and counts nothing."""
    history = History(url, keep_days=1e6)
    try:
        yield history
    finally:
        await history.close()


async def told(history: History, since_s: float, until_s: float, *models: str) -> dict[str, Minutes]:
    found = [each async for some in history.minutes(since_s, until_s, models) for each in some]
    assert [each.model for each in found] == sorted({each.model for each in found})
    return {each.model: each for each in found}


def pairs(minutes: Minutes) -> dict[int, int]:
    found = json.loads(f"[{minutes.counts}]")
    assert len({minute for minute, _ in found}) == len(found)
    return dict(found)


async def loose(url: str) -> int:
    """Arrivals that are not counted yet."""
    return await _number(url, select(func.count()).where(ARRIVALS.c.in_minutes.is_(None)))


async def counted(url: str) -> int:
    return await _number(url, select(func.coalesce(func.sum(MINUTES.c.arrived), 0)))


async def _number(url: str, query: object) -> int:
    engine = history_engine(url)
    try:
        async with engine.begin() as connection:
            return int(await connection.scalar(query))  # type: ignore[call-overload]
    finally:
        await engine.dispose()


async def count(url: str, most: int = 10_000) -> int:
    engine = history_engine(url)
    try:
        async with engine.begin() as connection:
            return await count_loose(connection, most)
    finally:
        await engine.dispose()


# ---- what is told


async def test_minutes_are_told_with_what_is_known_of_them_counted_or_not(database: Database, seldom: None) -> None:
    """Some of a minute's arrivals are counted, some are not, and others came before or after what is asked for."""
    of = [
        replace(ARRIVAL, arrived_s=BEGIN_S + 1.0, ttft_s=2.0, cold=True),
        replace(ARRIVAL, arrived_s=BEGIN_S + 59.9, ttft_s=0.5, cold=False),
        replace(ARRIVAL, arrived_s=BEGIN_S + 180.0, outcome="refused"),
        replace(ARRIVAL, arrived_s=BEGIN_S + 181.0, outcome="failed"),
        replace(ARRIVAL, arrived_s=BEGIN_S - 0.1),
        replace(ARRIVAL, arrived_s=BEGIN_S + 600.0),
        replace(ARRIVAL, model="qwen/2:b", arrived_s=BEGIN_S + 60.0),
    ]
    for arrival in of:
        await write(database.url, [arrival])
        if arrival is of[0] or arrival is of[2]:
            assert await count(database.url) > 0
    async with reading(database.url) as history:
        for _ in range(2):  # before and after all are counted
            found = await told(history, BEGIN_S + 30.0, BEGIN_S + 600.0)
            assert list(found) == ["llama", "qwen/2:b"]
            llama = found["llama"]
            assert pairs(llama) == {0: 2, 3: 2}
            assert (llama.arrived, llama.refused, llama.failed, llama.cold, llama.answered) == (4, 1, 1, 1, 2)
            assert (llama.ttft_s, llama.ttft_most_s, llama.last_s) == (1.25, 2.0, BEGIN_S + 181.0)
            other = found["qwen/2:b"]
            assert (pairs(other), other.ttft_s, other.ttft_most_s) == ({1: 1}, None, None)
            assert list(await told(history, BEGIN_S, BEGIN_S + 600.0, "qwen/2:b", "nobody")) == ["qwen/2:b"]
            assert await told(history, BEGIN_S + 240.0, BEGIN_S + 600.0) == {}
            while await count(database.url):
                pass


async def test_of_a_minute_that_is_cut_nothing_is_told_as_later_than_was_asked_for(database: Database) -> None:
    await write(database.url, at(10.0, 50.0))
    await count(database.url)
    async with writing(database.url, keep_days=1e6) as history:
        (found,) = (await told(history, BEGIN_S, BEGIN_S + 30.0)).values()
        assert found.last_s == BEGIN_S + 30.0


async def test_more_models_than_are_told_at_once_are_all_told(database: Database) -> None:
    names = [f"m-{number}" for number in range(2 * MODELS_AT_ONCE + 3)]
    await write(database.url, [arrival for name in names for arrival in at(0.0, 61.0, model=name)])
    async with writing(database.url, keep_days=1e6) as history:
        sizes = [len(some) async for some in history.minutes(BEGIN_S, BEGIN_S + 120.0)]
        assert sizes == [MODELS_AT_ONCE, MODELS_AT_ONCE, 3]
        assert all(pairs(each) == {0: 1, 1: 1} for each in (await told(history, BEGIN_S, BEGIN_S + 120.0)).values())


# ---- that each is counted once


async def test_what_is_written_is_counted_behind(database: Database, often: None) -> None:
    arrivals = at(*(number * 1.7 for number in range(300)))
    async with writing(database.url, keep_days=1e6) as history:
        await asyncio.wait_for(history.prepared.wait(), DEADLINE_S)
        for arrival in arrivals:
            history.add_arrival(arrival)

        async def all_counted() -> bool:
            return await counted(database.url) == 300

        await until(all_counted, "not all are counted")
        (found,) = (await told(history, 0.0, BEGIN_S * 2)).values()
    assert await loose(database.url) == 0
    expected = Counter(int(arrival.arrived_s // 60) for arrival in arrivals)
    assert pairs(found) == expected


async def test_what_comes_late_is_added_to_its_minute(database: Database) -> None:
    """A row may wait for its database for hours, and a clock may be set back by years."""
    await write(database.url, at(0.0, 1.0))
    assert await count(database.url) == 2
    await write(database.url, at(30.0, -400 * DAY_S))
    assert await count(database.url) == 2
    async with writing(database.url, keep_days=1e6) as history:
        (found,) = (await told(history, BEGIN_S, BEGIN_S + 60.0)).values()
        assert (pairs(found), found.last_s) == ({0: 3}, BEGIN_S + 30.0)
        (found,) = (await told(history, 0.0, BEGIN_S - 300 * DAY_S)).values()
        assert found.arrived == 1


async def test_counting_that_breaks_off_has_not_happened(database: Database) -> None:
    await write(database.url, at(*range(20)))
    engine = history_engine(database.url)
    connection = await engine.connect()
    await connection.begin()
    assert await count_loose(connection, 15) == 15
    await connection.rollback()
    await connection.close()
    await engine.dispose()
    assert (await counted(database.url), await loose(database.url)) == (0, 20)
    assert await count(database.url) == 20
    assert await count(database.url) == 0
    assert await counted(database.url) == 20


async def test_many_count_at_once_and_each_arrival_once(database: Database, often: None) -> None:
    """Front ends that share a database count what any of them wrote, while they write."""

    async def work(number: int) -> None:
        async with writing(database.url, keep_days=1e6) as history:
            for offset in range(200):
                history.add_arrival(at(offset % 5 * 60.0 + number, model=f"m-{offset % 3}")[0])
                if offset % 20 == 0:
                    await asyncio.sleep(0.02)
            await asyncio.sleep(0.3)

    await asyncio.gather(*(work(number) for number in range(4)))
    while await count(database.url, 50):
        pass
    async with writing(database.url, keep_days=1e6) as history:
        found = await told(history, BEGIN_S, BEGIN_S + 300.0)
    assert await counted(database.url) == sum(each.arrived for each in found.values()) == 800
    assert all(set(pairs(each)) == set(range(5)) for each in found.values())


async def test_while_others_count_no_arrival_is_missing_and_none_told_twice(database: Database) -> None:
    await write(database.url, at(*(number * 0.5 for number in range(2000))))
    async with reading(database.url) as history:
        for _ in range(10):
            done, minutes = await asyncio.gather(count(database.url, 150), told(history, BEGIN_S, BEGIN_S + 1000.0))
            (found,) = minutes.values()
            assert (done, found.arrived, sum(pairs(found).values())) == (150, 2000, 2000)


async def test_what_a_front_end_of_an_older_version_writes_is_counted_too(database: Database) -> None:
    await write(database.url, at(1.0))
    await count(database.url)
    engine = history_engine(database.url)
    async with engine.begin() as connection:
        await connection.execute(update(ARRIVALS).values(in_minutes=None))  # as an insert that knows no such column
    await engine.dispose()
    assert await count(database.url) == 1


# ---- how long it is kept


async def test_minutes_outlive_the_requests_and_have_their_own_end(database: Database) -> None:
    """Requests that are too old are not removed before they are counted."""
    (recent,), old, older = at(DAY_S * 1000), at(DAY_S * 990, DAY_S * 990 + 1), at(DAY_S * 900)
    now_s = recent.arrived_s
    await write(database.url, [recent, *old, *older])
    history = History(database.url, keep_days=5.0, keep_minutes_days=50.0)
    try:
        await history._prune(now_s)
        assert await loose(database.url) == 4
        assert await count(database.url) == 4
        await history._prune(now_s)
        assert [each async for some in history.arrivals(0.0, now_s + 1) for each in some] == [recent]
        (found,) = (await told(history, 0.0, now_s + 1)).values()
        assert (found.arrived, found.last_s) == (3, now_s)
    finally:
        await history.close()
