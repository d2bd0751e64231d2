"""The history of cold starts, arrivals and moves in SQL: written behind, so that no request ever waits for a database."""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
from sqlalchemy import ColumnElement, Select, Table, and_, delete, func, or_, select, tuple_
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError, StatementError
from sqlalchemy.ext.asyncio import AsyncConnection

from serving.cold_start import ColdStart
from serving.errors import HistoryAway, HistoryError, HistoryRejected
from serving.history.file import HistoryFile, is_damage
from serving.history.minutes import Minutes, count_loose, known_models, minutes_between, minutes_of_row
from serving.history.tables import (
    ARRIVALS,
    COLD_STARTS,
    CONNECT_S,
    MINUTES,
    MOVES,
    STATEMENT_S,
    WRITTEN,
    Arrival,
    arrival_of_row,
    history_engine,
    insert_new,
    move_of_row,
    prepare,
    row_of_arrival,
    row_of_move,
    row_of_start,
    start_of_row,
    whole,
)
from serving.waiting import happens

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
QUEUED_ROWS, BATCH_ROWS, READ_ROWS, DELETED_ROWS = 10_000, 256, 2_000, 5_000
COUNTED_ROWS, MODELS_AT_ONCE = 500, 32
FLUSH_S, CLOSE_S, LET_GO_S, CHECK_S = 1.0, 5.0, 1.0, 2.0
FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 10.0
PRUNE_EVERY_S, COUNT_EVERY_S = 3600.0, 60.0
DAY_S = 86_400.0
_FAILURES = (SQLAlchemyError, OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)


def _ignore(_rows: int) -> None:
    """Nobody counts."""


