"""The routes that tell what was asked, as the history has it: for whoever plans by it."""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Annotated

from fastapi import APIRouter, Query, Response
from fastapi.responses import StreamingResponse

from serving.errors import BadRequest, HistoryError, Unavailable
from serving.history.happened import asked
from serving.history.history import History
from serving.history.minutes import Minutes, begin_of
from serving.history.tables import Arrival

_LATEST_S = 1e11
UnixS = Annotated[float, Query(ge=0, le=_LATEST_S)]


class KeptRequests:
    """See the module. Without a history there is nothing to tell."""

    def __init__(self, history: History | None) -> None:
        self._history = history
        self.routes = APIRouter()
        add = self.routes.add_api_route
        add("/admin/requests", self.requests, methods=["GET"], summary="Requests that were kept, a line of JSON each")
        add("/admin/minutes", self.minutes, methods=["GET"], summary="How much came for each model in which minute")

    async def requests(self, since: UnixS, until: UnixS) -> Response:
        """Those that came from `since` to before `until`, oldest first. Unavailable if the database does not answer."""
        batches = self._there().arrivals(since, until)
        try:
            first = await anext(batches, None)
        except HistoryError as error:
            raise Unavailable(str(error), retry_after_s=5) from error
        return StreamingResponse(_lines(first, batches), media_type="application/jsonl")

    async def minutes(
        self, since: UnixS, until: UnixS, model: Annotated[list[str] | None, Query(max_length=256)] = None
    ) -> Response:
        """What came from the minute of `since` to `until`, of some models or of all. Unavailable as above."""
        if until < since:
            raise BadRequest("until: it is before since", "until")
        batches = self._there().minutes(since, until, model or ())
        try:
            first = await anext(batches, None)
        except HistoryError as error:
            raise Unavailable(str(error), retry_after_s=5) from error
        return StreamingResponse(_minutes(since, until, first, batches), media_type="application/json")

    def _there(self) -> History:
        if self._history is None:
            raise Unavailable("no history is kept", retry_after_s=60)
        return self._history


async def _lines(first: Sequence[Arrival] | None, batches: AsyncGenerator[Sequence[Arrival]]) -> AsyncIterator[str]:
    """At last how many they were: what ends without that is not all."""
    told, batch = 0, first
    while batch:
        yield "".join(json.dumps(asked(arrival)._asdict()) + "\n" for arrival in batch)
        told += len(batch)
        batch = await anext(batches, None)
    yield json.dumps({"requests": told}) + "\n"


async def _minutes(
    since_s: float, until_s: float, first: Sequence[Minutes] | None, batches: AsyncGenerator[Sequence[Minutes]]
) -> AsyncIterator[str]:
    """One object of JSON. The database has made its longest parts, which nobody here looks at."""
    separator, batch = "", first
    yield f'{{"begin": {begin_of(since_s)}, "until": {json.dumps(until_s)}, "models": {{'
    while batch is not None:
        if batch:  # of the models that were asked for some may have had nothing
            yield separator + ", ".join(map(_model, batch))
            separator = ", "
        batch = await anext(batches, None)
    yield "}}"


def _model(told: Minutes) -> str:
    known = {
        "last": told.last_s, "arrived": told.arrived, "refused": told.refused, "failed": told.failed,
        "cold": told.cold, "answered": told.answered, "ttft_s": told.ttft_s, "ttft_most_s": told.ttft_most_s,
    }  # fmt: skip
    return f'{json.dumps(told.model)}: {{"minutes": [{told.counts}], {json.dumps(known)[1:]}'
