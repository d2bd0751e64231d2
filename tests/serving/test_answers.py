"""How answers end when something breaks, before their first token and after."""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.errors import ClusterError
from cluster.wire.requests import Submit, Tokens
from serving.answering.answerer import Answerer
from serving.answering.ask import Ask
from serving.answering.deltas import Given
from serving.errors import Interrupted, ModelFailed, RequestError, TimedOut, Unavailable
from serving.metrics import Metrics
from serving.text import AnswerText
from tests.cluster.groups import GREEDY
from tests.serving.tokenizers import LocalText, byte_files

FOREVER_S = 3600.0


class _Ticket:
    """Gives `tokens`, whatever was asked for; then the error, or nothing for ever without one."""

    name = "r.0"

    def __init__(self, tokens: int, error: Exception | None, cold: bool = False) -> None:
        self._tokens, self._error, self.cold = tokens, error, cold

    async def tokens(self) -> AsyncGenerator[Tokens]:
        for token in range(self._tokens):
            yield Tokens("r.0", (token,))
        if self._error is None:
            await asyncio.sleep(FOREVER_S)
        else:
            raise self._error


def _events(tokens: int, error: Exception | None, timeout_s: float = FOREVER_S) -> list[dict[str, object]]:
    """A stream's events, but for comments; a stream that is whole ends with an empty one."""

    async def collect() -> list[dict[str, object]]:
        model = SimpleNamespace(name="m", text=None)
        submit = Submit("r.0", (1,), 1, 9, (), GREEDY)
        arrived_s = asyncio.get_running_loop().time()
        asked = Ask("cmpl-1", "text_completion", model, (submit,), 1, (), arrived_s, True, False)  # type: ignore[arg-type]
        answerer = Answerer(Metrics(), timeout_s, lambda *_: None)
        events = answerer.events(asked, [_Ticket(tokens, error)])  # type: ignore[list-item]
        return [json.loads(event[6:]) async for event in events if event.startswith(b"data: {")]

    return asyncio.run(collect())


def _given(*tickets: _Ticket) -> tuple[str, Given]:
    """How a request of so many choices that came ten seconds ago ended, and what it was given."""

    async def read() -> list[tuple[str, Given]]:
        found: list[tuple[str, Given]] = []
        model = SimpleNamespace(name="m", text=None)
        submits = tuple(Submit(f"r.{i}", (1,), 1, 9, (), GREEDY) for i in range(len(tickets)))
        arrived_s = asyncio.get_running_loop().time() - 10.0
        asked = Ask("cmpl-1", "text_completion", model, submits, len(tickets), (), arrived_s, True, False)  # type: ignore[arg-type]
        answerer = Answerer(Metrics(), FOREVER_S, lambda _asked, outcome, given: found.append((outcome, given)))
        with contextlib.suppress(RequestError):
            await answerer.whole(asked, tickets)  # type: ignore[arg-type]
        return found

    (told,) = asyncio.run(read())
    return told


def test_who_is_given_tokens_was_given_them_since_it_came() -> None:
    outcome, given = _given(_Ticket(2, None, cold=True), _Ticket(3, ClusterError("it broke")))
    assert (outcome, given.tokens, given.cold) == ("failed", 5, True)
    assert given.ttft_s is not None
    assert given.last_s is not None
    assert 10.0 <= given.ttft_s <= given.last_s < 20.0


def test_who_is_given_nothing_has_no_times() -> None:
    assert _given(_Ticket(0, ClusterError("it broke"))) == ("failed", Given())


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Unavailable("no room"), "model_unavailable"),
        (ClusterError("a message that nobody knows"), "internal_error"),
        (RuntimeError("a fault of ours"), "internal_error"),
    ],
)
def test_a_stream_ends_with_an_event_that_says_whether_it_had_begun(error: Exception, code: str) -> None:
    """A client that had tokens was told that the model is not available, as if to come again later; and after an error that
    nobody expected the stream just broke."""
    (only,) = _events(0, error)
    assert only["error"]["code"] == code  # type: ignore[index]
    *given, last = _events(3, error)
    assert [event["choices"][0]["token_ids"] for event in given] == [[0], [1], [2]]  # type: ignore[index]
    assert last["error"]["code"] == "generation_interrupted"  # type: ignore[index]
    assert "after 3 tokens" in last["error"]["message"]  # type: ignore[index]


def test_what_nobody_expected_is_logged_under_the_requests_id(caplog: pytest.LogCaptureFixture) -> None:
    (only,) = _events(0, RuntimeError("a fault of ours"))
    assert "cmpl-1" in only["error"]["message"]  # type: ignore[index]
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "cmpl-1" in record.getMessage()
    assert record.exc_info is not None


