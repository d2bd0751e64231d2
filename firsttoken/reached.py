"""The cluster and the front end as commands reach them."""

import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from cluster.errors import ClusterUnreachable
from firsttoken.components import tls_of
from firsttoken.errors import NotUp
from firsttoken.frontend import Frontend
from firsttoken.home import away, frontend_url
from firsttoken.settings import Settings

if TYPE_CHECKING:
    from cluster.client import ClusterClient


@contextlib.asynccontextmanager
async def cluster_of(settings: Settings) -> "AsyncIterator[ClusterClient]":
    """The cluster that the settings name. NotUp if no scheduler answers there."""
    from cluster.client import ClusterClient  # only here, for it takes long to import

    try:
        async with ClusterClient(settings.scheduler_address, tls_of(settings)) as client:
            yield client
    except ClusterUnreachable as error:
        raise NotUp(f"{error}; start one with `firsttoken up`") from error


@contextlib.asynccontextmanager
async def frontend_of(settings: Settings, request_timeout_s: float, key: str = "") -> AsyncIterator[Frontend]:
    """The front end of the platform that runs in this home, else the one in the settings. NotUp if it does not answer."""
    async with Frontend(frontend_url(settings), request_timeout_s, key) as frontend:
        try:
            yield frontend
        except NotUp as error:
            raise NotUp(away(settings)) from error
