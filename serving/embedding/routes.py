"""The route that gives texts' vectors. Inputs go to the model as any other prompts do, some at a time."""

import asyncio
import json
import logging
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field

from fastapi import APIRouter, Request, Response

from cluster.wire.phases import unix_s
from cluster.wire.requests import Embedded, Submit
from serving.answering.answerer import TOLD_WITHIN_S, timed_out, too_late
from serving.answering.deltas import Given
from serving.answering.telling import DEGREE, headers
from serving.door.bodies import CLIENT_LEFT, Bodies, json_route
from serving.door.handlers import OPENAI
from serving.door.leaving import unless_left
from serving.door.patience import patience_s
from serving.embedding.preparing import EmbeddingPreparer, Wanted
from serving.embedding.schemas import EmbeddingRequest
from serving.embedding.vectors import finished, written
from serving.errors import Broken, RequestError
from serving.history.tables import Arrival
from serving.metrics import Metrics
from serving.router import Router
from serving.tickets import Ticket

_log = logging.getLogger(__name__)
AT_ONCE = 64
"""Inputs of one request that are under way together: others' requests come in between."""


@dataclass(eq=False)
class _Asked:
    """A request that is being answered, and what it was given; `begun` once it was let in, which `headers` tell of. Nobody
    waits for its first vector after `deadline_s`."""

    id: str
    wanted: Wanted
    arrived_s: float
    until_s: float
    deadline_s: float
    given: Given = field(default_factory=Given)
    headers: dict[str, str] = field(default_factory=dict)
    begun: bool = False

    def submits(self) -> list[Submit]:
        """One for each input, in their order."""
        mode = self.wanted.mode
        return [
            Submit(f"{self.id}.{index}.0", tokens, len(tokens), 0, (), pooling=mode)
            for index, tokens in enumerate(self.wanted.inputs)
        ]