@pytest.mark.parametrize(
    ("tokens", "error"), [(3, Interrupted("a new version")), (0, Interrupted("lost")), (3, ModelFailed("no numbers"))]
)
def test_what_tells_the_client_what_to_do_is_told_as_it_is(tokens: int, error: RequestError) -> None:
    *_, last = _events(tokens, error)
    assert last["error"] == {"message": str(error), "type": "server_error", "param": None, "code": error.code}


@pytest.mark.parametrize("tokens", [0, 3])
def test_a_request_that_takes_too_long_says_so_also_after_tokens(tokens: int) -> None:
    *_, last = _events(tokens, None, timeout_s=0.05)
    assert last["error"]["code"] == TimedOut.code  # type: ignore[index]


class _Saying:
    """A ticket that has these tokens, the last of which ends it so."""

    cold, name = False, "r.0"

    def __init__(self, tokens: Sequence[int], finish: str) -> None:
        self._tokens, self._finish = tokens, finish

    async def tokens(self) -> AsyncGenerator[Tokens]:
        for index, token in enumerate(self._tokens, 1):
            yield Tokens("r.0", (token,), self._finish if index == len(self._tokens) else None)


@pytest.mark.parametrize(
    ("said", "finish", "fields", "shown"),
    [
        ("abcd", "length", {}, "abcd"),
        ("abcd", "stop", {}, "abc"),
        ("abcd", "length", {"stops": ("b",)}, "a"),
        ("abcd", "length", {"stops": ("b", "d"), "min_tokens": 2}, "abc"),
        ("abcd", "stop", {"stops": ("d",), "min_tokens": 4}, "abc"),
        ("abcd", "length", {"echoes": ("b?",), "stops": ("c",)}, "b?ab"),
        ("abcd", "length", {"echoes": ("b?",), "chat": True}, "b?abcd"),
    ],
)
def test_a_text_holds_neither_what_ended_it_nor_stops_before_their_time(
    said: str, finish: str, fields: dict[str, Any], shown: str, tmp_path: Path
) -> None:
    """A token that ends an answer was shown if it was text; as a whole and as a stream, behind an echo."""
    text = LocalText(tmp_path, byte_files())
    fields = dict(fields)
    kind = "chat.completion" if fields.pop("chat", False) else "text_completion"
    submit = Submit("r.0", (1,), 1, 9, (), GREEDY, fields.pop("min_tokens", 0))

    async def both() -> tuple[str, str]:
        async def answers() -> AnswerText:
            return text.answers

        model = SimpleNamespace(name="m", text=SimpleNamespace(answers=answers))
        arrived_s = asyncio.get_running_loop().time()
        asked = Ask("cmpl-1", kind, model, (submit,), 1, (), arrived_s, False, False)  # type: ignore[arg-type]
        asked = replace(asked, **fields)
        answerer = Answerer(Metrics(), FOREVER_S, lambda *_: None)
        tickets: Any = [_Saying(text.encode(said), finish)]
        (whole,) = (await answerer.whole(asked, tickets))["choices"]
        events = answerer.events(asked, tickets)
        parsed = [json.loads(event[6:]) async for event in events if event.startswith(b"data: {")]
        deltas = [event["choices"][0] for event in parsed]
        if asked.kind == "chat.completion":
            return whole["message"]["content"], "".join(delta["delta"].get("content", "") for delta in deltas)
        return whole["text"], "".join(delta["text"] for delta in deltas)

    assert asyncio.run(both()) == (shown, shown)


class _Handed:
    """Gives a token whenever it is told to."""

    name, cold = "r.0", False

    def __init__(self) -> None:
        self.next = asyncio.Queue[int]()

    async def tokens(self) -> AsyncGenerator[Tokens]:
        while True:
            yield Tokens("r.0", (await self.next.get(),))


@pytest.mark.parametrize("turns", range(8))
async def test_who_leaves_just_when_a_token_comes_has_left(turns: int) -> None:
    """Python 3.11's wait_for loses a cancellation that meets its result: the whole answer was made for nobody."""
    model = SimpleNamespace(name="m", text=None)
    submit = Submit("r.0", (1,), 1, 9, (), GREEDY)
    arrived_s = asyncio.get_running_loop().time()
    asked = Ask("cmpl-1", "text_completion", model, (submit,), 1, (), arrived_s, False, False)  # type: ignore[arg-type]
    ticket = _Handed()
    answerer = Answerer(Metrics(), FOREVER_S, lambda *_: None)
    task = asyncio.ensure_future(answerer.whole(asked, [ticket]))  # type: ignore[list-item]
    for _ in range(20):
        await asyncio.sleep(0)
    ticket.next.put_nowait(7)
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    done, _ = await asyncio.wait({task}, timeout=1.0)
    task.cancel()
    assert done, "it goes on answering"
    assert task.cancelled()
