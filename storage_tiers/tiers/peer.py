"""The peer tier: units that another node holds in its dram or on its ssd, over one TCP connection per reader.

A request is a frame of msgpack (secret, digest, offset, size), of which a connection's first must show the secret; the
answer is one byte, 0 if the bytes follow, then the bytes, straight from the memory or file they lie in.
"""

import hmac
import logging
import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path

import msgpack

from storage_tiers.checkpoint import UnitIndex
from storage_tiers.errors import Faltering, Missing, StoreUnavailable
from storage_tiers.pace import Pace
from storage_tiers.passing import exhausted
from storage_tiers.strangers import INTRODUCE_WITHIN_S, Refusals, Strangers
from storage_tiers.tiers.dram import DramTier
from storage_tiers.tiers.ssd import SsdTier
from storage_tiers.tiers.tier import Views, total_bytes

_log = logging.getLogger(__name__)
_LENGTH = struct.Struct(">I")
_TIMEVAL = struct.Struct("@ll")
_MAX_REQUEST_BYTES = 4096
_OK, _MISSING = b"\0", b"\1"

SILENCE_S = 1.0
"""How long a peer may take to let us in, to answer, and for every STRIDE_BYTES of what it sends.

Between the nodes of a cluster an answer takes milliseconds, and TCP sends a lost packet again after 0.2 and 0.6 s: who
says nothing for a second is gone or as good as gone, and a cold start has other sources."""
STRIDE_BYTES = 256 << 10
REST_S = 30.0
"""How long a peer that failed is left alone: about as long as a node that died takes to come back."""
_POOLED_S, _IDLE_S = 2.0, 4  # the reader's side gives a waiting connection up first
_STUCK_S = 5
MAX_CONNECTIONS = 64


