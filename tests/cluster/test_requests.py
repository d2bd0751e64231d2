"""The door of a stage process: who is let in, and whose tokens are whose."""

import asyncio
import queue
import struct
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from cluster.stage.request_server import Command, RequestServer
from cluster.wire import door as door_module
from cluster.wire.codec import frame, read_frame
from cluster.wire.door import HELLO_BYTES
from cluster.wire.hello import Hello
from cluster.wire.reports import Done
from cluster.wire.requests import (
    AskPlace,
    Cancel,
    Caught,
    Failed,
    Follow,
    GoOn,
    More,
    Placed,
    Rejected,
    Submit,
    Tokens,
    Yield,
    Yielded,
)
from storage_tiers.strangers import MOST_STRANGERS

_HELLO = Hello("group", "geheimnis-ß")
_WAIT_S = 30.0


class _Door:
    """A server, and what came through it."""

    def __init__(self, server: RequestServer) -> None:
        self.server = server
        self.commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        server.serve(_HELLO, self.commands.put)

    async def next_command(self) -> Command:
        """What the driver is told next."""
        return await asyncio.to_thread(self.commands.get, timeout=_WAIT_S)


class _Caller:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer

    def say(self, *messages: object) -> None:
        self.writer.write(b"".join(frame(message) for message in messages))

    async def hear(self) -> Any:
        """The next message, None if we were cut off."""
        return await asyncio.wait_for(read_frame(self._reader), _WAIT_S)


@asynccontextmanager
async def _caller(server: RequestServer, *first: object) -> AsyncIterator[_Caller]:
    """Someone who has connected and said `first`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    found = _Caller(reader, writer)
    try:
        found.say(*first)
        yield found
    finally:
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


@pytest.fixture(scope="module")
def server() -> RequestServer:
    """One for all tests here: as in a stage process, it lives as long as the process."""
    return RequestServer("127.0.0.1")


@pytest.fixture
def door(server: RequestServer) -> _Door:
    return _Door(server)


def _submit(name: str) -> Submit:
    return Submit(name, (1, 2), 2, 4, ())


async def test_whoever_knows_the_secret_is_served(door: _Door) -> None:
    async with _caller(door.server, _HELLO, _submit("r")) as caller:
        assert await door.next_command() == _submit("r")
        door.server.emit([Tokens("r", (5,))])
        door.server.emit([Tokens("r", (6,), "stop")])
        assert await caller.hear() == Tokens("r", (5,))
        assert await caller.hear() == Tokens("r", (6,), "stop")


@pytest.mark.parametrize(
    "hello",
    [Hello("group", "guess"), Hello("other", _HELLO.secret), Hello("group", ""), Done(), Submit("r", (1,), 1, 1, ())],
    ids=lambda hello: type(hello).__name__,
)
async def test_whoever_does_not_is_cut_off_unheard(door: _Door, hello: object) -> None:
    async with _caller(door.server, hello, _submit("r")) as caller:
        assert await caller.hear() is None
    assert door.commands.empty()


async def test_before_there_is_a_group_nobody_is_let_in() -> None:
    async with _caller(RequestServer("127.0.0.1"), _HELLO) as caller:
        assert await caller.hear() is None


async def test_the_tokens_of_a_step_go_to_whom_they_belong(door: _Door) -> None:
    async with _caller(door.server, _HELLO, _submit("a")) as one, _caller(door.server, _HELLO, _submit("b")) as other:
        assert {(await door.next_command()).request for _ in range(2)} == {"a", "b"}
        door.server.emit([Tokens("b", (2,), "stop"), Tokens("nobody", (9,)), Tokens("a", (1,), "stop")])
        assert await one.hear() == Tokens("a", (1,), "stop")
        assert await other.hear() == Tokens("b", (2,), "stop")


async def test_the_tokens_of_a_step_are_written_together(door: _Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each was a call of the kernel, which cost more than all the rest of a step of 64 requests."""
    names = [str(number) for number in range(20)]
    events = [Tokens(name, (7,)) for name in names]
    async with _caller(door.server, _HELLO, *(_submit(name) for name in names)) as caller:
        for _ in names:
            await door.next_command()
        written: list[bytes] = []
        write = asyncio.StreamWriter.write
        monkeypatch.setattr(
            asyncio.StreamWriter, "write", lambda self, data: (written.append(data), write(self, data))[0]
        )
        door.server.emit(events)
        assert [await caller.hear() for _ in names] == events
        assert written == [b"".join(frame(event) for event in events)]


