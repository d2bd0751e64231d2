"""The history over SQLite and over a real PostgreSQL: nothing is lost or doubled, and nobody waits for it."""

import asyncio
import contextlib
import itertools
import socket
import sqlite3
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import select, update
from sqlalchemy.schema import DropIndex, DropTable

import serving.history.history as history_module
from cluster.wire.phases import Phase
from serving.cold_start import ColdStart
from serving.errors import HistoryAway, HistoryRefused
from serving.history.file import HistoryFile
from serving.history.history import BATCH_ROWS, DELETED_ROWS, QUEUED_ROWS, READ_ROWS, History
from serving.history.tables import (
    ARRIVALS,
    COLD_STARTS,
    LOOSE,
    MINUTES,
    MOVES,
    SCHEMA,
    VERSION,
    Arrival,
    history_engine,
    insert_new,
    row_of_start,
)
from tests.serving.databases import DEADLINE_S, Database, until, writing

NOW_S = time.time()
PHASES = (Phase("decide", "front end", NOW_S, NOW_S + 0.1), Phase("fetch embed", "node-1 remote", NOW_S, NOW_S + 1, 9))
START = ColdStart("llama", "g1", ("node-1", "node-2"), NOW_S, 1.25, PHASES)
MOVE = {"move": "m1", "kind": "drain", "step": "done", "ordered_at": NOW_S, "pauses_s": [0.1], "handovers": []}
ARRIVAL = Arrival("llama", NOW_S, prompt_tokens=3, max_tokens=16, generated_tokens=7, outcome="served")


