"""Messages over sockets: length-prefixed frames on a stream, packets with descriptors between agent and stage process."""

import array
import asyncio
import os
import socket
import struct
from typing import Any

from cluster.errors import ProtocolError
from cluster.wire.vocabulary import pack, unpack

MAX_FRAME_BYTES = 64 << 20
_PACKET_BYTES = 1 << 20
_LENGTH = struct.Struct(">I")


def frame(message: object) -> bytes:
    """`message` as it goes over a stream."""
    body = pack(message)
    return _LENGTH.pack(len(body)) + body


async def read_frame(reader: asyncio.StreamReader, most_bytes: int = MAX_FRAME_BYTES) -> Any:
    """The next message of a stream, None at its end. ProtocolError if the bytes are no message, or more than `most_bytes`."""
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        if length > most_bytes:
            raise ProtocolError(f"a frame of {length} bytes")
        return unpack(await reader.readexactly(length))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


def receive_frame(sock: socket.socket) -> Any:
    """The next message from a socket that blocks. ConnectionError if it ends before, ProtocolError as of `read_frame`."""
    head = bytearray(_LENGTH.size)
    _receive_into(sock, memoryview(head))
    (length,) = _LENGTH.unpack(head)
    if length > MAX_FRAME_BYTES:
        raise ProtocolError(f"a frame of {length} bytes")
    body = bytearray(length)
    _receive_into(sock, memoryview(body))
    return unpack(bytes(body))


def _receive_into(sock: socket.socket, data: memoryview) -> None:
    while data:
        count = sock.recv_into(data)
        if not count:
            raise ConnectionError("it closed the connection")
        data = data[count:]


class Channel:
    """One end of a packet socket between an agent and a stage process: whole messages, each with up to one descriptor."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    @staticmethod
    def pair() -> tuple[socket.socket, socket.socket]:
        """Two connected sockets to make channels of."""
        return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def fileno(self) -> int:
        return self._sock.fileno()

    def send(self, message: object, fd: int | None = None, wait: bool = True) -> None:
        """Send a message and a copy of `fd`. While the other side is behind it blocks, or BlockingIOError if `wait` is
        false; OSError if the other side is gone."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))] if fd is not None else []
        self._sock.sendmsg([pack(message)], rights, 0 if wait else socket.MSG_DONTWAIT)

    def receive(self, wait: bool = True) -> tuple[Any, int | None]:
        """The next message and the descriptor that came with it, now the caller's to close.

        EOFError when the other side is gone; BlockingIOError if there is nothing and `wait` is false. A descriptor that
        was sent does not come if this process may have no more of them.
        """
        flags = 0 if wait else socket.MSG_DONTWAIT
        room = socket.CMSG_LEN(array.array("i").itemsize)
        try:
            data, rights, got, _ = self._sock.recvmsg(_PACKET_BYTES, room, flags | socket.MSG_CMSG_CLOEXEC)
        except ConnectionError as error:
            raise EOFError("the other side is gone") from error
        fds = array.array("i")
        for _level, _type, packed in rights:
            fds.frombytes(packed[: len(packed) - len(packed) % fds.itemsize])
        fd = fds[0] if fds else None
        if not data and fd is None:
            raise EOFError("the other side is gone")
        try:
            if got & socket.MSG_TRUNC:
                raise ProtocolError(f"a packet of more than {_PACKET_BYTES} bytes")
            return unpack(data), fd
        except ProtocolError:
            if fd is not None:
                os.close(fd)
            raise

    def close(self) -> None:
        self._sock.close()