@pytest.mark.parametrize("event", [Rejected("a", "too long"), Failed("a", "no numbers")])
async def test_a_rejection_or_failure_is_passed_on_and_ends_the_request(door: _Door, event: Rejected | Failed) -> None:
    async with _caller(door.server, _HELLO, _submit("a")) as caller:
        await door.next_command()
        door.server.emit([event])
        assert await caller.hear() == event
        caller.say(_submit("a"))
        assert await door.next_command() == _submit("a")


async def test_a_request_that_moves_is_heard_and_told_of_like_any(door: _Door) -> None:
    """Caught is no end; Yielded is, and the name is free then."""
    said = [Follow(_submit("a"), 3), More("a", (1,)), GoOn("a", (2,)), Yield("a")]
    async with _caller(door.server, _HELLO, *said) as caller:
        assert [await door.next_command() for _ in said] == said
        events = [Caught("a", 3), Tokens("a", (5,)), Yielded("a")]
        door.server.emit(events)
        assert [await caller.hear() for _ in events] == events
        caller.say(_submit("a"))
        assert await door.next_command() == _submit("a")


async def test_who_leaves_gives_up_what_it_follows(door: _Door) -> None:
    async with _caller(door.server, _HELLO, Follow(_submit("a"))):
        assert await door.next_command() == Follow(_submit("a"))
    assert await door.next_command() == Cancel("a")


async def test_a_name_that_is_taken_cannot_be_followed(door: _Door) -> None:
    async with _caller(door.server, _HELLO, _submit("a"), Follow(_submit("a"))) as caller:
        assert await door.next_command() == _submit("a")
        assert await caller.hear() is None


async def test_a_place_is_told_to_whoever_asked_for_it(door: _Door) -> None:
    """Of what is over, too, which belongs to nobody; and it ends nothing."""
    async with _caller(door.server, _HELLO, _submit("a")) as one, _caller(door.server, _HELLO, AskPlace("a")) as other:
        assert {type(await door.next_command()) for _ in range(2)} == {Submit, AskPlace}
        other.say(AskPlace("b"))
        assert await door.next_command() == AskPlace("b")
        door.server.emit([Placed("b", None), Placed("a", 1, 2), Placed("a", 1, 3), Tokens("a", (1,), "stop")])
        assert [await other.hear() for _ in range(2)] == [Placed("b", None), Placed("a", 1, 2)]
        assert await one.hear() == Tokens("a", (1,), "stop")


async def test_a_cancelled_request_gets_no_more_tokens(door: _Door) -> None:
    async with _caller(door.server, _HELLO, _submit("a"), _submit("b"), Cancel("a")) as caller:
        assert [await door.next_command() for _ in range(3)] == [_submit("a"), _submit("b"), Cancel("a")]
        door.server.emit([Tokens("a", (1,))])
        door.server.emit([Tokens("b", (2,))])
        assert await caller.hear() == Tokens("b", (2,))


async def test_who_leaves_takes_all_open_requests_along(door: _Door) -> None:
    async with _caller(door.server, _HELLO, _submit("a"), _submit("b"), _submit("c")) as caller:
        for _ in range(3):
            await door.next_command()
        door.server.emit([Tokens("b", (1,), "stop")])
        assert await caller.hear() == Tokens("b", (1,), "stop")
    assert {await door.next_command() for _ in range(2)} == {Cancel("a"), Cancel("c")}


async def test_tokens_for_someone_who_has_left_go_nowhere(door: _Door) -> None:
    async with _caller(door.server, _HELLO, _submit("a")):
        await door.next_command()
    assert await door.next_command() == Cancel("a")
    door.server.emit([Tokens("a", (1,))])
    async with _caller(door.server, _HELLO, _submit("b")):
        assert await door.next_command() == _submit("b")


