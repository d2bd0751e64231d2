"""What a stream says while its request waits: at once, at least every second, and what is known of it then."""

import asyncio
from itertools import pairwise
from typing import Any

import pytest

from schedules.outlook import Doing, Outlook
from serving.answering.answerer import Answerer
from serving.answering.ask import Ask
from serving.answering.telling import headers, told
from tests.schedules.worlds import world_node
from tests.serving.routed import FOREVER_S, Routed, played
from tests.serving.routed import served as served_model

MODEL = served_model("m")
SLOW = {"nic": 10e6, "formed": 1.5}
FETCHED_S = MODEL.checkpoint.size_bytes / 10e6


async def _said(now: Routed, tokens: int = 4) -> list[tuple[float, bytes]]:
    """What a stream says, and when, until its first token; its end is not waited for."""
    loop = asyncio.get_running_loop()
    arrived_s, submit = loop.time(), now.submit(tokens)
    tickets = now.router.admit(MODEL, [submit], arrived_s, FOREVER_S)
    asked = Ask("cmpl-1", "text_completion", MODEL, (submit,), 1, (), arrived_s + FOREVER_S, True, False)
    events = Answerer(now.metrics, FOREVER_S, lambda *_: None, now.router.outlook).events(asked, tickets)
    found: list[tuple[float, bytes]] = []
    async for event in events:
        found.append((loop.time() - arrived_s, event))
        if event.startswith(b"data: "):
            break
    await events.aclose()
    tickets[0].close()
    return found


def _left_s(text: str) -> float:
    return float(text.partition("first token in about ")[2].partition(" s")[0])


def test_a_stream_that_waits_for_a_cold_model_says_so_at_once_and_every_second_with_phase_and_time_left() -> None:
    async def test(now: Routed) -> None:
        *beats, (first_s, token) = await _said(now)
        assert beats[0] == (0.0, beats[0][1])
        times = [at_s for at_s, _ in beats] + [first_s]
        assert max(after - before for before, after in pairwise(times)) <= 1.0
        texts = [event.decode() for _, event in beats]
        assert all(text.startswith(": cold start of m: ") and text.endswith("\n\n") for text in texts)
        assert "forming 1 process(es), fetching 0 of 63 MB" in texts[0]
        assert ": fetching 0 of 63 MB" in texts[-1]
        assert [_left_s(text) for text in texts] == pytest.approx([first_s - at_s for at_s, _ in beats], abs=0.3)
        assert first_s == pytest.approx(FETCHED_S, abs=0.5)
        assert token.startswith(b"data: ")

    played(test, world_node("a", **SLOW))


def test_a_warm_stream_that_is_silent_for_long_says_that_it_is_computed_and_for_how_long_yet() -> None:
    async def test(now: Routed) -> None:
        await now.answered(MODEL, tokens=1)
        *beats, (first_s, _) = await _said(now)
        texts = [event.decode() for _, event in beats]
        assert all(text.startswith(": m is computing, first token in about ") for text in texts)
        assert [_left_s(text) for text in texts] == pytest.approx([first_s - at_s for at_s, _ in beats], abs=0.2)
        assert [at_s for at_s, _ in beats] == pytest.approx([0.8 * (i + 1) for i in range(len(beats))])

    played(test, world_node("a", formed=0.1, decode=20e6))


BEGUN_S = 100.0
FORMING = Outlook(Doing.FORMING, True, False, 4, 0, 269_000_000, 1, BEGUN_S + 4.5)
COMPUTING = Outlook(Doing.COMPUTING, True, first_s=BEGUN_S + 4.5)


@pytest.mark.parametrize(
    ("outlook", "after_s", "said"),
    [
        (FORMING, 0.0, "cold start of m: forming 4 process(es), fetching 0 of 269 MB, first token in about 4.5 s"),
        (
            Outlook(Doing.FETCHING, True, True, 1, 61_400_000, 269_000_000, 1, BEGUN_S + 4.5), 2.2,
            "cold start of m: fetching 61 of 269 MB, first token in about 2.3 s",
        ),
        (COMPUTING, 4.7, "cold start of m: computing, first token any moment"),
        (COMPUTING, 7.6, "cold start of m: computing, 3.1 s later than predicted"),
        (Outlook(Doing.ROOM, True, why="no node\nhas room"), 1.0, "cold start of m: waiting for room (no node\nhas room)"),
        (Outlook(Doing.ROOM, True), 1.0, "cold start of m: waiting for room"),
        (
            Outlook(Doing.QUEUED, waiting=3, first_s=BEGUN_S + 4.0), 1.0,
            "m is busy: 3 request(s) wait for it, first token in about 3.0 s",
        ),
        (Outlook(Doing.ANSWERING, first_s=BEGUN_S + 9.6), 9.0, "m is computing, first token in about 0.6 s"),
        (Outlook(Doing.ANSWERING, first_s=BEGUN_S), 9.0, "m is computing, 9.0 s later than predicted"),
        (Outlook(Doing.ANSWERING), 9.0, "m is computing"),
        (Outlook(Doing.SHIFTING), 9.0, "m goes on at another replica"),
        (None, 9.0, "m is at work"),
    ],
    ids=range(12),
)  # fmt: skip
def test_what_is_told(outlook: Outlook | None, after_s: float, said: str) -> None:
    assert told("m", outlook, BEGUN_S + after_s) == said


@pytest.mark.parametrize(
    ("outlook", "said"),
    [
        (FORMING, {"Start": "cold", "Degree": "4", "Predicted-S": "4.500"}),
        (Outlook(Doing.FETCHING, True, True, 1), {"Start": "starting", "Degree": "1"}),
        (Outlook(Doing.ROOM, True, False), {"Start": "cold"}),
        (Outlook(Doing.QUEUED, degree=1, waiting=2), {"Start": "queued", "Degree": "1"}),
        (
            Outlook(Doing.ANSWERING, degree=2, first_s=BEGUN_S + 0.02),
            {"Start": "warm", "Degree": "2", "Predicted-S": "0.020"},
        ),
        (None, {}),
    ],
    ids=range(6),
)  # fmt: skip
def test_what_headers_say(outlook: Outlook | None, said: dict[str, Any]) -> None:
    named = {f"X-Firsttoken-{name}": value for name, value in said.items()}
    assert headers("cmpl-1", outlook, BEGUN_S) == {"X-Request-ID": "cmpl-1"} | named
