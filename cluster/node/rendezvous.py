"""Where the stages of a group find each other: a small store on the node of the first stage, on the node's address alone.

Torch's own store lets anybody in and takes whatever it is given. This one knows its callers by the secret of their group,
keeps little, and forgets a group with its last connection.
"""

import asyncio
import hmac
import secrets
import socket
import ssl
import threading
from dataclasses import dataclass, field

import psutil

from cluster.errors import NoInterface, ProtocolError
from cluster.wire.codec import frame, read_frame
from cluster.wire.door import Door
from cluster.wire.hello import Hello, group_secret
from cluster.wire.meetings import (
    LONGEST_WAIT_S,
    StoreAdd,
    StoreCount,
    StoreDelete,
    StoreFault,
    StoreLook,
    StoreNumber,
    StoreSet,
    StoreSwap,
    StoreValues,
    StoreWait,
)
from cluster.wire.vocabulary import load_vocabulary

MOST_VALUE_BYTES = 1 << 20
MOST_GROUP_BYTES = 4 << 20
MOST_CONNECTIONS = 256
_ENTRY_BYTES = 256
_FRAME_BYTES = MOST_VALUE_BYTES + (64 << 10)


@dataclass
class _Board:
    """What the stages of one group tell each other."""

    values: dict[str, bytes] = field(default_factory=dict)
    used_bytes: int = 0
    connections: int = 0
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    def put(self, key: str, value: bytes) -> None:
        """ProtocolError if the group has no room for it."""
        used_bytes = self.used_bytes + _size_bytes(key, value)
        if key in self.values:
            used_bytes -= _size_bytes(key, self.values[key])
        if len(value) > MOST_VALUE_BYTES or used_bytes > MOST_GROUP_BYTES:
            raise ProtocolError(f"a group keeps no more than {MOST_GROUP_BYTES} bytes here, {MOST_VALUE_BYTES} a value")
        self.values[key], self.used_bytes = value, used_bytes

    def drop(self, key: str) -> bool:
        """Whether it was there."""
        value = self.values.pop(key, None)
        if value is None:
            return False
        self.used_bytes -= _size_bytes(key, value)
        return True


class Rendezvous:
    """Lives as long as the agent, on a thread of its own. `secret` is made anew at every start, see group_secret."""

    def __init__(self, host: str, tls: ssl.SSLContext | None = None) -> None:
        self.secret = secrets.token_hex(16)
        self._listener = socket.create_server((host, 0))
        self.port: int = self._listener.getsockname()[1]
        self._boards: dict[str, _Board] = {}
        self._door = Door("rendezvous", self._knows, self._talk, tls)
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),), name="rendezvous")
        self._thread.daemon = True
        self._thread.start()

    def close(self) -> None:
        """Stop listening and cut off who is connected."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()

    async def _run(self) -> None:
        load_vocabulary()
        server = await asyncio.start_server(self._door, sock=self._listener)
        await self._stop.wait()
        server.close()
        talks = asyncio.all_tasks() - {asyncio.current_task()}
        for talk in talks:
            talk.cancel()
        await asyncio.gather(*talks, return_exceptions=True)

    def _knows(self, hello: Hello) -> bool:
        return hmac.compare_digest(hello.secret.encode(), group_secret(self.secret, hello.group).encode())

    async def _talk(self, hello: Hello, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        board = self._boards.setdefault(hello.group, _Board())
        if board.connections >= MOST_CONNECTIONS:
            raise ProtocolError(f"group {hello.group} has {MOST_CONNECTIONS} connections")
        board.connections += 1
        try:
            while (request := await read_frame(reader, _FRAME_BYTES)) is not None:
                writer.write(frame(await _answer(board, request)))
                await writer.drain()
        finally:
            board.connections -= 1
            if not board.connections:
                del self._boards[hello.group]


async def _answer(board: _Board, request: object) -> object:
    try:
        if isinstance(request, StoreWait):
            return await _wait(board, request)
        async with board.changed:
            answer = _carry_out(board, request)
            board.changed.notify_all()
            return answer
    except ProtocolError as error:
        return StoreFault(str(error))


async def _wait(board: _Board, request: StoreWait) -> StoreValues:
    """The values of all keys, or none when the time is over. ProtocolError if a key comes twice: an answer is no larger than
    what the group keeps."""
    if len(set(request.keys)) < len(request.keys):
        raise ProtocolError("a key is asked for twice")
    try:
        async with asyncio.timeout(min(request.timeout_s, LONGEST_WAIT_S)), board.changed:
            await board.changed.wait_for(lambda: all(key in board.values for key in request.keys))
    except TimeoutError:
        return StoreValues(())
    return StoreValues(tuple(board.values[key] for key in request.keys))


def _carry_out(board: _Board, request: object) -> object:
    match request:
        case StoreSet(key, value):
            board.put(key, value)
            return StoreNumber(1)
        case StoreAdd(key, amount):
            try:
                number = int(board.values.get(key, b"0")) + amount
            except ValueError:
                raise ProtocolError("what is kept there is no number") from None
            board.put(key, b"%d" % number)
            return StoreNumber(number)
        case StoreSwap(key, expected, desired):
            kept = board.values.get(key)
            if kept == expected or (kept is None and not expected):
                board.put(key, desired)
                return StoreValues((desired,))
            return StoreValues((expected if kept is None else kept,))
        case StoreLook(keys):
            return StoreNumber(all(key in board.values for key in keys))
        case StoreDelete(key):
            return StoreNumber(board.drop(key))
        case StoreCount():
            return StoreNumber(len(board.values))
    raise ProtocolError(f"{type(request).__name__} is not for a rendezvous")


def _size_bytes(key: str, value: bytes) -> int:
    return len(key.encode()) + len(value) + _ENTRY_BYTES


def interface_of(host: str) -> str:
    """The network interface that has the address `host`; gloo binds to it. NoInterface if there is none."""
    try:
        address = socket.gethostbyname(host)
    except OSError as error:
        raise NoInterface(
            f"the address of this machine, {host}, cannot be found: {error.strerror}; set cluster.host"
        ) from error
    for interface, addresses in psutil.net_if_addrs().items():
        if any(found.address == address for found in addresses):
            return interface
    raise NoInterface(f"no network interface of this machine has the address {host}: set cluster.host to one that does")
