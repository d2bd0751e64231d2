"""The door of every stage: KV cache is read there by other stages, and pulled for whoever has the group."""

import asyncio
import queue
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.stage.attending.slabs import SlabCache
from cluster.stage.moving import kv_door as kv_door_module
from cluster.stage.moving import reading as reading_module
from cluster.stage.moving.kv_door import KvDoor
from cluster.stage.moving.shelf import Shelf
from cluster.stage.request_server import RequestServer
from cluster.wire.codec import frame, read_frame
from cluster.wire.encryption import Tls
from cluster.wire.hello import Hello
from cluster.wire.kv import AskKv, DropKv, KvHead, KvPulled, KvSource, PullKv
from cluster.wire.reports import Done
from cluster.wire.requests import Cancel, Submit
from tests.cluster.test_encryption import certificates

_CPU = torch.device("cpu")
_HELLO = Hello("group", "geheim", kv=True)
_WAIT_S = 30.0
_TOKENS, _LAYERS = 40, 3


def _layers(first: int, end: int, tokens: int = _TOKENS) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """What stages have of a request, told by layer."""
    return [(torch.full((tokens, 2, 4), float(layer)), torch.full((tokens, 2, 2), -float(layer)))
            for layer in range(first, end)]  # fmt: skip


class _Stage:
    """The door of a stage with layers [first, end), which has a request as slot 1."""

    def __init__(
        self, server: RequestServer, first: int = 0, end: int = _LAYERS, kv_tokens: int = 100, exports: bool = True,
        tls: Tls | None = None,
    ) -> None:  # fmt: skip
        self.server, self.first, self.end = server, first, end
        self.cache, self.shelf = SlabCache(end - first, 1000, _CPU), Shelf(kv_tokens)
        self.cache.fill(1, 64, 0, _layers(first, end))
        client = tls.client() if tls is not None else None
        door = KvDoor(self.cache, self.shelf, _CPU, first, end, exports, client)
        self.commands: queue.SimpleQueue[object] = queue.SimpleQueue()
        self.counted: list[int] = []
        server.serve(
            replace(_HELLO, kv=False), self.commands.put, tls.server() if tls is not None else None,
            self.counted.append, door.talk,
        )  # fmt: skip

    def source(self, slot: int = 1) -> KvSource:
        return KvSource("127.0.0.1", self.server.port, "group", slot, self.first, self.end, _HELLO.secret)


_Caller = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def _caller(port: int, *first: object, tls: Tls | None = None) -> AsyncIterator[_Caller]:
    context = tls.client() if tls is not None else None
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    try:
        _say((reader, writer), *first)
        yield reader, writer
    finally:
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


def _say(caller: _Caller, *messages: object) -> None:
    caller[1].write(b"".join(frame(message) for message in messages))


async def _hear(caller: _Caller) -> Any:
    return await asyncio.wait_for(read_frame(caller[0]), _WAIT_S)


async def _pulled(
    stage: _Stage, *sources: KvSource, request: str = "r", tokens: int = _TOKENS, timeout_s: float = _WAIT_S,
    tls: Tls | None = None,
) -> KvPulled:  # fmt: skip
    order = PullKv(request, tokens, sources, timeout_s)
    async with _caller(stage.server.port, _HELLO, order, tls=tls) as caller:
        answer = await _hear(caller)
    assert isinstance(answer, KvPulled)
    return answer


@pytest.fixture(scope="module")
def servers() -> list[RequestServer]:
    """As in a stage process, they live as long as the process."""
    return [RequestServer("127.0.0.1") for _ in range(3)]


# ---- read


