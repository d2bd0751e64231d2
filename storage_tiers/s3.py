"""Ranges of S3 objects, straight from the socket into the memory they are wanted in.

botocore knows endpoints, credentials and signatures; all that it is asked for is the signed address of an object. What
its own client, s3fs and others read goes through buffers of theirs, which costs a third of a fast link.
"""

import contextlib
import http.client
import re
import ssl
import time
import weakref
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies, proxy_bypass

import botocore.session
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import BotoCoreError, NoCredentialsError, PartialCredentialsError

from storage_tiers.passing import TryLater, is_passing, retry_after_s

CONNECT_S, REQUEST_S = 5.0, 60.0
SILENCE_S = 10.0
"""A server that sends nothing for so long is given up on; one that is slow may take REQUEST_S."""
_SIGNED_S, _USED_S = 3600, 600.0
"""An address is signed for the one time and used for the other: it also ends with the credentials that signed it."""
_PIECE_BYTES = 1 << 20
_SAID_BYTES = 4096
_KEPT_S = 20.0
"""A connection that was idle for longer is not used again."""
_FRESH_S, DOUBT_S = 1.0, 1.0
"""One that was idle for longer than the one may be dead without saying so, as its other end or a NAT on the way has
forgotten it: it has the other time to begin its answer before the same is asked over a new one."""
_KEPT_ADDRESSES = 4096
_BUSY = ("SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "OperationAborted", "Throttling")
"""What S3 and its likes call trouble that passes, whatever the status."""
_ENDED = ("ExpiredToken", "InvalidToken", "RequestExpired")
_ELSEWHERE = (HTTPStatus.MOVED_PERMANENTLY, HTTPStatus.TEMPORARY_REDIRECT, HTTPStatus.BAD_REQUEST)
_STALE = (
    http.client.RemoteDisconnected, http.client.BadStatusLine, ConnectionResetError, BrokenPipeError, ssl.SSLEOFError,
)  # fmt: skip


@dataclass(frozen=True)
class _Address:
    """Where an object is asked for, and since when (monotonic seconds) that is known."""

    url: SplitResult
    made_s: float

    @property
    def target(self) -> str:
        return f"{self.url.path}?{self.url.query}" if self.url.query else self.url.path


class S3Ranges:
    """A RangeReader of one bucket, with the options that s3fs takes. Connections are kept; thread-safe.

    What botocore must read to sign (0.1 s) is read here, not by the first range. ValueError if the options make no sense.
    """

    def __init__(self, bucket: str, options: Mapping[str, Any]) -> None:
        self._bucket, self._options = bucket, dict(options)
        try:
            self._client = _open_client(self._options)
        except BotoCoreError as error:
            raise ValueError(str(error)) from error
        self._addresses: dict[str, _Address] = {}
        self._trust: ssl.SSLContext | None = None
        self._idle: deque[tuple[http.client.HTTPConnection, float]] = deque()
        weakref.finalize(self, _close_all, self._idle)

    def __call__(self, path: str, offset_bytes: int, view: memoryview) -> int:
        key = path.split("/", 1)[1]
        address = self._address(key)
        try:
            return self._get(address, path, offset_bytes, view)
        except PermissionError:
            fresh = self._address(key, since_s=time.monotonic() - 1.0)
            if fresh is address:
                raise
            return self._get(fresh, path, offset_bytes, view)
        except http.client.HTTPException as error:
            raise OSError(f"{type(error).__name__}: {error}") from error

    def _address(self, key: str, since_s: float | None = None) -> _Address:
        """The signed address of an object, made after `since_s`. PermissionError if there are no credentials."""
        since_s = time.monotonic() - _USED_S if since_s is None else since_s
        known = self._addresses.get(key)
        if known is not None and known.made_s > since_s:
            return known
        try:
            wanted = {"Bucket": self._bucket, "Key": key}
            url = self._client.generate_presigned_url("get_object", wanted, _SIGNED_S)
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise PermissionError(f"{error}; set store.options.key and .secret, or .anon") from error
        except BotoCoreError as error:
            raise OSError(str(error)) from error
        if len(self._addresses) >= _KEPT_ADDRESSES:
            self._addresses.clear()
        found = self._addresses[key] = _Address(urlsplit(url), time.monotonic())
        return found

    def _get(self, address: _Address, path: str, offset_bytes: int, view: memoryview) -> int:
        deadline_s = time.monotonic() + REQUEST_S
        asked = {"Range": f"bytes={offset_bytes}-{offset_bytes + len(view) - 1}"}
        with contextlib.ExitStack() as stack:
            connection, response = self._ask(address, asked)
            stack.callback(connection.close)
            stack.callback(response.close)
            length = response.length
            got = _fill(response, path, offset_bytes, view, deadline_s)
            if got == length and not response.will_close:
                stack.pop_all()
                response.close()
                self._idle.append((connection, time.monotonic()))
        return got

    def _ask(
        self, address: _Address, headers: Mapping[str, str]
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """Ask over a connection that is idle, or a new one. What died while it was idle is given up for another."""
        while True:
            try:
                connection, since_s = self._idle.pop()
            except IndexError:
                connection, idle_s = self._connect(address.url), None
            else:
                idle_s = time.monotonic() - since_s
                if idle_s > _KEPT_S:
                    connection.close()
                    continue
            doubtful = idle_s is not None and idle_s > _FRESH_S
            try:
                return connection, _answer(connection, address.target, headers, DOUBT_S if doubtful else SILENCE_S)
            except _STALE:
                connection.close()
                if idle_s is None:
                    raise
            except TimeoutError:
                connection.close()
                if not doubtful:
                    raise
                _close_all(self._idle)  # idle for longer, or on the same way
            except BaseException:
                connection.close()
                raise

    def _connect(self, url: SplitResult) -> http.client.HTTPConnection:
        host = url.hostname or ""
        connection: http.client.HTTPConnection
        if url.scheme == "https":
            if self._trust is None:
                self._trust = _trust((self._options.get("client_kwargs") or {}).get("verify"))
            connection = http.client.HTTPSConnection(host, url.port, timeout=CONNECT_S, context=self._trust)
        else:
            connection = http.client.HTTPConnection(host, url.port, timeout=CONNECT_S)
        if behind_proxy(url):
            raise OSError(f"{host} is behind a proxy: set store.reader to 'auto' or 'fsspec'")
        connection.connect()
        return connection


def behind_proxy(url: SplitResult) -> bool:
    """Whether the environment names a proxy for this address."""
    return url.scheme in getproxies() and not proxy_bypass(url.hostname or "")


def _answer(
    connection: http.client.HTTPConnection, target: str, headers: Mapping[str, str], begins_s: float
) -> http.client.HTTPResponse:
    """The beginning of an answer that comes within `begins_s`; the rest may pause for SILENCE_S. Else TimeoutError."""
    sock = connection.sock
    sock.settimeout(begins_s)
    connection.request("GET", target, headers=dict(headers))
    response = connection.getresponse()
    sock.settimeout(SILENCE_S)
    return response


def _close_all(connections: deque[tuple[http.client.HTTPConnection, float]]) -> None:
    with contextlib.suppress(IndexError):  # others take from it meanwhile
        while True:
            connections.pop()[0].close()


def _open_client(options: Mapping[str, Any]) -> Any:
    """By path: otherwise botocore signs addresses of AWS's one global host, which serves not all regions."""
    given = {"endpoint_url": options.get("endpoint_url"), **(options.get("client_kwargs") or {})}
    return botocore.session.get_session().create_client(
        "s3",
        aws_access_key_id=options.get("key"),
        aws_secret_access_key=options.get("secret"),
        aws_session_token=options.get("token"),
        config=Config(signature_version=UNSIGNED if options.get("anon") else "s3v4", s3={"addressing_style": "path"}),
        **{name: value for name, value in given.items() if value is not None},
    )


def _trust(verify: bool | str | None) -> ssl.SSLContext:
    """A file of certificates to trust, or False for no check at all; else what the system trusts."""
    context = ssl.create_default_context(cafile=verify if isinstance(verify, str) else None)
    if verify is False:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _fill(response: http.client.HTTPResponse, path: str, offset_bytes: int, view: memoryview, deadline_s: float) -> int:
    """Read the answer into `view`: how many bytes of the object there were."""
    whole = response.status == HTTPStatus.OK and offset_bytes == 0
    if response.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        return 0
    if response.status != HTTPStatus.PARTIAL_CONTENT and not whole:
        raise _refusal(response, path)
    wanted = len(view) if response.length is None else min(len(view), response.length)
    got = 0
    while got < wanted:
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"{path}: {got} of {wanted} bytes in {REQUEST_S:g} s")
        count = _read_some(response, view[got : min(got + _PIECE_BYTES, wanted)])
        if not count:
            raise ConnectionError(f"{path}: the connection ended after {got} of {wanted} bytes")
        got += count
    return got


def _read_some(response: http.client.HTTPResponse, view: memoryview) -> int:
    """What has come, at once: `readinto` would wait until the view is full, however slowly that comes."""
    if response.length is None:  # in chunks, or until the connection ends
        return response.readinto(view)
    return int(response.fp.readinto1(view)) if response.fp is not None else 0


def _refusal(response: http.client.HTTPResponse, path: str) -> OSError:
    """Why there are no bytes, in the words of the store."""
    said = response.read(_SAID_BYTES).decode(errors="replace")
    words = re.findall(r"<(?:Code|Message)>([^<]+)<", said)
    text = f"{path}: {response.status} {': '.join(words) or response.reason}"
    region = response.getheader("x-amz-bucket-region")
    if response.status == HTTPStatus.NOT_FOUND:
        return FileNotFoundError(text)
    if words and words[0] in _ENDED:
        return PermissionError(text)
    if region and response.status in _ELSEWHERE:
        return OSError(f"{text}; the bucket is in {region}: set store.options.client_kwargs.region_name")
    if response.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return PermissionError(text)
    if is_passing(response.status) or (words and words[0].startswith(_BUSY)):
        return TryLater(text, retry_after_s(response.getheader("Retry-After")))
    return OSError(text)