class Embeddings:
    """See the module. `on_arrival` hears of each request once it has ended."""

    def __init__(
        self,
        preparer: EmbeddingPreparer,
        router: Router,
        metrics: Metrics,
        request_timeout_s: float,
        bodies: Bodies,
        on_arrival: Callable[[Arrival], object] | None = None,
    ) -> None:
        self._preparer, self._router, self._metrics = preparer, router, metrics
        self._request_timeout_s, self._on_arrival = request_timeout_s, on_arrival
        self.routes = APIRouter()
        self.routes.add_api_route(
            "/v1/embeddings",
            self.embed,
            methods=["POST"],
            summary="Vectors of texts",
            tags=[OPENAI],
            route_class_override=json_route(bodies),
        )

    async def embed(self, body: EmbeddingRequest, request: Request) -> Response:
        """Whole, or not at all."""
        arrived_s, name = time.monotonic(), f"embd-{uuid.uuid4().hex}"
        request.state.request_id = name
        deadline_s = arrived_s + patience_s(request, self._request_timeout_s, stream=False)
        answer: Response | None = await unless_left(self._answer(name, body, arrived_s, deadline_s), request)
        return Response(status_code=CLIENT_LEFT) if answer is None else answer

    async def _answer(self, name: str, body: EmbeddingRequest, arrived_s: float, deadline_s: float) -> Response:
        until_s = arrived_s + self._request_timeout_s
        async with self._until(until_s):
            wanted = await self._preparer.prepare(body, arrived_s)
        asked, outcome = _Asked(name, wanted, arrived_s, until_s, deadline_s), "cancelled"
        try:
            async with self._until(until_s):
                answer = await self._whole(asked, body.encoding_format)
            outcome = "served"
            return Response(answer, media_type="application/json", headers=asked.headers)
        except RequestError:
            outcome = "failed" if asked.begun else "refused"
            raise
        except Exception as error:  # the outermost place that knows the request
            outcome = "failed"
            _log.exception("request %s failed", asked.id)
            raise Broken(f"request {asked.id} failed here; the front end's log says why") from error
        finally:
            self._ended(asked, outcome)

    @asynccontextmanager
    async def _until(self, until_s: float) -> AsyncIterator[None]:
        """TimedOut if it takes longer."""
        try:
            async with asyncio.timeout(until_s - time.monotonic()) as deadline:
                yield
        except TimeoutError as error:
            if not deadline.expired():
                raise
            raise timed_out(self._request_timeout_s) from error

    async def _whole(self, asked: _Asked, encoding: str) -> bytes:
        wanted, pieces = asked.wanted, list[str]()
        async with aclosing(self._vectors(asked)) as vectors:
            async for vector in vectors:
                made = written(finished(vector, wanted.dimensions, wanted.normalized), encoding)
                pieces.append(f'{{"object":"embedding","index":{len(pieces)},"embedding":{made}}}')
                await asyncio.sleep(0)  # others have their turn between two long rows of numbers
        usage = {"prompt_tokens": wanted.tokens, "total_tokens": wanted.tokens}
        head = f'{{"object":"list","model":{json.dumps(wanted.model.name)},"usage":{json.dumps(usage)},"data":['
        return (head + ",".join(pieces) + "]}").encode()

    async def _vectors(self, asked: _Asked) -> AsyncGenerator[bytes]:
        """As the model gives them, in the order of the inputs."""
        submits = asked.submits()
        for first in range(0, len(submits), AT_ONCE):
            some = submits[first : first + AT_ONCE]
            deadline_s = asked.until_s if asked.begun else asked.deadline_s
            tickets = self._router.admit(asked.wanted.model, some, asked.arrived_s, deadline_s)
            if not asked.begun:
                asked.headers |= headers(asked.id, self._router.outlook(tickets[0].name), asked.arrived_s)
            asked.begun = True
            tasks = [asyncio.ensure_future(self._vector(asked, ticket)) for ticket in tickets]
            try:
                await self._begin_in_time(asked, tasks)
                for task, ticket in zip(tasks, tickets, strict=True):
                    vector = await task
                    asked.headers[DEGREE] = str(ticket.degree)
                    yield vector
            finally:
                await _end(tasks, tickets)

    async def _begin_in_time(self, asked: _Asked, tasks: "Sequence[asyncio.Task[bytes]]") -> None:
        """Wait for the first vector as long as the client does, TimedOut if none comes. One that is held is told by the brain
        that it is too late, and when to come back."""
        until_s = asked.deadline_s + TOLD_WITHIN_S
        if asked.given.ttft_s is not None or until_s >= asked.until_s:
            return
        within_s = until_s - time.monotonic()
        done, _ = await asyncio.wait(tasks, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            raise too_late("vector", asked.deadline_s - asked.arrived_s)

    async def _vector(self, asked: _Asked, ticket: Ticket) -> bytes:
        given = asked.given
        async with aclosing(ticket.tokens()) as events:
            async for event in events:
                if isinstance(event, Embedded):
                    given.last_s = time.monotonic() - asked.arrived_s
                    given.ttft_s = given.last_s if given.ttft_s is None else given.ttft_s
                    given.cold = bool(given.cold) or ticket.cold
                    return event.vector
        raise RuntimeError(f"{ticket.name} ended without its vector")

    def _ended(self, asked: _Asked, outcome: str) -> None:
        model, tokens, given = asked.wanted.model.name, asked.wanted.tokens, asked.given
        if outcome != "refused":
            self._metrics.prompt_tokens.labels(model).inc(tokens)
            self._metrics.requests.labels(model, outcome).inc()
        if self._on_arrival is not None:
            came_s = unix_s(asked.arrived_s)
            self._on_arrival(Arrival(model, came_s, tokens, 0, 0, outcome, given.ttft_s, given.last_s, given.cold))


async def _end(tasks: "Sequence[asyncio.Task[bytes]]", tickets: Sequence[Ticket]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for ticket in tickets:
        ticket.close()