async def test_what_is_asked_for_comes_as_it_lies_in_memory(servers: list[RequestServer]) -> None:
    stage = _Stage(servers[0])
    async with _caller(stage.server.port, _HELLO, AskKv(1, 7, 1, 3), AskKv(1, 5, 0, 1)) as caller:
        for tokens, first, end in ((7, 1, 3), (5, 0, 1)):
            head = await _hear(caller)
            expected = b"".join(t.numpy().tobytes() for layer in _layers(first, end, tokens) for t in layer)
            assert head == KvHead(len(expected), (2, 4), (2, 2), "float32")
            assert await asyncio.wait_for(caller[0].readexactly(len(expected)), _WAIT_S) == expected


@pytest.mark.parametrize(
    ("ask", "why"),
    [(AskKv(2, 5, 0, 1), "no request 2"), (AskKv(1, 5, 0, 4), "layers 0 to 2 alone"), (AskKv(1, 5, 2, 2), "alone")],
)
async def test_what_is_not_there_is_a_fault_and_the_next_question_is_heard(
    servers: list[RequestServer], ask: AskKv, why: str
) -> None:
    async with _caller(_Stage(servers[0]).server.port, _HELLO, ask, AskKv(1, 5, 0, 1)) as caller:
        head = await _hear(caller)
        assert (head.size_bytes, why in head.fault) == (0, True)
        assert (await _hear(caller)).fault == ""