@pytest.fixture(autouse=True)
def _flushed_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most tests wait for what was given to be written."""
    monkeypatch.setattr(history_module, "FLUSH_S", 0.2)


async def arrivals(history: History, since_s: float = 0.0, until_s: float = NOW_S * 2) -> list[Arrival]:
    return [arrival async for batch in history.arrivals(since_s, until_s) for arrival in batch]


def numbered(count: int, first: int = 0) -> list[Arrival]:
    """Arrivals that are told apart by their prompt_tokens, three at each moment."""
    return [
        replace(ARRIVAL, prompt_tokens=number, arrived_s=NOW_S + number // 3) for number in range(first, first + count)
    ]


# ---- what is kept


async def test_cold_starts_are_found_again_the_latest_first(database: Database) -> None:
    later = replace(START, group="g2", arrived_s=NOW_S + 1, predicted={"ttft_s": 1.0, "degree": 4})
    other = replace(START, model="qwen/2:b", group="g3", arrived_s=NOW_S + 2, nodes=("node-1",), phases=())
    async with writing(database.url) as history:
        for start in (other, START, later):
            history.add_start(start)
    async with writing(database.url) as history:
        assert await history.starts(None, 10) == [other, later, START]
        assert await history.starts("llama", 10) == [later, START]
        assert await history.starts(None, 2) == [other, later]
        assert await history.starts("nobody", 10) == []


async def test_arrivals_come_in_order_and_in_batches_without_a_gap_or_a_double(database: Database) -> None:
    """Three arrive at every moment, so that the border between two batches falls into a moment."""
    sent = numbered(READ_ROWS * 2 + 100)
    async with writing(database.url) as history:
        for arrival in reversed(sent):
            history.add_arrival(arrival)
    async with writing(database.url) as history:
        batches = [batch async for batch in history.arrivals(0, NOW_S * 2)]
        assert [len(batch) for batch in batches] == [READ_ROWS, READ_ROWS, 100]
        found = [arrival for batch in batches for arrival in batch]
        assert [arrival.arrived_s for arrival in found] == [arrival.arrived_s for arrival in sent]
        assert sorted(found, key=lambda arrival: arrival.prompt_tokens) == sent
        between = await arrivals(history, NOW_S + 10, NOW_S + 20)
        assert sorted(arrival.prompt_tokens for arrival in between) == list(range(30, 60))


async def test_counts_are_by_bucket_with_those_that_are_empty(database: Database) -> None:
    offsets = [-0.5, 0.0, 0.5, 9.99, 10.0, 34.0, 35.0]
    async with writing(database.url) as history:
        for offset_s in offsets:
            history.add_arrival(replace(ARRIVAL, arrived_s=1000.0 + offset_s))
        history.add_arrival(replace(ARRIVAL, arrived_s=1001.0, model="other"))
    async with writing(database.url, keep_days=1e6) as history:
        pass
    async with writing(database.url, keep_days=1e6) as history:
        assert await history.counts("llama", 1000.0, 1035.0, 10.0) == [3, 1, 0, 1]
        assert await history.counts(None, 1000.0, 1040.0, 10.0) == [4, 1, 0, 2]
        assert await history.counts("nobody", 1000.0, 1020.0, 10.0) == [0, 0]
        assert await history.counts(None, 1000.0, 1000.0, 10.0) == []


async def test_old_rows_are_removed_and_others_stay(database: Database) -> None:
    old_s = NOW_S - 91 * 86400
    async with writing(database.url, keep_days=1000) as history:
        for _ in range(DELETED_ROWS + BATCH_ROWS):
            history.add_arrival(replace(ARRIVAL, arrived_s=old_s))
        history.add_start(replace(START, arrived_s=old_s))
        history.add_start(replace(START, group="g2", arrived_s=NOW_S - 89 * 86400))
        history.add_arrival(ARRIVAL)
    async with writing(database.url) as history:

        async def only_the_new() -> bool:
            left = [start.group for start in await history.starts(None, 10)]
            return left == ["g2"] and await arrivals(history) == [ARRIVAL]

        await until(only_the_new, "old rows are there")


async def test_a_row_is_there_for_others_while_its_writer_goes_on(database: Database) -> None:
    async with writing(database.url) as writer, writing(database.url) as reader:
        writer.add_arrival(ARRIVAL)

        async def seen() -> bool:
            return await arrivals(reader) == [ARRIVAL]

        await until(seen, "the row is not there")


async def test_many_may_begin_at_once_and_write_together(database: Database) -> None:
    """Each finds an empty database at its start: the tables are made once, and every row is there once."""

    async def write(number: int) -> None:
        async with writing(database.url) as history:
            for arrival in numbered(500, number * 500):
                history.add_arrival(arrival)
                if arrival.prompt_tokens % 100 == 0:
                    await asyncio.sleep(0)

    await asyncio.gather(*(write(number) for number in range(4)))
    async with writing(database.url) as history:
        assert sorted(arrival.prompt_tokens for arrival in await arrivals(history)) == list(range(2000))


async def test_a_row_that_is_written_again_is_there_once(database: Database) -> None:
    """A connection that breaks may leave it open whether its last transaction was committed."""
    async with writing(database.url) as history:
        await asyncio.wait_for(history.prepared.wait(), DEADLINE_S)
        engine, row = history_engine(database.url), row_of_start(START)
        for _ in range(2):
            async with engine.begin() as connection:
                await connection.execute(insert_new(connection, COLD_STARTS), [row])
        await engine.dispose()
        assert await history.starts(None, 10) == [START]


def test_urls_say_what_they_say_elsewhere() -> None:
    """asyncpg has another name for `sslmode`, and would refuse that one."""
    url = history_engine("postgresql://me:hush@host:5433/history?sslmode=require").url
    assert (url.drivername, url.host, url.port, dict(url.query)) == (
        "postgresql+asyncpg", "host", 5433, {"ssl": "require"},
    )  # fmt: skip


# ---- a database that is away, or is not ours


async def test_rows_wait_for_a_database_that_is_away_at_the_start(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said once that it is away, and once that it is back."""
    database.leave()
    dropped: list[int] = []
    async with writing(database.url, on_dropped=dropped.append) as history:
        history.add_start(START)
        with pytest.raises(HistoryAway):
            await history.starts(None, 10)
        await until(lambda: caplog.records, "nothing was logged")
        await asyncio.sleep(1)  # several attempts
        history.add_arrival(ARRIVAL)
        assert not history.prepared.is_set()
        await asyncio.to_thread(database.come_back)
        await asyncio.wait_for(history.prepared.wait(), DEADLINE_S)
    async with writing(database.url) as history:
        assert (await history.starts(None, 10), await arrivals(history)) == ([START], [ARRIVAL])
    ours = [record.getMessage() for record in caplog.records if record.name == "serving.history.history"]
    assert len(ours) == 2
    assert "requests go on" in ours[0]
    assert "hush" not in ours[0]
    assert "written again" in ours[1]
    assert dropped == []


