"""The history's tables in SQLite and PostgreSQL: how they are made, told apart by version, and read as values."""

import asyncio
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import aiosqlite
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Insert,
    Integer,
    MetaData,
    Row,
    SmallInteger,
    Table,
    Text,
    Uuid,
    cast,
    event,
    func,
    inspect,
    make_url,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.schema import CreateColumn, CreateIndex, CreateTable

from cluster.wire.phases import Phase
from serving.cold_start import ColdStart
from serving.errors import HistoryRefused

VERSION = 4
CONNECT_S, STATEMENT_S = 5.0, 10.0
_PREPARE_LOCK = 0x66697273  # any number that all front ends share

_METADATA = MetaData()
SCHEMA = Table(
    "firsttoken_schema", _METADATA, Column("only", SmallInteger, primary_key=True), Column("version", Integer)
)
COLD_STARTS = Table(
    "firsttoken_cold_starts",
    _METADATA,
    Column("id", Uuid, primary_key=True),
    Column("model", Text, nullable=False),
    Column("group_name", Text, nullable=False),
    Column("arrived_s", Double, nullable=False),
    Column("ttft_s", Double, nullable=False),
    Column("degree", Integer, nullable=False),
    Column("nodes", JSON, nullable=False),
    Column("phases", JSON, nullable=False),
    Column("predicted", JSON(none_as_null=True)),
    Index("firsttoken_cold_starts_by_model", "model", "arrived_s"),
    Index("firsttoken_cold_starts_by_time", "arrived_s"),
)
ARRIVALS = Table(
    "firsttoken_arrivals",
    _METADATA,
    Column("id", Uuid, primary_key=True),
    Column("model", Text, nullable=False),
    Column("arrived_s", Double, nullable=False),
    Column("prompt_tokens", Integer, nullable=False),
    Column("max_tokens", Integer, nullable=False),
    Column("generated_tokens", Integer, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("ttft_s", Double),
    Column("last_s", Double),
    Column("cold", Boolean),
    Column("in_minutes", Boolean),
    Index("firsttoken_arrivals_by_model", "model", "arrived_s"),
    Index("firsttoken_arrivals_by_time", "arrived_s", "id"),
)
IS_LOOSE = ARRIVALS.c.in_minutes.is_(None)
"""Of an arrival that MINUTES does not have yet. A front end of an older version goes on to write such ones."""
LOOSE = Index("firsttoken_arrivals_loose", ARRIVALS.c.model, sqlite_where=IS_LOOSE, postgresql_where=IS_LOOSE)
MINUTES = Table(
    "firsttoken_minutes",
    _METADATA,
    Column("model", Text, primary_key=True),
    Column("minute_s", BigInteger, primary_key=True),
    Column("arrived", Integer, nullable=False),
    Column("refused", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("cold", Integer, nullable=False),
    Column("answered", Integer, nullable=False),
    Column("ttft_sum_s", Double, nullable=False),
    Column("ttft_most_s", Double, nullable=False),
    Column("last_s", Double, nullable=False),
    Index("firsttoken_minutes_by_time", "minute_s"),
)
"""What arrived for a model in the minute that begins at `minute_s` (unix seconds): how many, and of these the refused, the
failed, those that waited for a start, and those that had a first token, with its times; and the latest arrival."""
MOVES = Table(
    "firsttoken_moves",
    _METADATA,
    Column("id", Uuid, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("ordered_s", Double, nullable=False),
    Column("told", JSON, nullable=False),
    Index("firsttoken_moves_by_time", "ordered_s"),
)
WRITTEN = (COLD_STARTS, ARRIVALS, MOVES)
"""The tables that rows are added to as things happen."""
_TIMES = (ARRIVALS.c.ttft_s, ARRIVALS.c.last_s, ARRIVALS.c.cold)
_UPGRADES: dict[int, tuple[Column[Any], ...]] = {
    1: (*_TIMES, ARRIVALS.c.in_minutes),
    2: (*_TIMES, ARRIVALS.c.in_minutes),
    3: (ARRIVALS.c.in_minutes,),
}
"""The columns that tables of an older version lack; beside them it lacks only whole tables, and indexes."""


@dataclass(frozen=True)
class Arrival:
    """One request, of all its prompts and choices together; `arrived_s` in unix seconds, tokens generated so far.

    `outcome` is served, failed, cancelled, or refused for one that was turned away at the door. `ttft_s` and `last_s` are
    from its arrival to its first and its latest token, `cold` if that first one waited for a replica to start: None if there
    was none, or if an older version wrote it.
    """

    model: str
    arrived_s: float
    prompt_tokens: int
    max_tokens: int
    generated_tokens: int
    outcome: str
    ttft_s: float | None = None
    last_s: float | None = None
    cold: bool | None = None


_OF_ARRIVAL = frozenset(field.name for field in fields(Arrival))


def history_engine(url: str) -> AsyncEngine:
    """Connections to ``sqlite:///path`` (WAL, waits for another writer) or ``postgresql://user:password@host/database``."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        path = str(parsed.database)
        parsed = parsed.set(drivername="sqlite+aiosqlite")
        engine = create_async_engine(parsed, pool_size=2, max_overflow=2, async_creator=lambda: _open_sqlite(path))
        event.listen(engine.sync_engine, "connect", _use_wal)
        return engine
    query = {"ssl" if key == "sslmode" else key: value for key, value in parsed.query.items()}  # asyncpg's name for it
    return create_async_engine(
        parsed.set(drivername="postgresql+asyncpg", query=query),
        pool_size=2,
        max_overflow=2,
        pool_pre_ping=True,
        connect_args={"timeout": CONNECT_S, "command_timeout": STATEMENT_S},
    )


async def _open_sqlite(path: str) -> aiosqlite.Connection:
    """A connection; where there can be none, its thread has ended too, which otherwise speaks to a loop that may be gone."""
    connection = aiosqlite.connect(path, timeout=CONNECT_S)
    connection._thread.daemon = True
    try:
        return await connection
    except BaseException:
        await asyncio.shield(asyncio.to_thread(connection._thread.join))
        raise


def _use_wal(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()


async def prepare(connection: AsyncConnection) -> None:
    """Make the tables where there are none, and what an older version lacks. HistoryRefused if they are a newer version's.
    Safe among many at once."""
    if connection.dialect.name == "postgresql":
        await connection.execute(select(func.pg_advisory_xact_lock(_PREPARE_LOCK)))
    version = await _version(connection)
    if version is None:
        await _make(connection)
        await connection.execute(insert_new(connection, SCHEMA), {"only": 1, "version": VERSION})
        version = await _version(connection)
    elif version in _UPGRADES:
        version = await _upgrade(connection)
    if version != VERSION:
        shown = connection.engine.url.render_as_string(hide_password=True)
        raise HistoryRefused(
            f"the history at {shown} has schema version {version}, this firsttoken reads and writes version {VERSION}: "
            "run the firsttoken that wrote it, or let history.url name another database (a new one is made)"
        )


async def _make(connection: AsyncConnection) -> None:
    """Whatever is not there yet."""
    for table in _METADATA.sorted_tables:
        await connection.execute(CreateTable(table, if_not_exists=True))
        for index in sorted(table.indexes, key=lambda index: str(index.name)):
            await connection.execute(CreateIndex(index, if_not_exists=True))


async def _upgrade(connection: AsyncConnection) -> int | None:
    """The version after it, by whomever: of many at once the first does it, and nobody has begun to write meanwhile."""
    if connection.dialect.name == "sqlite":
        await connection.exec_driver_sql("BEGIN IMMEDIATE")
    version = await _version(connection)
    if version not in _UPGRADES:
        return version
    for column in _UPGRADES[version]:
        told = CreateColumn(column).compile(dialect=connection.dialect)
        await connection.exec_driver_sql(f"ALTER TABLE {column.table.name} ADD COLUMN {told}")
    await _make(connection)
    await connection.execute(update(SCHEMA).values(version=VERSION))
    return VERSION


async def _version(connection: AsyncConnection) -> int | None:
    """The version of the tables that are there, None before the last of them is made."""
    if not await connection.run_sync(lambda sync: inspect(sync).has_table(SCHEMA.name)):
        return None
    version: int | None = await connection.scalar(select(SCHEMA.c.version))
    return version


def whole(number: Any, dialect: str) -> Any:
    """A column's number, not below 0, without what is behind the point: SQLite's cast cuts off, PostgreSQL's rounds."""
    return cast(number if dialect == "sqlite" else func.floor(number), Integer)


def insert_new(connection: AsyncConnection, table: Table) -> Insert:
    """An insert that passes over rows whose primary key is there: a batch may be written again after any failure."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    return dialect.insert(table).on_conflict_do_nothing()


def row_of_start(start: ColdStart) -> dict[str, Any]:
    """A row of COLD_STARTS with an id of its own."""
    return {
        "id": uuid.uuid4(),
        "model": start.model,
        "group_name": start.group,
        "arrived_s": start.arrived_s,
        "ttft_s": start.ttft_s,
        "degree": len(start.nodes),
        "nodes": list(start.nodes),
        "phases": [asdict(phase) for phase in start.phases],
        "predicted": None if start.predicted is None else dict(start.predicted),
    }


def start_of_row(row: Row[Any]) -> ColdStart:
    """What row_of_start was given."""
    columns = row._mapping
    return ColdStart(
        model=columns["model"],
        group=columns["group_name"],
        nodes=tuple(columns["nodes"]),
        arrived_s=columns["arrived_s"],
        ttft_s=columns["ttft_s"],
        phases=tuple(Phase(**phase) for phase in columns["phases"]),
        predicted=columns["predicted"],
    )


def row_of_arrival(arrival: Arrival) -> dict[str, Any]:
    """A row of ARRIVALS with an id of its own."""
    return {"id": uuid.uuid4(), **vars(arrival)}


def arrival_of_row(row: Row[Any]) -> Arrival:
    """What row_of_arrival was given."""
    return Arrival(**{key: value for key, value in row._mapping.items() if key in _OF_ARRIVAL})


def row_of_move(told: Mapping[str, Any]) -> dict[str, Any]:
    """A row of MOVES with an id of its own, from the move's JSON."""
    return {"id": uuid.uuid4(), "kind": told["kind"], "ordered_s": told["ordered_at"], "told": dict(told)}


def move_of_row(row: Row[Any]) -> Mapping[str, Any]:
    """What row_of_move was given."""
    told: Mapping[str, Any] = row._mapping["told"]
    return told
