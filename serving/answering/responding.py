"""Requests for answers as HTTP has them: what is refused with its status, when headers leave, and what they say."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from serving.answering.answerer import Answerer, broken, timed_out
from serving.answering.ask import Ask, ask, request_id
from serving.answering.deltas import Given
from serving.answering.heartbeats import HEARTBEAT_S
from serving.answering.kinds import SHAPES
from serving.answering.telling import DEGREE, comment, headers, now_s, told
from serving.door.bodies import CLIENT_LEFT
from serving.door.leaving import ClosedStream, unless_left
from serving.door.patience import patience_s
from serving.door.refused import note_refused
from serving.errors import Overloaded, RequestError, Unavailable
from serving.requests.preparing import Prepared
from serving.requests.schemas import GenerationRequest
from serving.router import Router
from serving.tickets import Ticket

HEADERS_WITHIN_S = 1.0
"""A stream's headers wait so long for what may be wrong with the request, which has a status until then."""
_STREAMED = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


@dataclass(frozen=True)
class _Call:
    """A request on its way to being an Ask; `deadline_s` is when nobody waits for its first token any more."""

    id: str
    kind: str
    body: GenerationRequest
    arrived_s: float
    deadline_s: float
    echoed: Mapping[str, Any]


class Responder:
    """Answers requests whose bodies are validated. `on_end` hears of those that were refused when they were admitted, as the
    answerer's does of all others."""

    def __init__(
        self,
        router: Router,
        answerer: Answerer,
        request_timeout_s: float,
        on_end: Callable[[Ask, str, Given], object],
        headers_within_s: float = HEADERS_WITHIN_S,
    ) -> None:
        self._router, self._answerer, self._on_end = router, answerer, on_end
        self._request_timeout_s, self._headers_within_s = request_timeout_s, headers_within_s

    async def respond(
        self,
        kind: str,
        preparing: Coroutine[Any, Any, Prepared],
        body: GenerationRequest,
        request: Request,
        arrived_s: float,
        echoed: Mapping[str, Any] | None = None,
    ) -> Response:
        """The answer. What is known to be wrong before its headers leave is raised; a stream's later errors are its last
        event."""
        name = request.state.request_id = request_id(kind)
        try:
            deadline_s = arrived_s + patience_s(request, self._request_timeout_s, stream=body.stream)
        except RequestError:
            preparing.close()
            raise
        call = _Call(name, kind, body, arrived_s, deadline_s, echoed or {})
        task = asyncio.ensure_future(self._prepared(preparing))
        task.add_done_callback(_noted)
        try:
            within_s = self._headers_within_s if body.stream else None
            here = await unless_left(asyncio.wait({task}, timeout=within_s), request)
        except BaseException:
            task.cancel()
            raise
        if here is None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return Response(status_code=CLIENT_LEFT)
        if not task.done():
            outlook = self._router.outlook_for(body.model, arrived_s)
            return self._stream(self._later(call, task), headers(name, outlook, arrived_s), task.cancel)
        asked, tickets = self._admitted(call, task.result())
        told_first = headers(name, self._router.outlook(tickets[0].name), arrived_s)
        if body.stream:
            return self._stream(self._answerer.events(asked, tickets), told_first, lambda: _close(tickets))
        try:
            answer = await unless_left(self._answerer.whole(asked, tickets), request)
        finally:
            _close(tickets)
        if answer is None:
            return Response(status_code=CLIENT_LEFT)
        if tickets[0].degree:
            told_first[DEGREE] = str(tickets[0].degree)
        return JSONResponse(answer, headers=told_first)

    async def _prepared(self, preparing: Coroutine[Any, Any, Prepared]) -> Prepared:
        try:
            async with asyncio.timeout(self._request_timeout_s) as deadline:
                return await preparing
        except TimeoutError as error:
            if not deadline.expired():
                raise
            raise timed_out(self._request_timeout_s) from error

    def _admitted(self, call: _Call, prepared: Prepared) -> tuple[Ask, list[Ticket]]:
        asked = ask(call.id, call.kind, prepared, call.body, call.arrived_s, call.deadline_s, call.echoed)
        try:
            return asked, self._router.admit(prepared.model, asked.submits, call.arrived_s, call.deadline_s)
        except (Overloaded, Unavailable):
            self._on_end(asked, "refused", Given())
            raise

    def _stream(
        self, events: AsyncGenerator[bytes], told_first: dict[str, str], over: Callable[[], object]
    ) -> ClosedStream:
        return ClosedStream(events, "text/event-stream", _STREAMED | told_first, over)

    async def _later(self, call: _Call, task: "asyncio.Task[Prepared]") -> AsyncGenerator[bytes]:
        """The events of a stream that is still being prepared: comments, then those of its answer, or of what is wrong."""
        name, tickets = call.body.model, list[Ticket]()
        try:
            try:
                while not task.done():
                    outlook = self._router.outlook_for(name, call.arrived_s)
                    said = "its prompt is made into tokens" if outlook is None else told(name, outlook, now_s())
                    yield comment(said)
                    await asyncio.wait({task}, timeout=HEARTBEAT_S)
                asked, tickets = self._admitted(call, task.result())
            except RequestError as error:
                note_refused(call.id, call.kind, error)
                for event in SHAPES[call.kind]().refuse(error):
                    yield event
                return
            except Exception:  # the outermost place that can still tell the client
                for event in SHAPES[call.kind]().refuse(broken(call.id)):
                    yield event
                return
            async with aclosing(self._answerer.events(asked, tickets)) as events:
                async for event in events:
                    yield event
        finally:
            task.cancel()
            _close(tickets)


def _noted(task: "asyncio.Task[Prepared]") -> None:
    """Whatever it came to, it is not lost that nobody asks: its client may have left."""
    if not task.cancelled():
        task.exception()


def _close(tickets: Sequence[Ticket]) -> None:
    for ticket in tickets:
        ticket.close()