async def test_a_server_that_crashes_under_the_writer_loses_and_doubles_nothing(postgres_database: Database) -> None:
    sent = numbered(6000)
    async with writing(postgres_database.url) as history:
        for round_, part in enumerate((sent[:2000], sent[2000:4000], sent[4000:])):
            for arrival in part:
                history.add_arrival(arrival)

            async def some_of_it(seen: int = round_ * 2000) -> bool:
                return len(await arrivals(history)) > seen

            await until(some_of_it, "nothing is written")
            if round_ < 2:
                await asyncio.to_thread(postgres_database.leave)
                await asyncio.to_thread(postgres_database.come_back)
    async with writing(postgres_database.url) as history:
        assert sorted(arrival.prompt_tokens for arrival in await arrivals(history)) == list(range(6000))


async def test_the_newest_rows_are_kept_when_too_many_wait_and_the_others_are_counted(database: Database) -> None:
    database.leave()
    dropped: list[int] = []
    async with writing(database.url, on_dropped=dropped.append) as history:
        for arrival in numbered(QUEUED_ROWS + 7):
            history.add_arrival(arrival)
        await asyncio.to_thread(database.come_back)
    assert sum(dropped) == 7
    async with writing(database.url) as history:
        kept = sorted(arrival.prompt_tokens for arrival in await arrivals(history))
    assert kept == list(range(7, QUEUED_ROWS + 7))


async def test_what_waits_is_counted_when_the_end_comes_before_the_database(database: Database) -> None:
    database.leave()
    dropped: list[int] = []
    async with asyncio.timeout(DEADLINE_S), writing(database.url, on_dropped=dropped.append) as history:
        for arrival in numbered(300):
            history.add_arrival(arrival)
    assert sum(dropped) == 300