@pytest.mark.parametrize(
    "junk", [b"\x00\x00\x00\x04junk", b"\xff\xff\xff\xff", frame(Done()), frame(Tokens("a", (1,)))]
)
async def test_junk_cuts_off_who_sent_it_and_nobody_else(door: _Door, junk: bytes) -> None:
    async with (
        _caller(door.server, _HELLO, _submit("fine")) as fine,
        _caller(door.server, _HELLO, _submit("bad")) as bad,
    ):
        assert {(await door.next_command()).request for _ in range(2)} == {"fine", "bad"}
        bad.writer.write(junk)
        assert await bad.hear() is None
        assert await door.next_command() == Cancel("bad")
        door.server.emit([Tokens("fine", (1,))])
        assert await fine.hear() == Tokens("fine", (1,))


async def test_junk_in_place_of_a_greeting_is_cut_off(door: _Door) -> None:
    async with _caller(door.server) as caller:
        caller.writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await caller.hear() is None


async def test_strangers_fill_nothing_and_keep_nobody_out(
    door: _Door, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Half frames of 60 MB, on any number of connections and for ever, filled a stage's memory. Now a first frame is small,
    too many who wait make room for one another, and all are gone in seconds; the log says so without what they said."""
    monkeypatch.setattr(door_module, "INTRODUCE_WITHIN_S", 0.5)
    async with AsyncExitStack() as stack:
        huge = await stack.enter_async_context(_caller(door.server))
        huge.writer.write(struct.pack(">I", HELLO_BYTES + 1) + b"very secret")
        assert await huge.hear() is None
        waiting = [await stack.enter_async_context(_caller(door.server)) for _ in range(2 * MOST_STRANGERS)]
        for caller in waiting:
            caller.writer.write(struct.pack(">I", HELLO_BYTES) + b"very secret")
        async with _caller(door.server, _HELLO, _submit("r")):
            assert await door.next_command() == _submit("r")
        assert await door.next_command() == Cancel("r")
        assert [await caller.hear() for caller in waiting] == [None] * len(waiting)
    assert len([record for record in caplog.records if "was refused" in record.message]) <= 1
    assert "very secret" not in caplog.text


async def test_a_name_that_is_taken_cuts_off_who_used_it_and_leaves_the_first_alone(door: _Door) -> None:
    async with _caller(door.server, _HELLO, _submit("a")) as first:
        assert await door.next_command() == _submit("a")
        async with _caller(door.server, _HELLO, _submit("a")) as second:
            assert await second.hear() is None
        door.server.emit([Tokens("a", (1,), "stop")])
        assert await first.hear() == Tokens("a", (1,), "stop")
    assert door.commands.empty()


async def test_what_a_dead_front_end_asked_for_is_cancelled_when_another_one_adopts_the_group(door: _Door) -> None:
    """Where it was its cable that was cut, no connection of its closed: its requests went on to their ends, and had the
    group's memory until then."""
    dead, heir = replace(_HELLO, owner="dead"), replace(_HELLO, owner="heir")
    async with _caller(door.server, dead, _submit("theirs")) as before:
        assert await door.next_command() == _submit("theirs")
        async with _caller(door.server, heir, _submit("ours")) as after:
            assert {await door.next_command() for _ in range(2)} == {Cancel("theirs"), _submit("ours")}
            assert await before.hear() is None
            door.server.emit([Tokens("theirs", (5,)), Tokens("ours", (6,), "stop")])
            assert await after.hear() == Tokens("ours", (6,), "stop")


async def test_an_owner_may_have_several_connections(door: _Door) -> None:
    ours = replace(_HELLO, owner="ours")
    async with _caller(door.server, ours, _submit("a")) as one:
        assert await door.next_command() == _submit("a")
        async with _caller(door.server, ours, _submit("b")):
            assert await door.next_command() == _submit("b")
            door.server.emit([Tokens("a", (1,), "stop")])
            assert await one.hear() == Tokens("a", (1,), "stop")


async def test_who_is_there_is_counted(server: RequestServer) -> None:
    counted: queue.SimpleQueue[int] = queue.SimpleQueue()
    server.serve(_HELLO, lambda _command: None, None, counted.put)
    async with _caller(server, _HELLO), _caller(server, _HELLO):
        assert [await asyncio.to_thread(counted.get, timeout=_WAIT_S) for _ in range(2)] == [1, 2]
    assert [await asyncio.to_thread(counted.get, timeout=_WAIT_S) for _ in range(2)] == [1, 0]