class History:
    """See the module. Several front ends may share a database. Use from one event loop, and close it at the end.

    `url` is for tables.history_engine. What is older than `keep_days` is removed, what arrived by minute when it is older
    than `keep_minutes_days`, if that is said. `on_dropped` hears of the rows that were given up: the oldest when more than
    QUEUED_ROWS wait, those the database rejects, what is left at the end. Readers raise HistoryAway if the database does
    not answer, HistoryRefused if its tables are another version's.
    """

    def __init__(
        self,
        url: str,
        keep_days: float,
        on_dropped: Callable[[int], object] = _ignore,
        *,
        keep_minutes_days: float | None = None,
    ) -> None:
        self._engine = history_engine(url)
        self._file = (
            HistoryFile(Path(str(self._engine.url.database))) if self._engine.dialect.name == "sqlite" else None
        )
        self._shown = self._engine.url.render_as_string(hide_password=True)
        self._keep_s = keep_days * DAY_S
        self._keep_minutes_s = math.inf if keep_minutes_days is None else keep_minutes_days * DAY_S
        self._on_dropped = on_dropped
        self._queue: deque[tuple[Table, dict[str, Any]]] = deque()
        self._queued, self._enough, self._closing = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.prepared = asyncio.Event()
        self._looked, self._away, self._failed, self._damaged = False, False, False, False
        self._at_work = 0
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="history")
        self._prune_at_s = self._count_at_s = 0.0
        self._writer: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to write; until then rows wait. `prepared` is set once the database has been there."""
        self._writer = asyncio.get_running_loop().create_task(self._write_behind())

    async def close(self) -> None:
        """Write what waits, in at most CLOSE_S, and disconnect."""
        self._closing.set()
        self._signal()
        if self._writer is not None:
            await asyncio.wait({self._writer}, timeout=CLOSE_S)
            self._writer.cancel()
            await asyncio.wait({self._writer}, timeout=LET_GO_S)
        if self._queue:
            _log.warning("%d rows of history were not written", len(self._queue))
            self._drop(len(self._queue))
        with suppress(*_FAILURES):
            async with asyncio.timeout(LET_GO_S):
                await self._engine.dispose()
        self._disk.shutdown(wait=False, cancel_futures=True)

    # ---- writing

    def add_start(self, start: ColdStart) -> None:
        """Keep a cold start. Returns at once."""
        self._add(COLD_STARTS, row_of_start(start))

    def add_arrival(self, arrival: Arrival) -> None:
        """Keep an arrival. Returns at once."""
        self._add(ARRIVALS, row_of_arrival(arrival))

    def add_move(self, told: Mapping[str, Any]) -> None:
        """Keep a move that is over, as JSON. Returns at once."""
        self._add(MOVES, row_of_move(told))

    def _add(self, table: Table, row: dict[str, Any]) -> None:
        if len(self._queue) >= QUEUED_ROWS:
            self._drop(1)
        self._queue.append((table, row))
        self._signal()

    def _drop(self, oldest: int) -> None:
        for _ in range(oldest):
            self._queue.popleft()
        if oldest:
            self._on_dropped(oldest)

    def _signal(self) -> None:
        for happened, rows in ((self._queued, 1), (self._enough, BATCH_ROWS)):
            if len(self._queue) >= rows or self._closing.is_set():
                happened.set()
            else:
                happened.clear()

    async def _write_behind(self) -> None:
        """Look after the database until closed; a failure is logged when it begins, and then retried. What fails and began
        after the end had come is the last try: the database may have been back by then."""
        wait_s = FIRST_WAIT_S
        while not (self._closing.is_set() and not self._queue):
            last = self._closing.is_set()
            try:
                await self._work()
                wait_s = FIRST_WAIT_S
                self._note_back()
                continue
            except HistoryError as error:
                self._note_away(error)
            except Exception:  # the history is worth nothing without this loop
                _log.exception("writing the history failed; trying again")
            if last:
                return
            await happens(self._closing, wait_s)
            wait_s = min(wait_s * 2, LONGEST_WAIT_S)

    async def _work(self) -> None:
        """Wait for enough rows, or for a second since the first, and write them; count arrivals by minute and remove what
        is old when it is time, nothing before it is counted."""
        now_s, closing = time.monotonic(), self._closing.is_set()
        if now_s >= self._count_at_s and not closing:
            if self._queue:  # counting may take many turns
                await self._write_batch()
            async with self._transaction() as connection:
                counted = await count_loose(connection, COUNTED_ROWS)
            if counted < COUNTED_ROWS:
                self._count_at_s = time.monotonic() + COUNT_EVERY_S
        elif now_s >= self._prune_at_s and not closing:
            await self._prune(time.time())
            self._prune_at_s = time.monotonic() + PRUNE_EVERY_S
        elif await happens(self._queued, min(self._prune_at_s, self._count_at_s) - now_s):
            await happens(self._enough, FLUSH_S)
            if self._queue:
                await self._write_batch()

    async def _write_batch(self) -> None:
        batch = [self._queue.popleft() for _ in range(min(BATCH_ROWS, len(self._queue)))]
        self._signal()
        try:
            await self._write(batch)
        except HistoryRejected:
            while batch:  # one bad row must not take the others with it
                await self._write_or_reject(batch.pop())
        finally:
            self._put_back(batch)

    async def _write(self, batch: list[tuple[Table, dict[str, Any]]]) -> None:
        """Write the rows and empty the list, or raise and leave it."""
        async with self._transaction() as connection:
            for table in WRITTEN:
                rows = [row for its_table, row in batch if its_table is table]
                if rows:
                    await connection.execute(insert_new(connection, table), rows)
        batch.clear()

    async def _write_or_reject(self, row: tuple[Table, dict[str, Any]]) -> None:
        alone = [row]
        try:
            await self._write(alone)
        except HistoryRejected as error:
            _log.error("a row of history is given up: %s", error)
            self._on_dropped(1)
        except BaseException:
            self._put_back(alone)
            raise

    def _put_back(self, rows: list[tuple[Table, dict[str, Any]]]) -> None:
        """Before what came in the meantime, the newest as far as there is room."""
        too_many = max(0, len(self._queue) + len(rows) - QUEUED_ROWS)
        self._queue.extendleft(reversed(rows))
        self._drop(too_many)
        self._signal()

    async def _prune(self, now_s: float) -> None:
        before_s, minutes_before_s = now_s - self._keep_s, now_s - self._keep_minutes_s
        await self._remove(COLD_STARTS, COLD_STARTS.c.arrived_s < before_s)
        await self._remove(ARRIVALS, and_(ARRIVALS.c.arrived_s < before_s, ARRIVALS.c.in_minutes))
        await self._remove(MOVES, MOVES.c.ordered_s < before_s)
        await self._remove(MINUTES, MINUTES.c.minute_s < minutes_before_s)

    async def _remove(self, table: Table, old: ColumnElement[bool]) -> None:
        key = table.primary_key.columns.values()
        some, removed = select(*key).where(old).limit(DELETED_ROWS), DELETED_ROWS
        while removed == DELETED_ROWS:
            async with self._transaction() as connection:
                removed = (await connection.execute(delete(table).where(tuple_(*key).in_(some)))).rowcount

    def _note_away(self, error: HistoryError) -> None:
        if not self._away:
            _log.warning("%s; requests go on, up to %d rows wait for it", error, QUEUED_ROWS)
        self._away = True

    def _note_back(self) -> None:
        if self._away:
            _log.warning("the history at %s is written again", self._shown)
        self._away = False

    # ---- reading

    async def starts(self, model: str | None, limit: int) -> Sequence[ColdStart]:
        """Up to `limit` cold starts, of one model or of all, the latest arrivals first."""
        query = select(COLD_STARTS).order_by(COLD_STARTS.c.arrived_s.desc()).limit(limit)
        return [start_of_row(row) for row in await self._rows(_of_model(query, COLD_STARTS, model))]

    async def moves(self, limit: int) -> Sequence[Mapping[str, Any]]:
        """Up to `limit` moves as JSON, the latest first."""
        return [
            move_of_row(row) for row in await self._rows(select(MOVES).order_by(MOVES.c.ordered_s.desc()).limit(limit))
        ]

    async def arrivals(self, since_s: float, until_s: float) -> AsyncGenerator[Sequence[Arrival]]:
        """Arrivals from `since_s` to before `until_s` (unix seconds), oldest first, up to READ_ROWS at a time."""
        async for rows in self._between(ARRIVALS, since_s, until_s):
            yield [arrival_of_row(row) for row in rows]

    async def starts_between(self, since_s: float, until_s: float) -> AsyncGenerator[Sequence[ColdStart]]:
        """Cold starts whose request came in that time, in the same manner."""
        async for rows in self._between(COLD_STARTS, since_s, until_s):
            yield [start_of_row(row) for row in rows]

    async def _between(self, table: Table, since_s: float, until_s: float) -> AsyncGenerator[Sequence[Any]]:
        at, key = table.c.arrived_s, table.c.id
        query = select(table).where(at < until_s).order_by(at, key).limit(READ_ROWS)
        after = at >= since_s
        while rows := await self._rows(query.where(after)):
            yield rows
            after = and_(at >= rows[-1].arrived_s, or_(at > rows[-1].arrived_s, key > rows[-1].id))

    async def counts(self, model: str | None, since_s: float, until_s: float, bucket_s: float) -> Sequence[int]:
        """How many arrived in each `bucket_s` seconds from `since_s` to before `until_s`, of one model or of all."""
        at = ARRIVALS.c.arrived_s
        bucket = whole((at - since_s) / bucket_s, self._engine.dialect.name).label("bucket")
        query = select(bucket, func.count()).where(at >= since_s, at < until_s).group_by(bucket)
        counted = [0] * max(0, -int(-(until_s - since_s) // bucket_s))
        for index, arrived in await self._rows(_of_model(query, ARRIVALS, model)):
            counted[min(index, len(counted) - 1)] += arrived
        return counted

    async def minutes(
        self, since_s: float, until_s: float, models: Sequence[str] = ()
    ) -> AsyncGenerator[Sequence[Minutes]]:
        """What arrived minute by minute from that of `since_s` to `until_s` (unix seconds), up to MODELS_AT_ONCE models at
        a time, by name: of `models`, or of all. Who had nothing is not there. No arrival that was written is missing."""
        names = sorted(set(models)) or [name for (name,) in await self._rows(known_models())]
        for first in range(0, len(names), MODELS_AT_ONCE):
            some = names[first : first + MODELS_AT_ONCE]
            query = minutes_between(some, since_s, until_s, self._engine.dialect.name)
            yield [minutes_of_row(row, until_s) for row in await self._rows(query)]

    async def _rows(self, query: Select[Any]) -> Sequence[Any]:
        async with self._transaction() as connection:
            return (await connection.execute(query)).all()

    # ---- the database

    async def check(self) -> None:
        """HistoryRefused if the tables are another version's. That the database is away is no reason not to serve."""
        with suppress(HistoryAway):
            async with self._transaction(CHECK_S):
                pass

    async def _prepare(self) -> None:
        async with self._engine.begin() as connection:
            await prepare(connection)
        if self._file is not None:
            await self._with_file(self._file.note)
        self._looked = True
        self.prepared.set()

    async def _follow(self, file: HistoryFile) -> None:
        """Let go of a file that failed, was removed or replaced, and set a damaged one aside, so that another is made.
        HistoryAway while somebody is at work with it."""
        replaced = await self._with_file(file.replaced)
        if not replaced and not self._failed:
            return
        if self._at_work:
            raise HistoryAway(
                f"the history at {self._shown} is to be opened anew, and somebody is still at work with it"
            )
        damaged, self._looked, self._failed, self._damaged = self._damaged, False, False, False
        await self._engine.dispose()  # what a connection knows of a broken file outlives the file
        await self._with_file(file.forget)
        if damaged and (aside := await self._with_file(file.set_aside)) is not None:
            _log.error("the history at %s is damaged: it is %s now, and a new one is made", self._shown, aside)
        elif replaced:
            _log.warning("the history at %s was removed or replaced: it is opened anew", self._shown)

    async def _with_file(self, work: Callable[[], _T]) -> _T:
        """In a thread of its own: a disk that hangs holds up nobody else's."""
        return await asyncio.get_running_loop().run_in_executor(self._disk, work)

    @asynccontextmanager
    async def _transaction(self, timeout_s: float = CONNECT_S + STATEMENT_S) -> AsyncIterator[AsyncConnection]:
        """A transaction over tables that are there; every failure of the database becomes a HistoryError."""
        try:
            async with asyncio.timeout(timeout_s):
                if self._file is not None:
                    await self._follow(self._file)
                self._at_work += 1
                try:
                    if not self._looked:
                        await self._prepare()
                    async with self._engine.begin() as connection:
                        yield connection
                finally:
                    self._at_work -= 1
        except _FAILURES as error:
            self._looked = False  # it may be another database that comes back
            kind = HistoryRejected if _is_rejection(error) else HistoryAway
            self._failed, self._damaged = kind is HistoryAway, is_damage(getattr(error, "orig", None))
            reason = getattr(error, "orig", None) or error
            raise kind(f"the history at {self._shown} failed: {str(reason) or type(reason).__name__}") from error


def _of_model(query: Select[Any], table: Table, model: str | None) -> Select[Any]:
    return query if model is None else query.where(table.c.model == model)


def _is_rejection(error: BaseException) -> bool:
    """Whether the database, or the way to it, will never take these values."""
    if not isinstance(error, DBAPIError):
        return isinstance(error, StatementError)
    sql_state = getattr(error.orig, "sqlstate", None) or ""
    return isinstance(error, DataError | IntegrityError) or sql_state[:2] in ("22", "23")
