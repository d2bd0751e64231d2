"""What was asked, told line by line from a real database."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from schedules.traces.happened import Asked
from serving import history as module
from serving.door.handlers import add_handlers
from serving.history import History
from serving.history_tables import Arrival
from serving.kept_requests import KeptRequests

ARRIVALS = [Arrival("tiny", 100.0 + number, 10, 20, 5, "served") for number in range(5)]


def _client(history: History | None) -> httpx.AsyncClient:
    app = FastAPI()
    app.include_router(KeptRequests(history).routes)
    add_handlers(app)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://front-end")


@pytest.fixture
async def history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[History]:
    """That reads two rows at a time."""
    monkeypatch.setattr(module, "READ_ROWS", 2)
    history = History(f"sqlite:///{tmp_path}/history.db", keep_days=1e6)
    history.start()
    for arrival in ARRIVALS:
        history.add_arrival(arrival)
    yield history
    await history.close()


async def _lines(history: History, since: float, until: float) -> list[object]:
    async with _client(history) as client:
        answer = await client.get("/admin/requests", params={"since": since, "until": until})
    assert answer.status_code == 200
    return [json.loads(line) for line in answer.text.splitlines()]


async def test_requests_are_told_by_time_and_counted_at_the_end(history: History) -> None:
    while len(told := await _lines(history, 0, 1e11)) < 6:
        pass
    asked = [Asked("tiny", 100.0 + number, 10, 20, 5)._asdict() for number in range(5)]
    assert told == [*asked, {"requests": 5}]
    assert await _lines(history, 101.0, 103.0) == [*asked[1:3], {"requests": 2}]
    assert await _lines(history, 0, 1) == [{"requests": 0}]


async def test_without_a_history_and_without_its_database_nothing_is_told(tmp_path: Path) -> None:
    away = History("postgresql://someone@127.0.0.1:1/history", keep_days=1.0)
    for history in (None, away):
        async with _client(history) as client:
            assert (await client.get("/admin/requests", params={"since": 0, "until": 1})).status_code == 503
            assert (await client.get("/admin/requests", params={"since": -1, "until": 1})).status_code == 400
    await away.close()