async def test_a_request_that_is_over_meanwhile_cuts_its_reader_off(
    servers: list[RequestServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody takes for the request's what was read of a room that is another's."""
    monkeypatch.setattr(reading_module, "PIECE_BYTES", 1)
    stage, heir = _Stage(servers[0]), _Stage(servers[1])
    read = stage.cache.read

    def read_once(place: Any, layer: int, values: bool, first: int, end: int) -> torch.Tensor:
        if (layer, first, end) == (1, 3, 4):
            stage.cache.forget(1)
        return read(place, layer, values, first, end)

    stage.cache.read = read_once  # type: ignore[method-assign]
    answer = await _pulled(heir, stage.source())
    assert "has it no more" in answer.fault
    assert heir.shelf.claim("r", 1) is None


@pytest.mark.parametrize(
    "junk", [Done(), Submit("a", (1,), 1, 1, ()), Cancel("a")], ids=lambda junk: type(junk).__name__
)
async def test_who_comes_for_kv_cache_asks_for_nothing_else(servers: list[RequestServer], junk: object) -> None:
    stage = _Stage(servers[0])
    async with _caller(stage.server.port, _HELLO, junk) as caller:
        assert await _hear(caller) is None
    assert stage.commands.empty()


async def test_who_comes_for_kv_cache_is_no_owner_and_counts_as_nobody(servers: list[RequestServer]) -> None:
    """Its Hello names no owner: taken for one, it would have ended all requests of the front end that has the group."""
    stage = _Stage(servers[0])
    ours = replace(_HELLO, owner="front end", kv=False)
    async with _caller(stage.server.port, ours, Submit("r", (1, 2), 2, 4, ())) as owner:
        assert await asyncio.to_thread(stage.commands.get, timeout=_WAIT_S) == Submit("r", (1, 2), 2, 4, ())
        async with _caller(stage.server.port, _HELLO, AskKv(1, 5, 0, 1)) as caller:
            assert (await _hear(caller)).fault == ""
        _say(owner, Cancel("r"))
        assert await asyncio.to_thread(stage.commands.get, timeout=_WAIT_S) == Cancel("r")
        assert stage.counted == [1]


async def test_a_later_stage_takes_no_requests(servers: list[RequestServer]) -> None:
    stage = _Stage(servers[0])
    servers[0].serve(
        replace(_HELLO, kv=False), None, talk_of_kv=KvDoor(stage.cache, stage.shelf, _CPU, 0, 3, True).talk
    )
    async with _caller(stage.server.port, replace(_HELLO, kv=False), Submit("r", (1, 2), 2, 4, ())) as caller:
        assert await _hear(caller) is None
    async with _caller(stage.server.port, _HELLO, AskKv(1, 5, 0, 1)) as caller:
        assert (await _hear(caller)).fault == ""
    async with _caller(stage.server.port, replace(_HELLO, secret="guess"), AskKv(1, 5, 0, 1)) as caller:
        assert await _hear(caller) is None


# ---- pulled


async def test_a_stage_pulls_its_own_layers_from_whoever_has_them(servers: list[RequestServer]) -> None:
    one, other, heir = _Stage(servers[0], 0, 2), _Stage(servers[1], 2, 6), _Stage(servers[2], 1, 4)
    answer = await _pulled(heir, other.source(), one.source())
    assert (answer.request, answer.fault) == ("r", "")
    kept = heir.shelf.claim("r", _TOKENS)
    assert kept is not None
    assert answer.size_bytes == kept.size_bytes == 3 * _TOKENS * (8 + 4) * 4
    for got, expected in zip(kept.layers, _layers(1, 4), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


async def test_stages_that_speak_tls_pull_from_each_other(servers: list[RequestServer], tmp_path: Path) -> None:
    """Megabytes of it; who has no certificate gets nothing."""
    ours = certificates(tmp_path / "ours")
    stage, heir = _Stage(servers[0], tls=ours), _Stage(servers[1], kv_tokens=100_000, tls=ours)
    layers = _layers(0, _LAYERS, 60_000)
    stage.cache.fill(2, 60_000, 0, layers)
    assert (await _pulled(heir, stage.source(2), tokens=60_000, tls=ours)).fault == ""
    kept = heir.shelf.claim("r", 60_000)
    assert kept is not None
    assert all(
        torch.equal(a, b) for got, own in zip(kept.layers, layers, strict=True) for a, b in zip(got, own, strict=True)
    )
    plain = _Stage(servers[2])
    assert "did not come" in (await _pulled(plain, stage.source(), timeout_s=_WAIT_S)).fault


async def test_what_nobody_will_follow_is_dropped(servers: list[RequestServer]) -> None:
    stage, heir = _Stage(servers[0]), _Stage(servers[1])
    async with _caller(heir.server.port, _HELLO, PullKv("r", 5, (stage.source(),), _WAIT_S)) as caller:
        assert (await _hear(caller)).fault == ""
        _say(caller, PullKv("r", 5, (stage.source(),), _WAIT_S))
        assert "here already" in (await _hear(caller)).fault
        assert heir.shelf.claim("r", 5) is not None, "the second leaves the first as it is"
        _say(
            caller, PullKv("s", 5, (stage.source(),), _WAIT_S), DropKv("s"), PullKv("s", 5, (stage.source(),), _WAIT_S)
        )
        assert [(await _hear(caller)).fault for _ in range(2)] == ["", ""]


@pytest.mark.parametrize("abruptly", [False, True])
async def test_who_leaves_while_it_is_pulled_leaves_nothing_behind(
    servers: list[RequestServer], abruptly: bool
) -> None:
    heir = _Stage(servers[0])
    begun, go_on = asyncio.Event(), asyncio.Event()
    async with _played_source(lambda _reader, writer: _slowly(writer, begun, go_on)) as source:
        async with _caller(heir.server.port, _HELLO, PullKv("r", 1, (source,), _WAIT_S)) as (_, writer):
            await asyncio.wait_for(begun.wait(), _WAIT_S)
            if abruptly:
                linger = struct.pack("ii", 1, 0)  # the kernel says that nothing more is taken, instead of good-bye
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                writer.transport.abort()
        go_on.set()
        async with asyncio.timeout(_WAIT_S):
            other = _Stage(servers[1]).source()
            while True:  # until what came was dropped
                if not (await _pulled(heir, other, tokens=1)).fault:
                    return


async def _slowly(writer: asyncio.StreamWriter, begun: asyncio.Event, go_on: asyncio.Event) -> None:
    writer.write(frame(KvHead(_LAYERS * 8, (1, 1), (1, 1), "float32")))
    begun.set()
    await go_on.wait()
    writer.write(bytes(_LAYERS * 8))


@asynccontextmanager
async def _played_source(
    talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[KvSource]:
    """A stage that says what the test has it say, once it was asked."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_frame(reader)
        await read_frame(reader)
        await talk(reader, writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield KvSource("127.0.0.1", server.sockets[0].getsockname()[1], "group", 1, 0, _LAYERS, "s")


_HEAD = KvHead(_LAYERS * 8, (1, 1), (1, 1), "float32")


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (frame(replace(_HEAD, fault="gone")), "gone"),
        (frame(_HEAD), "has it no more"),
        (frame(_HEAD) + bytes(_LAYERS * 8 - 1), "has it no more"),
        (frame(replace(_HEAD, size_bytes=7)), "7 bytes are not what 3 layers of 1 tokens have"),
        (frame(replace(_HEAD, dtype="int8")), "is none"),
        (frame(replace(_HEAD, key_shape=(1,))), "is none"),
        (frame(Done()), "Done is no answer"),
        (b"\xff\xff\xff\xff", "a frame of"),
        (b"", "closed the connection"),
    ],
)
async def test_a_source_that_fails_leaves_nothing_behind(servers: list[RequestServer], answer: bytes, why: str) -> None:
    heir = _Stage(servers[0])

    async def say(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)

    async with _played_source(say) as source:
        pulled = await _pulled(heir, source, tokens=1)
    assert why in pulled.fault
    assert pulled.size_bytes == 0
    assert (await _pulled(heir, _Stage(servers[1]).source())).fault == "", "it can be pulled from another"


async def test_a_source_that_is_silent_is_waited_for_no_longer_than_said(servers: list[RequestServer]) -> None:
    heir, over = _Stage(servers[0]), asyncio.Event()
    async with _played_source(lambda _reader, _writer: over.wait()) as source:  # type: ignore[arg-type, return-value]
        pulled = await _pulled(heir, source, timeout_s=0.3)
        over.set()
    assert "within 0.3 s" in pulled.fault


@pytest.mark.parametrize("timeout_s", [0.0, -1.0, float("nan"), float("inf")])
async def test_a_time_that_is_none_is_a_fault(servers: list[RequestServer], timeout_s: float) -> None:
    stage, heir = _Stage(servers[0]), _Stage(servers[1])
    assert "nothing comes within" in (await _pulled(heir, stage.source(), timeout_s=timeout_s)).fault


async def test_what_cannot_be_pulled_is_a_fault(servers: list[RequestServer]) -> None:
    """Nobody there, nobody named who has a layer, another's secret, more than the stage has room for."""
    stage, heir = _Stage(servers[0], 0, 2), _Stage(servers[1])
    nobody = replace(stage.source(), port=1)
    assert "did not come" in (await _pulled(heir, nobody)).fault
    assert "has layer 2" in (await _pulled(heir, stage.source())).fault
    assert "did not come" in (await _pulled(heir, replace(stage.source(), secret="guess"))).fault
    assert "room for" in (await _pulled(heir, stage.source(), tokens=101)).fault


async def test_a_cache_that_depends_on_more_than_tokens_is_not_given(servers: list[RequestServer]) -> None:
    stage, heir = _Stage(servers[0], exports=False), _Stage(servers[1])
    assert "depends on more" in (await _pulled(heir, stage.source())).fault


async def test_what_was_pulled_and_not_claimed_is_dropped_in_time(
    servers: list[RequestServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    tidied = asyncio.Event()
    loop = asyncio.get_running_loop()
    stage, heir = _Stage(servers[0]), _Stage(servers[1])
    monkeypatch.setattr(kv_door_module, "UNCLAIMED_S", -0.9)
    monkeypatch.setattr(heir.shelf, "tidy", lambda: loop.call_soon_threadsafe(tidied.set))
    assert (await _pulled(heir, stage.source())).fault == ""
    await asyncio.wait_for(tidied.wait(), _WAIT_S)
