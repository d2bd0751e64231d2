"""A stage's way to its group's rendezvous, as a store that torch's process groups understand."""

import socket
import ssl
import time
from contextlib import suppress
from datetime import timedelta

from torch.distributed import DistStoreError, Store

from cluster.wire.codec import frame, receive_frame
from cluster.wire.hello import Hello
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

_ANSWERS_WITHIN_S = 30.0
"""Beyond what it was asked to wait."""


class Meeting(Store):
    """The rendezvous at `host`:`port` for whoever may say `hello`. Thread-safe: a call takes a connection of its own, made
    when none is free; they stay until `close`, and with the last one of the group all that was said is gone.

    DistStoreError if it is not there, does not let us in, has no room, or what is waited for does not come.
    """

    def __init__(self, host: str, port: int, hello: Hello, timeout_s: float, tls: ssl.SSLContext | None = None) -> None:
        super().__init__()
        self._address, self._hello, self._timeout_s, self._tls = (host, port), hello, timeout_s, tls
        self._clones: list[Meeting] = []
        self._free: list[socket.socket] = []
        self._free.append(self._connect())

    def close(self) -> None:
        """Give up the connections that are free, of clones too."""
        for clone in self._clones:
            clone.close()
        while self._free:
            self._free.pop().close()

    def clone(self) -> "Meeting":
        clone = Meeting(*self._address, self._hello, self._timeout_s, self._tls)
        self._clones.append(clone)  # torch keeps what it is made of, but not what makes it answer
        return clone

    @property
    def timeout(self) -> timedelta:
        return timedelta(seconds=self._timeout_s)

    def set_timeout(self, timeout: timedelta) -> None:
        self._timeout_s = timeout.total_seconds()

    def set(self, key: str, value: str | bytes) -> None:
        self._number(StoreSet(key, _bytes(value)))

    def get(self, key: str) -> bytes:
        (value,) = self._values([key], self._timeout_s)
        return value

    def wait(self, keys: list[str], timeout: timedelta | None = None) -> None:
        self._values(keys, self._timeout_s if timeout is None else timeout.total_seconds())

    def check(self, keys: list[str]) -> bool:
        return bool(self._number(StoreLook(tuple(keys))))

    def add(self, key: str, amount: int) -> int:
        return self._number(StoreAdd(key, amount))

    def compare_set(self, key: str, expected: str | bytes, desired: str | bytes) -> bytes:
        answer = self._ask(StoreSwap(key, _bytes(expected), _bytes(desired)))
        assert isinstance(answer, StoreValues)
        return answer.values[0]

    def delete_key(self, key: str) -> bool:
        return bool(self._number(StoreDelete(key)))

    def num_keys(self) -> int:
        return self._number(StoreCount())

    def has_extended_api(self) -> bool:
        return False

    def _number(self, request: object) -> int:
        answer = self._ask(request)
        assert isinstance(answer, StoreNumber)
        return answer.number

    def _values(self, keys: list[str], timeout_s: float) -> tuple[bytes, ...]:
        until_s = time.monotonic() + timeout_s
        while True:
            left_s = until_s - time.monotonic()
            answer = self._ask(StoreWait(tuple(keys), min(max(left_s, 0.0), LONGEST_WAIT_S)))
            assert isinstance(answer, StoreValues)
            if len(answer.values) == len(keys):
                return answer.values
            if left_s <= 0:
                raise DistStoreError(f"{self._where}: {len(keys)} keys are not all there after {timeout_s:.1f} s")

    def _ask(self, request: object) -> object:
        try:
            try:
                connection = self._free.pop()
            except IndexError:
                connection = self._connect()
            try:
                connection.sendall(frame(request))
                answer = receive_frame(connection)
            except BaseException:
                connection.close()
                raise
        except OSError as error:
            raise DistStoreError(f"{self._where} does not answer: {error}") from error
        self._free.append(connection)
        if isinstance(answer, StoreFault):
            raise DistStoreError(f"{self._where}: {answer.message}")
        return answer

    @property
    def _where(self) -> str:
        return f"the rendezvous of group {self._hello.group} at {self._address[0]}:{self._address[1]}"

    def _connect(self) -> socket.socket:
        try:
            connection = socket.create_connection(self._address, min(self._timeout_s, _ANSWERS_WITHIN_S))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection)
            connection.settimeout(_ANSWERS_WITHIN_S)
            connection.sendall(frame(self._hello))
        except OSError as error:
            with suppress(UnboundLocalError):
                connection.close()
            raise DistStoreError(f"{self._where} does not answer: {error}") from error
        return connection


def _bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else bytes(value)
