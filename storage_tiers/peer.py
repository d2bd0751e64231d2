"""The peer tier: units that another node holds in its dram or on its ssd, over one TCP connection per reader.

A request is a frame of msgpack (secret, digest, offset, size); the answer is one byte, 0 if the bytes follow, then the
bytes, straight from the memory or file they lie in.
"""

import hmac
import logging
import os
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgpack

from storage_tiers.checkpoint import UnitIndex
from storage_tiers.dram import DramTier
from storage_tiers.errors import Missing, StoreUnavailable
from storage_tiers.ssd import SsdTier
from storage_tiers.tier import Views, total_bytes

_log = logging.getLogger(__name__)
_LENGTH = struct.Struct(">I")
_MAX_REQUEST_BYTES = 4096
_OK, _MISSING = b"\0", b"\1"


class PeerServer:
    """Gives out what this node's dram and ssd hold, to whoever knows `secret`. A thread per connection."""

    def __init__(self, dram: DramTier, ssd: SsdTier, host: str, secret: str) -> None:
        self._dram, self._ssd, self._secret = dram, ssd, secret
        self._listener = socket.create_server((host, 0))
        self.port: int = self._listener.getsockname()[1]
        self._connections: dict[socket.socket, threading.Thread] = {}
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._accept, name="peers", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening and cut off who is connected; when this returns, nothing reads the tiers any more."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        with self._lock:
            connections = dict(self._connections)
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in connections.values():
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,), name="peer", daemon=True)
            with self._lock:
                self._connections[connection] = thread
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            while (request := _receive_request(connection)) is not None:
                secret, digest, offset_bytes, size_bytes = request
                if not hmac.compare_digest(str(secret), self._secret):
                    _log.warning("a peer without the right secret was cut off")
                    return
                self._answer(connection, str(digest), int(offset_bytes), int(size_bytes))
        except (OSError, ValueError) as error:
            _log.info("a peer's connection broke: %s", error)
        finally:
            with self._lock:
                del self._connections[connection]
            connection.close()

    def _answer(self, connection: socket.socket, digest: str, offset_bytes: int, size_bytes: int) -> None:
        segment = self._dram.acquire(digest)
        if segment is not None:
            try:
                connection.sendall(_OK)
                for view in segment.views(offset_bytes, size_bytes):
                    connection.sendall(view)
            finally:
                self._dram.release(digest)
            return
        path = self._ssd.path(digest)
        if path is None or not _send_file(connection, path, offset_bytes, size_bytes):
            connection.sendall(_MISSING)


class PeerTier:
    """Another node's units. `held` says which digests it was last known to hold."""

    name = "peer"

    def __init__(
        self, host: str, port: int, secret: str, held: Callable[[], frozenset[str]], timeout_s: float = 10.0
    ) -> None:
        self._address, self._secret, self._held, self._timeout_s = (host, port), secret, held, timeout_s
        self._idle: list[socket.socket] = []
        self._lock = threading.Lock()

    def holds(self, unit: UnitIndex) -> bool:
        return unit.digest in self._held()

    def read(self, model: str, unit: UnitIndex, offset_bytes: int, views: Views) -> None:
        connection = self._connection()
        try:
            request = msgpack.packb([self._secret, unit.digest, offset_bytes, total_bytes(views)])
            connection.sendall(_LENGTH.pack(len(request)) + request)
            status = connection.recv(1)
            if status == _OK:
                for view in views:
                    _receive_into(connection, view)
        except OSError as error:
            connection.close()
            raise StoreUnavailable(f"peer {self._address[0]}:{self._address[1]}: {error}") from error
        if not status:
            connection.close()
            raise StoreUnavailable(f"peer {self._address[0]}:{self._address[1]} closed the connection")
        with self._lock:
            self._idle.append(connection)
        if status != _OK:
            raise Missing(f"peer {self._address[0]}:{self._address[1]} no longer holds unit {unit.name} of {model}")

    def discard(self, unit: UnitIndex) -> None:
        """What a peer holds is its own to drop."""

    def close(self) -> None:
        """Close the connections that wait."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _connection(self) -> socket.socket:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        try:
            connection = socket.create_connection(self._address, self._timeout_s)
        except OSError as error:
            raise StoreUnavailable(f"peer {self._address[0]}:{self._address[1]} does not answer: {error}") from error
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection


def _receive_request(connection: socket.socket) -> tuple[object, object, int, int] | None:
    head = memoryview(bytearray(_LENGTH.size))
    if not _receive_some(connection, head):
        return None
    (length,) = _LENGTH.unpack(head)
    if length > _MAX_REQUEST_BYTES:
        raise ValueError(f"a request of {length} bytes")
    body = memoryview(bytearray(length))
    _receive_into(connection, body)
    secret, digest, offset_bytes, size_bytes = msgpack.unpackb(body)
    return secret, digest, offset_bytes, size_bytes


def _receive_some(connection: socket.socket, view: memoryview) -> bool:
    """Fill `view`, or False if the other side closed before its first byte."""
    count = connection.recv_into(view)
    if count:
        _receive_into(connection, view[count:])
    return count > 0


def _receive_into(connection: socket.socket, view: memoryview) -> None:
    while view:
        count = connection.recv_into(view)
        if not count:
            raise ConnectionError("the connection ended in the middle")
        view = view[count:]


def _send_file(connection: socket.socket, path: Path, offset_bytes: int, size_bytes: int) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        connection.sendall(_OK)
        end = offset_bytes + size_bytes
        while offset_bytes < end:
            sent = os.sendfile(connection.fileno(), fd, offset_bytes, end - offset_bytes)
            if not sent:
                raise ConnectionError(f"{path} is too short")
            offset_bytes += sent
    finally:
        os.close(fd)
    return True
