"""Failures that pass by themselves: of a store that is overloaded, a network, a machine that has run out of something."""

import errno
import http.client
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

EXHAUSTED = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN, errno.EINTR))
"""This machine, or this process, has no more of it for now: descriptors, memory. It says nothing of what was asked for."""
_NETWORK = frozenset(
    (
        errno.EPIPE, errno.ECONNRESET, errno.ECONNABORTED, errno.ECONNREFUSED, errno.ETIMEDOUT, errno.EHOSTUNREACH,
        errno.EHOSTDOWN, errno.ENETUNREACH, errno.ENETDOWN, errno.ENETRESET, errno.EBUSY, errno.ESTALE, errno.EREMOTEIO,
    )
)  # fmt: skip
_STATUSES = frozenset(
    (
        HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.INTERNAL_SERVER_ERROR,
        HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT,
    )
)  # fmt: skip
_CLIENTS = ("aiohttp", "botocore", "aiobotocore", "httpx", "urllib3", "requests")
_WORDS, _LASTING = (
    ("Connect", "Timeout", "Disconnected", "Payload", "HTTPClient", "IncompleteRead"),
    ("Certificate", "DNS"),
)
"""Clients below fsspec name what happens to connections each in its own way, and share no class."""


class TryLater(OSError):
    """A store will have the same request later, after `after_s` seconds if it said so."""

    def __init__(self, message: str, after_s: float = 0.0) -> None:
        super().__init__(message)
        self.after_s = after_s


def exhausted(error: BaseException) -> bool:
    """Whether this machine has run out of something, so that nothing is known of what was asked for."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in EXHAUSTED)


def passes(error: BaseException) -> bool:
    """Whether the same may work later, as far as `error`, or what it was raised from, tells."""
    return any(_passes(each) for each in _chain(error))


def asked_s(error: BaseException) -> float:
    """For how long the store asked to be left alone, as far as `error`, or what it was raised from, tells; else 0."""
    return max(_asked_s(each) for each in _chain(error))


def is_passing(status: int) -> bool:
    """Whether an HTTP status is that of a server that has trouble, or enough to do."""
    return status in _STATUSES


def retry_after_s(text: str | None) -> float:
    """Seconds that a Retry-After header asks for: a number of them or a date; 0 for what is neither."""
    try:
        if text is None or text.strip().isdecimal():
            return float(int(text or 0))
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__


def _passes(error: BaseException) -> bool:
    if isinstance(error, TryLater | TimeoutError | ConnectionError | http.client.HTTPException) or exhausted(error):
        return True
    if isinstance(error, ssl.SSLError):
        return isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError)
    if isinstance(error, socket.gaierror):
        return error.errno == socket.EAI_AGAIN
    status = _status(error)
    if status is not None:
        return is_passing(status)
    return _of_connection(type(error)) or (isinstance(error, OSError) and error.errno in _NETWORK)


def _of_connection(kind: type[BaseException]) -> bool:
    """Whether a client's own error says that a connection broke, or was not made in time."""
    if kind.__module__.partition(".")[0] not in _CLIENTS or any(word in kind.__name__ for word in _LASTING):
        return False
    return any(word in kind.__name__ for word in _WORDS)


def _asked_s(error: BaseException) -> float:
    if isinstance(error, TryLater):
        return error.after_s
    headers = getattr(error, "headers", None) or _response(error).get("HTTPHeaders")
    if not isinstance(headers, Mapping):
        return 0.0
    return retry_after_s(headers.get("retry-after") or headers.get("Retry-After"))


def _status(error: BaseException) -> int | None:
    """The HTTP status that a client's error names."""
    named = _response(error).get("HTTPStatusCode"), getattr(error, "status", None), getattr(error, "status_code", None)
    return next((status for status in named if isinstance(status, int) and status), None)


def _response(error: BaseException) -> Mapping[str, Any]:
    """What botocore keeps of an answer."""
    response = getattr(error, "response", None)
    found = response.get("ResponseMetadata") if isinstance(response, Mapping) else None
    return found if isinstance(found, Mapping) else {}
