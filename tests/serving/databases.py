"""Databases for a history, over SQLite and a real PostgreSQL, and histories at work."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from serving.history.history import History
from tests.postgres_server import PostgresServer, run_postgres_server

DEADLINE_S = 60.0
_NUMBERS = itertools.count()


@dataclass(frozen=True)
class Database:
    """An empty database, and how it goes away and comes back with what was committed to it."""

    url: str
    leave: Callable[[], None]
    come_back: Callable[[], None]


@pytest.fixture(scope="module")
def postgres_server() -> Iterator[PostgresServer]:
    with run_postgres_server() as server:
        yield server


@pytest.fixture
def sqlite_database(tmp_path: Path) -> Database:
    folder, hidden = tmp_path / "here", tmp_path / "away"
    folder.mkdir()

    def leave() -> None:
        folder.rename(hidden)

    def come_back() -> None:
        hidden.rename(folder)

    return Database(f"sqlite:///{folder}/history.db", leave, come_back)


@pytest.fixture
def postgres_database(postgres_server: PostgresServer) -> Iterator[Database]:
    name = f"test_{next(_NUMBERS)}"
    postgres_server.execute(f"CREATE DATABASE {name}")
    yield Database(postgres_server.url(name), postgres_server.crash, postgres_server.start)
    if postgres_server.process is None:
        postgres_server.start()


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> Database:
    found: Database = request.getfixturevalue(f"{request.param}_database")
    return found


@asynccontextmanager
async def writing(url: str, keep_days: float = 90.0, **options: object) -> AsyncIterator[History]:
    """A history at work, closed at the end."""
    history = History(url, keep_days, **options)  # type: ignore[arg-type]
    history.start()
    try:
        yield history
    finally:
        await history.close()


async def until(condition: Callable[[], object], what: str) -> None:
    """Wait for something to be so; a coroutine is awaited."""
    for _ in range(int(DEADLINE_S * 20)):
        found = condition()
        if await found if asyncio.iscoroutine(found) else found:
            return
        await asyncio.sleep(0.05)
    raise TimeoutError(what)
