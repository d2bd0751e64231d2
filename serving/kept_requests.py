"""The route that tells what was asked, as the history has it: for whoever plans by it."""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Annotated

from fastapi import APIRouter, Query, Response
from fastapi.responses import StreamingResponse

from serving.errors import HistoryError, Unavailable
from serving.happened import asked
from serving.history import History
from serving.history_tables import Arrival

_LATEST_S = 1e11
UnixS = Annotated[float, Query(ge=0, le=_LATEST_S)]


class KeptRequests:
    """See the module. Without a history there is nothing to tell."""

    def __init__(self, history: History | None) -> None:
        self._history = history
        self.routes = APIRouter()
        self.routes.add_api_route(
            "/admin/requests", self.requests, methods=["GET"], summary="Requests that were kept, a line of JSON each"
        )

    async def requests(self, since: UnixS, until: UnixS) -> Response:
        """Those that came from `since` to before `until`, oldest first. Unavailable if the database does not answer."""
        if self._history is None:
            raise Unavailable("no history is kept", retry_after_s=60)
        batches = self._history.arrivals(since, until)
        try:
            first = await anext(batches, None)
        except HistoryError as error:
            raise Unavailable(str(error), retry_after_s=5) from error
        return StreamingResponse(_lines(first, batches), media_type="application/jsonl")


async def _lines(first: Sequence[Arrival] | None, batches: AsyncGenerator[Sequence[Arrival]]) -> AsyncIterator[str]:
    """At last how many they were: what ends without that is not all."""
    told, batch = 0, first
    while batch:
        yield "".join(json.dumps(asked(arrival)._asdict()) + "\n" for arrival in batch)
        told += len(batch)
        batch = await anext(batches, None)
    yield json.dumps({"requests": told}) + "\n"
