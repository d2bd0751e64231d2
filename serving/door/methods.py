"""What HTTP asks of every path: HEAD where there is GET, and OPTIONS, which says what there is."""

from collections.abc import Iterable
from contextlib import suppress

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_ASKED = ("GET", "HEAD", "POST")


class Methods:
    """The ASGI application `app`, whose paths `routes` has."""

    def __init__(self, app: ASGIApp, routes: Iterable[BaseRoute]) -> None:
        self._app, self._routes = app, routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in ("HEAD", "OPTIONS"):
            await self._app(scope, receive, send)
        elif scope["method"] == "HEAD":
            await _head(self._app, {**scope, "method": "GET"}, receive, send)
        elif allowed := [method for method in _ASKED if self._takes(scope, method)]:
            headers = {"Allow": ", ".join([*allowed, "OPTIONS"])}
            await Response(status_code=204, headers=headers)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _takes(self, scope: Scope, method: str) -> bool:
        asked = {**scope, "method": "GET" if method == "HEAD" else method}
        return any(route.matches(asked)[0] is Match.FULL for route in self._routes)


async def _head(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """What `app` answers, without a body. A stream, which may have no end, is not begun: its client has left, as it seems."""

    async def sending(message: Message) -> None:
        await send({**message, "body": b""} if message["type"] == "http.response.body" else message)
        if message["type"] == "http.response.start" and "content-length" not in Headers(raw=message["headers"]):
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            raise ClientDisconnect

    with suppress(ClientDisconnect):
        await app(scope, receive, sending)
