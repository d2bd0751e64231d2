"""What the log says of requests that are refused."""

import logging

import httpx
import pytest
from fastapi import FastAPI

from serving.door import refused
from serving.door.handlers import add_handlers
from serving.door.refused import MOST_LINES, WITHIN_S, Sparing, note_refused
from serving.errors import BadRequest, Unavailable


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """The log, in which nothing was written of late."""
    monkeypatch.setattr(refused._log, "filters", [Sparing()])
    caplog.set_level(logging.INFO, refused._log.name)
    return caplog


async def test_a_refusal_is_found_in_the_log_by_its_id(log: pytest.LogCaptureFixture) -> None:
    """An operator who was told of a 400 found nothing of it."""
    app = FastAPI()
    add_handlers(app)

    @app.get("/refuses")
    async def refuses() -> None:
        raise BadRequest("no\nmodel 'ü' \ud800", "model")

    @app.get("/fails")
    async def fails() -> None:
        raise Unavailable("no room")

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://front-end") as client:
        answers = [await client.get(path) for path in ("/refuses", "/fails")]
    assert answers[0].json()["error"]["message"] == "no\nmodel 'ü' ?"
    names = [answer.headers["X-Request-ID"] for answer in answers]
    assert [record.getMessage() for record in log.records] == [
        f"{names[0]} was refused: GET /refuses, 400 model: no\\nmodel '\\xfc' \\ud800",
        f"{names[1]} was refused: GET /fails, 503: no room",
    ]
    assert [record.levelno for record in log.records] == [logging.INFO, logging.WARNING]


def test_words_of_clients_are_cut(log: pytest.LogCaptureFixture) -> None:
    note_refused("req-1", "x" * 9_999, BadRequest("y" * 9_999, "z" * 9_999))
    assert len(log.records[0].getMessage()) < 1_000


def test_a_flood_is_counted_and_not_written(log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 0.0
    monkeypatch.setattr(refused._log, "filters", [Sparing(lambda: now_s)])
    for _ in range(MOST_LINES + 7):
        note_refused("req-1", "GET /", BadRequest("no"))
    assert len(log.records) == MOST_LINES
    now_s = WITHIN_S
    note_refused("req-2", "GET /", BadRequest("no"))
    note_refused("req-3", "GET /", BadRequest("no"))
    said = [record.getMessage() for record in log.records[MOST_LINES:]]
    assert said == [
        "req-2 was refused: GET /, 400: no (7 more before were not logged)",
        "req-3 was refused: GET /, 400: no",
    ]
