"""Prefect's server as `prefect server start` runs it, but for its own pages only: its API runs commands for whoever asks. And
its pages ask no other server: they would report to its makers who looks at them.

Prefect reads the environment when it is imported, so that must be set before this module is.
"""

from collections.abc import Sequence
from urllib.parse import urlsplit

import uvicorn
from prefect.server.api.server import create_app
from prefect.settings import get_current_settings
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.origins import OwnPagesOnly


def serve_prefect(host: str, port: int, allowed_hosts: Sequence[str]) -> None:
    """Serve until SIGTERM or SIGINT. SystemExit if it cannot listen there."""
    server = get_current_settings().server
    pages = AskNobodyElse(create_app(final=True), server.ui.api_url)
    uvicorn.run(
        OwnPagesOnly(pages, host, allowed_hosts, "prefect.allowed_hosts"),
        host=host,
        port=port,
        timeout_keep_alive=server.api.keepalive_timeout,
        ws_ping_interval=server.api.websocket_ping_interval,
        ws_ping_timeout=server.api.websocket_ping_timeout,
        log_level=server.logging_level.lower(),
    )


class AskNobodyElse:
    """The ASGI application `app`, whose pages a browser lets ask their own server alone, and that of `api_url`."""

    def __init__(self, app: ASGIApp, api_url: str | None) -> None:
        self._app = app
        asked = ["'self'", *_sources(api_url or "")]
        self._policy = f"connect-src {' '.join(asked)}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if headers.get("content-type", "").startswith("text/html"):
                    headers.append("content-security-policy", self._policy)
            await send(message)

        await self._app(scope, receive, with_policy if scope["type"] == "http" else send)


def _sources(url: str) -> list[str]:
    """The server of a URL, as it is asked over HTTP and by websockets."""
    parts = urlsplit(url)
    if not parts.netloc:
        return []
    return [f"{parts.scheme}://{parts.netloc}", f"{parts.scheme.replace('http', 'ws', 1)}://{parts.netloc}"]
