"""The Dask scheduler, in this process."""

import asyncio
import errno
import importlib
import logging
import signal
from typing import TYPE_CHECKING, Any

from cluster.wire.encryption import Tls, security

_PAGES = ("scheduler.prometheus", "scheduler.info", "scheduler.json", "health", "statics")
"""Of what Dask's HTTP server has: what only shows. Its proxy, which asks others for whoever comes, is left out."""
_DRAWN = r"/[\w-]*"
"""The paths at which Dask's dashboard draws."""

if TYPE_CHECKING:
    from distributed import Scheduler


def run_scheduler(host: str, port: int, dashboard_port: int, tls: Tls | None = None) -> None:
    """Be the cluster's scheduler until SIGTERM or SIGINT. OSError if a port is taken, BadCertificate if `tls` will not do."""
    asyncio.run(_run(host, port, dashboard_port, tls))


def without_contents(record: logging.LogRecord) -> bool:
    """A filter of the scheduler's log: what could not be sent to a client that has gone is left out, since reports carry
    their nodes' secrets."""
    if str(record.msg).startswith("Closed comm") and record.args:
        record.msg, record.args, record.exc_info = "a client has gone", (), None
        record.levelno, record.levelname = logging.INFO, logging.getLevelName(logging.INFO)
    return True


def own_pages(host: str, dashboard_port: int) -> dict[str, object]:
    """Dask's settings for an HTTP server that shows things, to no other site's pages."""
    import dask

    origins = "distributed.scheduler.dashboard.bokeh-application.allow_websocket_origin"
    chosen = [origin for origin in dask.config.get(origins) if origin != "*"]
    own = [f"{name}:{dashboard_port}" for name in dict.fromkeys((host, "localhost", "127.0.0.1"))]
    return {
        "distributed.scheduler.http.routes": [f"distributed.http.{page}" for page in _PAGES],
        origins: chosen or own,
    }


def draw_when_asked(scheduler: "Scheduler") -> None:
    """Let the first who asks for a page of the dashboard wait until it is there. What it is drawn with takes longer to
    import than the scheduler takes to listen, and half as much memory again, on each platform that nobody looks at."""
    from tornado import web

    class FirstVisit(web.RequestHandler):
        async def get(self) -> None:
            dashboard: Any = await asyncio.to_thread(importlib.import_module, "distributed.dashboard.scheduler")
            if waiting in scheduler.http_application.applications:
                scheduler.http_application.applications.remove(waiting)
                dashboard.connect(scheduler.http_application, scheduler.http_server, scheduler, prefix=None)
            self.redirect(self.request.path)

    waiting = web.Application([(_DRAWN, FirstVisit)])
    scheduler.http_application.add_application(waiting)


async def _run(host: str, port: int, dashboard_port: int, tls: Tls | None) -> None:
    import dask
    from distributed import Scheduler

    dask.config.set({
        "distributed.worker.profile.enabled": False,  # it would look at the stack a hundred times a second
        **own_pages(host, dashboard_port),
    })  # fmt: skip
    logging.getLogger("distributed.scheduler").addFilter(without_contents)
    stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    address = f"{host}:{dashboard_port}"
    protocol = "tcp" if tls is None else "tls"
    async with Scheduler(
        host=host, port=port, protocol=protocol, security=security(tls), dashboard=False, dashboard_address=address
    ) as scheduler:
        if dashboard_port not in (0, scheduler.http_server.port):  # it takes another one, which nobody is told of
            raise OSError(errno.EADDRINUSE, f"port {dashboard_port}, of the dashboard, is in use")
        draw_when_asked(scheduler)
        await stop.wait()
