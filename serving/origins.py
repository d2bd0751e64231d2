"""Which web pages may ask an HTTP server: its own. A browser sends a foreign page's requests too, and asks nobody before the
simple ones; who asks without a browser is not held up by any of this."""

import ipaddress
import logging
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.errors import ForeignPage, error_body
from storage_tiers.strangers import Refusals

_log = logging.getLogger(__name__)
ANY_ORIGIN = "*"


def is_loopback(host: str) -> bool:
    """Whether a server that listens on `host`, an address or a name, is reached from this machine alone."""
    address = _address(host)
    return address.is_loopback if address is not None else host == "localhost"


class OwnPagesOnly:
    """The ASGI application `app`, for requests that no foreign page has sent.

    Refused are an Origin that is neither the server's nor among `allowed_origins` ("*": any), and names that are not the
    server's: a page can have its own name lead to our address, and its requests are to the same origin then. Addresses are
    nobody's name. A server on loopback is called localhost, and as `allowed_hosts` says; one that others reach goes by any
    name unless they say which.
    """

    def __init__(
        self, app: ASGIApp, host: str, allowed_hosts: Sequence[str], setting: str, allowed_origins: Sequence[str] = ()
    ) -> None:
        self._app, self._setting = app, setting
        self._names = {name.lower() for name in (host, "localhost", *allowed_hosts)}
        self._allowed = {name.lower() for name in allowed_hosts}
        self._any_name = not is_loopback(host) and not allowed_hosts
        self._origins = frozenset(allowed_origins)
        self._refusals = Refusals(_log, "HTTP")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        fault = self._fault(Headers(scope=scope)) if scope["type"] in ("http", "websocket") else None
        if fault is None:
            await self._app(scope, receive, send)
            return
        self._refusals.note((scope.get("client") or ("an unknown address",))[0], fault)
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        error = ForeignPage(f"{fault}; {self._setting} can allow it")
        await JSONResponse(error_body(error), status_code=error.status)(scope, receive, send)

    def _fault(self, headers: Headers) -> str | None:
        called, origin = headers.get("host"), headers.get("origin")
        host = None if called is None else _split(f"//{called}")
        if called is not None and not (host and (self._any_name or host[0] in self._names or _address(host[0]))):
            return "it was not called by a name of its own"
        if origin is None or origin in self._origins or ANY_ORIGIN in self._origins:
            return None
        page = _split(origin)
        if page is None:
            return "the page that asks has no name"
        if page == host or page[0] in self._allowed:
            return None
        if host and is_loopback(page[0]) and is_loopback(host[0]) and page[1] == host[1]:
            return None
        return "another site's page asks"


def _split(url: str) -> tuple[str, int | None] | None:
    """Host name and port of a URL as they stand there; None if there is no name, or what stands there is no URL."""
    try:
        parts = urlsplit(url)
        return (parts.hostname, parts.port) if parts.hostname else None
    except ValueError:
        return None


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
