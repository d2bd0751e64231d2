"""Prefect's server as `prefect server start` runs it, but for its own pages only: its API runs commands for whoever asks.

Prefect reads the environment when it is imported, so that must be set before this module is.
"""

from collections.abc import Sequence

import uvicorn
from prefect.server.api.server import create_app
from prefect.settings import get_current_settings

from serving.origins import OwnPagesOnly


def serve_prefect(host: str, port: int, allowed_hosts: Sequence[str]) -> None:
    """Serve until SIGTERM or SIGINT. SystemExit if it cannot listen there."""
    server = get_current_settings().server
    uvicorn.run(
        OwnPagesOnly(create_app(final=True), host, allowed_hosts, "prefect.allowed_hosts"),
        host=host,
        port=port,
        timeout_keep_alive=server.api.keepalive_timeout,
        ws_ping_interval=server.api.websocket_ping_interval,
        ws_ping_timeout=server.api.websocket_ping_timeout,
        log_level=server.logging_level.lower(),
    )
