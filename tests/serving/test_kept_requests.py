"""What was asked, told line by line and minute by minute from a real database."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from schedules.traces.happened import Asked
from serving.door.handlers import add_handlers
from serving.history import history as module
from serving.history.history import History
from serving.history.kept_requests import KeptRequests
from serving.history.tables import Arrival

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


async def _minutes(history: History, since: float, until: float, *models: str) -> dict[str, Any]:
    async with _client(history) as client:
        query = {"since": since, "until": until, **({"model": list(models)} if models else {})}
        answer = await client.get("/admin/minutes", params=query)
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


async def test_what_came_is_told_minute_by_minute(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more models than are read at once; names are any text."""
    monkeypatch.setattr(module, "MODELS_AT_ONCE", 2)
    odd = 'od"d/ö:\\x'
    for name in ("other", odd, "third"):
        history.add_arrival(Arrival(name, 130.0, 10, 20, 5, "refused"))
    history.add_arrival(Arrival("tiny", 119.5, 10, 20, 5, "served", 0.25, 1.0, True))
    async with asyncio.timeout(20.0):
        while (await _minutes(history, 90.0, 500.0, "tiny"))["models"].get("tiny", {}).get("arrived") != 6:
            pass
    told = await _minutes(history, 90.0, 500.0)
    assert (told["begin"], told["until"]) == (60, 500.0)
    assert told["models"]["tiny"] == {
        "minutes": [[0, 6]], "last": 119.5, "arrived": 6, "refused": 0, "failed": 0, "cold": 1, "answered": 1,
        "ttft_s": 0.25, "ttft_most_s": 0.25,
    }  # fmt: skip
    assert all(told["models"][name]["minutes"] == [[1, 1]] for name in ("other", odd, "third"))
    assert told["models"][odd]["refused"] == 1
    assert told["models"][odd]["ttft_s"] is None
    some = await _minutes(history, 60.0, 120.0, "nobody", "tiny", "another nobody")
    assert list(some["models"]) == ["tiny"]
    assert await _minutes(history, 900.0, 900.0) == {"begin": 900, "until": 900.0, "models": {}}


async def test_without_a_history_and_without_its_database_nothing_is_told(tmp_path: Path) -> None:
    away = History("postgresql://someone@127.0.0.1:1/history", keep_days=1.0)
    for history in (None, away):
        async with _client(history) as client:
            for path in ("/admin/requests", "/admin/minutes"):
                assert (await client.get(path, params={"since": 0, "until": 1})).status_code == 503
                assert (await client.get(path, params={"since": -1, "until": 1})).status_code == 400
            assert (await client.get("/admin/minutes", params={"since": 2, "until": 1})).status_code == 400
    await away.close()