async def test_what_fails_after_the_end_came_but_began_before_it_is_tried_once_more(
    sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows were given up because the try that was under way at the end had begun while the database was still away."""
    write, begun, may_fail = History._write, asyncio.Event(), asyncio.Event()

    async def fails_late(self: History, batch: list[object]) -> None:
        if not begun.is_set():
            begun.set()
            await may_fail.wait()
            raise HistoryAway("it was away when this began")
        await write(self, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(History, "_write", fails_late)
    async with asyncio.timeout(DEADLINE_S), writing(sqlite_database.url) as history:
        history.add_arrival(ARRIVAL)
        await begun.wait()
        asyncio.get_running_loop().call_later(0.1, may_fail.set)
    async with writing(sqlite_database.url) as history:
        assert await arrivals(history) == [ARRIVAL]


async def test_a_server_that_accepts_and_says_nothing_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_module, "CLOSE_S", 1.0)
    dropped: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"postgresql://someone@127.0.0.1:{listener.getsockname()[1]}/history"
        async with asyncio.timeout(DEADLINE_S), writing(url, on_dropped=dropped.append) as history:
            history.add_arrival(ARRIVAL)
            await history.check()
    assert dropped == [1]


async def test_a_row_that_the_database_rejects_does_not_take_the_others_with_it(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    dropped: list[int] = []
    async with writing(database.url, on_dropped=dropped.append) as history:
        history.add_start(replace(START, predicted={"ttft_s": object()}))
        history.add_start(replace(START, group="g2"))
        history.add_arrival(ARRIVAL)
    assert dropped == [1]
    assert "given up" in caplog.text
    async with writing(database.url) as history:
        assert [start.group for start in await history.starts(None, 10)] == ["g2"]
        assert await arrivals(history) == [ARRIVAL]


async def test_what_only_postgres_rejects_is_given_up_there(postgres_database: Database) -> None:
    """Text cannot hold a zero there: it must not come back for ever."""
    dropped: list[int] = []
    async with writing(postgres_database.url, on_dropped=dropped.append) as history:
        history.add_arrival(replace(ARRIVAL, model="a\0b"))
        history.add_arrival(ARRIVAL)
    assert dropped == [1]
    async with writing(postgres_database.url) as history:
        assert await arrivals(history) == [ARRIVAL]


async def test_a_writer_waits_for_another_that_has_the_file(sqlite_database: Database) -> None:
    async with writing(sqlite_database.url) as history:
        await asyncio.wait_for(history.prepared.wait(), DEADLINE_S)
        other = sqlite3.connect(sqlite_database.url.removeprefix("sqlite:///"), check_same_thread=False)
        await asyncio.to_thread(other.execute, "BEGIN IMMEDIATE")
        history.add_arrival(ARRIVAL)
        await asyncio.sleep(1.5)
        assert await arrivals(history) == []
        other.rollback()
        other.close()
    async with writing(sqlite_database.url) as history:
        assert await arrivals(history) == [ARRIVAL]


async def test_a_database_of_another_version_is_refused_with_what_to_do(database: Database) -> None:
    async with writing(database.url) as history:
        history.add_start(START)
    engine = history_engine(database.url)
    async with engine.begin() as connection:
        await connection.execute(update(SCHEMA).values(version=VERSION + 6))
    dropped: list[int] = []
    async with writing(database.url, on_dropped=dropped.append) as history:
        history.add_arrival(ARRIVAL)
        with pytest.raises(
            HistoryRefused, match=f"version {VERSION + 6}.*version {VERSION}: run the firsttoken"
        ) as refused:
            await history.check()
        assert "hush" not in str(refused.value)
        with pytest.raises(HistoryRefused):
            await history.starts(None, 1)
    assert dropped == [1]
    async with engine.begin() as connection:
        await connection.execute(update(SCHEMA).values(version=VERSION))
    await engine.dispose()
    async with writing(database.url) as history:
        assert (await history.starts(None, 10), await arrivals(history)) == ([START], [])


@pytest.mark.parametrize("version", [1, 2, 3])
async def test_a_database_of_an_older_version_is_given_what_it_lacks(database: Database, version: int) -> None:
    """It has its version on the way: the firsttoken that wrote it would not know what to make of it. What it holds stays."""
    async with writing(database.url) as history:
        history.add_start(START)
        history.add_arrival(ARRIVAL)
    engine = history_engine(database.url)
    async with engine.begin() as connection:
        await connection.execute(DropIndex(LOOSE))
        for column in ("in_minutes", *(("ttft_s", "last_s", "cold") if version < 3 else ())):
            await connection.exec_driver_sql(f"ALTER TABLE {ARRIVALS.name} DROP COLUMN {column}")
        await connection.execute(DropTable(MINUTES))
        if version == 1:
            await connection.execute(DropTable(MOVES))
        await connection.execute(update(SCHEMA).values(version=version))
    timed = replace(ARRIVAL, arrived_s=NOW_S + 1, ttft_s=0.25, last_s=1.5, cold=True)
    async with writing(database.url) as first, writing(database.url) as second:
        await asyncio.gather(first.check(), second.check())
        second.add_move(MOVE)
        second.add_arrival(timed)
    async with writing(database.url) as history:
        assert (await history.starts(None, 10), await history.moves(10)) == ([START], [MOVE])
        assert await arrivals(history) == [ARRIVAL, timed]
        ((minutes,),) = [rows async for rows in history.minutes(0.0, NOW_S * 2)]
        assert (minutes.arrived, minutes.cold, minutes.last_s) == (2, 1, timed.arrived_s)
    async with engine.begin() as connection:
        assert await connection.scalar(select(SCHEMA.c.version)) == VERSION
    await engine.dispose()


async def test_moves_are_found_again_the_latest_first_until_they_are_too_old(database: Database) -> None:
    old = MOVE | {"move": "old", "ordered_at": NOW_S - 3 * 86_400.0}
    later = MOVE | {"move": "later", "ordered_at": NOW_S + 1.0}
    async with writing(database.url) as history:
        for move in (MOVE, later, old):
            history.add_move(move)
    async with writing(database.url) as history:
        assert await history.moves(2) == [later, MOVE]
        assert await history.moves(10) == [later, MOVE, old]
    async with writing(database.url, keep_days=2.0) as history:
        await until(lambda: _moves_are(history, [later, MOVE]), "the old one to be removed")


async def _moves_are(history: History, moves: list[dict[str, object]]) -> bool:
    with contextlib.suppress(HistoryAway):
        return await history.moves(10) == moves
    return False


# ---- the file of SQLite


async def _written(history: History, arrival: Arrival) -> None:
    """Wait until an arrival that is added now can be read."""
    history.add_arrival(arrival)
    await until(lambda: _holds(history, arrival), "the arrival to be written")


async def _holds(history: History, arrival: Arrival) -> bool:
    with contextlib.suppress(HistoryAway):
        return arrival in await arrivals(history)
    return False


def _remove(file: Path) -> None:
    file.unlink()


def _remove_all(file: Path) -> None:
    for path in list(file.parent.iterdir()):
        path.unlink()


def _remove_log(file: Path) -> None:
    for sibling in ("-wal", "-shm"):
        Path(f"{file}{sibling}").unlink()


def _replace_by_nothing(file: Path) -> None:
    file.unlink()
    file.touch()


def _empty(file: Path) -> None:
    with open(file, "r+b") as opened:
        opened.truncate()


@pytest.mark.parametrize("lose", [_remove, _remove_all, _remove_log, _replace_by_nothing, _empty])
async def test_a_file_that_was_removed_or_replaced_is_made_again(
    tmp_path: Path, lose: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    """What came after went into a file that had no name any more, or failed for ever."""
    file = tmp_path / "history.db"
    async with writing(f"sqlite:///{file}") as history:
        await _written(history, ARRIVAL)
        lose(file)
        later = replace(ARRIVAL, model="later")
        await _written(history, later)
    assert "was removed or replaced" in caplog.text
    async with writing(f"sqlite:///{file}") as history:
        assert later in await arrivals(history)


@pytest.mark.parametrize("opened_before", [True, False])
async def test_a_damaged_file_is_set_aside_and_a_new_one_begun(
    tmp_path: Path, opened_before: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Rows waited for ever for a file that no further try could mend."""
    file = tmp_path / "history.db"
    numbers = itertools.count()

    async def written() -> bool:
        history.add_arrival(replace(ARRIVAL, model=f"later-{next(numbers)}"))
        with contextlib.suppress(HistoryAway):
            return any(arrival.model.startswith("later") for arrival in await arrivals(history))
        return False

    if not opened_before:
        _damage(file)
    async with writing(f"sqlite:///{file}") as history:
        if opened_before:
            await _written(history, ARRIVAL)
            _damage(file)
        await until(lambda: written(), "an arrival to be read")
        await until(lambda: "is damaged" in caplog.text, "the damage to be noticed")
    assert _set_aside(tmp_path).startswith(b"this is no database")


def _set_aside(folder: Path) -> bytes:
    (aside,) = folder.glob("*.damaged-*[0-9]")
    return aside.read_bytes()


def _damage(file: Path) -> None:
    """The file is overwritten in place, and what its log holds is gone."""
    with open(file, "r+b" if file.exists() else "wb") as opened:
        opened.write(b"this is no database" * 5000)
    log = Path(f"{file}-wal")
    if log.exists():
        log.write_bytes(b"")


async def test_a_file_that_can_be_read_is_never_set_aside(tmp_path: Path) -> None:
    async with writing(f"sqlite:///{tmp_path}/history.db") as history:
        await _written(history, ARRIVAL)
        assert HistoryFile(tmp_path / "history.db").set_aside() is None
        assert await arrivals(history) == [ARRIVAL]