class PeerServer:
    """Gives out what this node's dram and ssd hold, to whoever knows `secret`. A thread per connection.

    More than MAX_CONNECTIONS at once are refused: whoever comes then finds another source. Those who have not shown the
    secret are not among them, see Strangers. A reader that takes nothing for five seconds is cut off, since a unit cannot be
    evicted while it is sent.
    """

    def __init__(self, dram: DramTier, ssd: SsdTier, host: str, secret: str) -> None:
        self._dram, self._ssd, self._secret = dram, ssd, secret.encode()
        self._listener = socket.create_server((host, 0))
        self.port: int = self._listener.getsockname()[1]
        self._connections: dict[socket.socket, threading.Thread] = {}
        self._readers = 0
        self._strangers: Strangers[socket.socket] = Strangers(_cut)
        self._refusals = Refusals(_log, "peers")
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._accept, name="peers", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening and cut off who is connected; when this returns, nothing reads the tiers any more."""
        self._closing.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        with self._lock:
            connections = dict(self._connections)
        for connection in connections:
            _cut(connection)
        for thread in connections.values():
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                connection, (host, *_) = self._listener.accept()
            except OSError as error:  # also for want of descriptors, which will not last
                if self._closing.wait(0.1):
                    return
                _log.warning("no peer can connect: %s", error)
                continue
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL.pack(_STUCK_S, 0))
            thread = threading.Thread(target=self._serve, args=(connection, host), name="peer", daemon=True)
            with self._lock:
                self._connections[connection] = thread
            self._strangers.admit(connection)
            try:
                thread.start()
            except RuntimeError as error:  # for want of threads, which will not last either
                _log.warning("no peer can be answered: %s", error)
                self._forget(connection)

    def _serve(self, connection: socket.socket, host: str) -> None:
        known = False
        try:
            request = _receive_request(connection, time.monotonic() + INTRODUCE_WITHIN_S)
            known = self._let_in(connection, host, request)
            while known and request is not None:
                _, digest, offset_bytes, size_bytes = request
                self._answer(connection, digest, offset_bytes, size_bytes)
                request = _receive_request(connection)
        except (OSError, ValueError, OverflowError) as error:
            if known:
                _log.info("a peer's connection ended: %s", error)
            else:
                self._refusals.note(host, "it did not say in time who it is")
        finally:
            with self._lock:
                self._readers -= known
            self._forget(connection)

    def _forget(self, connection: socket.socket) -> None:
        self._strangers.leave(connection)
        with self._lock:
            del self._connections[connection]
        connection.close()

    def _let_in(self, connection: socket.socket, host: str, request: tuple[str, str, int, int] | None) -> bool:
        if request is None:
            return False
        if not hmac.compare_digest(request[0].encode(), self._secret):
            self._refusals.note(host, "it does not know the secret")
            return False
        self._strangers.leave(connection)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEVAL.pack(_IDLE_S, 0))
        with self._lock:
            if self._readers >= MAX_CONNECTIONS:
                return False
            self._readers += 1
        return True

    def _answer(self, connection: socket.socket, digest: str, offset_bytes: int, size_bytes: int) -> None:
        segment = self._dram.acquire(digest)
        if segment is not None:
            try:
                if offset_bytes + size_bytes > segment.size_bytes:
                    raise ValueError(f"unit {digest} has {segment.size_bytes:,} bytes, more were asked for")
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
    """Units of the node called `node`; which ones it has is for the caller to know.

    A peer that is not there, refuses, is silent for longer than `silence_s` or sends wrong bytes holds nothing for the
    next REST_S seconds of `clock`. With a `pace` it is read no faster.
    """

    def __init__(
        self,
        node: str,
        host: str,
        port: int,
        secret: str,
        silence_s: float = SILENCE_S,
        clock: Callable[[], float] = time.monotonic,
        pace: Pace | None = None,
    ) -> None:
        self.name, self._pace = f"peer {node}", pace
        self._address, self._secret, self._silence_s, self._clock = (host, port), secret, silence_s, clock
        self._lock = threading.Lock()
        self._pool: list[tuple[float, socket.socket]] = []
        self._rests_until_s = float("-inf")
        self._closed = False

    def holds(self, unit: UnitIndex) -> bool:
        return self._clock() >= self._rests_until_s

    def read(self, model: str, unit: UnitIndex, offset_bytes: int, views: Views) -> None:
        with self._pace.held(total_bytes(views)) if self._pace is not None else nullcontext():
            self._read(model, unit, offset_bytes, views)

    def _read(self, model: str, unit: UnitIndex, offset_bytes: int, views: Views) -> None:
        try:
            connection = self._connection()
            try:
                status = self._ask(connection, unit, offset_bytes, views)
            except BaseException:
                connection.close()
                raise
        except OSError as error:
            if exhausted(error):  # ours is what lacks, and no fault of the peer
                raise Faltering(f"{self._where} cannot be asked for unit {unit.name} of {model}: {error}") from error
            self._rest(str(error))
            raise StoreUnavailable(f"{self._where} failed for unit {unit.name} of {model}: {error}") from error
        self._keep(connection)
        if status != _OK:
            raise Missing(f"{self._where} no longer holds unit {unit.name} of {model}")

    def discard(self, unit: UnitIndex) -> None:
        """What it sent is wrong. What it holds is its own to drop."""
        self._rest(f"unit {unit.name} came with wrong bytes")

    def close(self) -> None:
        """Close the connections that wait, and keep none from now on."""
        with self._lock:
            self._closed = True
        self._drain()

    @property
    def _where(self) -> str:
        return f"{self.name} at {self._address[0]}:{self._address[1]}"

    def _ask(self, connection: socket.socket, unit: UnitIndex, offset_bytes: int, views: Views) -> bytes:
        """The answer's first byte; if it is _OK, the views are full."""
        request = msgpack.packb([self._secret, unit.digest, offset_bytes, total_bytes(views)])
        connection.sendall(_LENGTH.pack(len(request)) + request)
        status = bytearray(1)
        self._receive(connection, memoryview(status))
        if status == _OK:
            for view in views:
                self._receive(connection, view)
        return bytes(status)

    def _receive(self, connection: socket.socket, view: memoryview) -> None:
        """Fill the view; TimeoutError if the peer is too slow, however it is slow."""
        done, stride_end, until_s = 0, STRIDE_BYTES, time.monotonic() + self._silence_s
        while done < len(view):
            connection.settimeout(max(until_s - time.monotonic(), 0.001))
            count = connection.recv_into(view[done:])
            if not count:
                raise ConnectionError("it closed the connection")
            done += count
            if done >= stride_end:
                stride_end, until_s = done + STRIDE_BYTES, time.monotonic() + self._silence_s

    def _connection(self) -> socket.socket:
        """One that waits, unless it has waited so long that it may be dead, or a new one."""
        with self._lock:
            pooled_s, connection = self._pool.pop() if self._pool else (0.0, None)
        if connection is not None:
            if self._clock() - pooled_s < _POOLED_S:
                connection.settimeout(self._silence_s)
                return connection
            connection.close()
            self._drain()
        connection = socket.create_connection(self._address, self._silence_s)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def _keep(self, connection: socket.socket) -> None:
        with self._lock:
            if not self._closed:
                self._pool.append((self._clock(), connection))
                return
        connection.close()

    def _rest(self, cause: str) -> None:
        with self._lock:
            awake = self._clock() >= self._rests_until_s
            self._rests_until_s = self._clock() + REST_S
        if awake:
            _log.warning("%s is left alone for %.0f s: %s", self._where, REST_S, cause)
        self._drain()

    def _drain(self) -> None:
        with self._lock:
            pool, self._pool = self._pool, []
        for _, connection in pool:
            connection.close()


def _cut(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _receive_request(connection: socket.socket, until_s: float | None = None) -> tuple[str, str, int, int] | None:
    """The next request, None at the end of the connection; ValueError if it is none, OSError if it is not here `until_s`."""
    head = _receive_exactly(connection, _LENGTH.size, until_s)
    if head is None:
        return None
    (length,) = _LENGTH.unpack(head)
    body = _receive_exactly(connection, length, until_s) if length <= _MAX_REQUEST_BYTES else None
    try:
        match msgpack.unpackb(body) if body is not None else None:
            case [str(secret), str(digest), int(offset_bytes), int(size_bytes)] if min(offset_bytes, size_bytes) >= 0:
                return secret, digest, offset_bytes, size_bytes
    except (ValueError, msgpack.UnpackException):
        pass
    raise ValueError("what it said is no request")


def _receive_exactly(connection: socket.socket, size_bytes: int, until_s: float | None) -> bytes | None:
    """So many bytes, None if the connection ended before."""
    data = bytearray(size_bytes)
    view = memoryview(data)
    while view:
        if until_s is not None:
            left_us = max(int((until_s - time.monotonic()) * 1e6), 1)  # 0 would be no limit
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEVAL.pack(*divmod(left_us, 10**6)))
        count = connection.recv_into(view)
        if not count:
            return None
        view = view[count:]
    return bytes(data)


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
