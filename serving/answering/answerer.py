"""Answers built from tokens as they come: one JSON body, or a stream of server-sent events."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any

from schedules.outlook import Outlook
from serving.answering.ask import Ask
from serving.answering.choices import ChoiceReader
from serving.answering.deltas import Answered, Delta, Given
from serving.answering.heartbeats import HEARTBEAT_S, with_heartbeats
from serving.answering.kinds import SHAPES
from serving.answering.telling import comment, now_s, told
from serving.errors import Broken, Interrupted, ModelFailed, RequestError, TimedOut
from serving.metrics import Metrics
from serving.tickets import Ticket

_log = logging.getLogger(__name__)
TOLD_WITHIN_S = 0.1
"""So long after a request's deadline the brain has told of it, if it was held."""


class Answerer:
    """Reads requests' tokens and says what came of them.

    `on_end` hears of every request that was begun: its outcome, and what it was given. `outlook_of` says how it stands with
    one that waits, which streams are told every `heartbeat_s`.
    """

    def __init__(
        self,
        metrics: Metrics,
        timeout_s: float,
        on_end: Callable[[Ask, str, Given], object],
        outlook_of: Callable[[str], Outlook | None] = lambda _request: None,
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        self._metrics, self._timeout_s, self._on_end = metrics, timeout_s, on_end
        self._outlook_of, self._heartbeat_s = outlook_of, heartbeat_s

    async def whole(self, request: Ask, tickets: Sequence[Ticket]) -> dict[str, Any]:
        """The complete answer, from a ticket for each of its submits."""
        answers = [Answered(request.echo(index)) for index in range(len(request.submits))]
        async with aclosing(self._deltas(request, tickets)) as deltas:
            async for delta in deltas:
                answers[delta.choice].add(delta)
        return SHAPES[request.kind]().whole(request, answers)

    async def events(self, request: Ask, tickets: Sequence[Ticket]) -> AsyncGenerator[bytes]:
        """The answer as server-sent events; comments keep the connection alive while there is nothing to say, at once if the
        request waits for a model to start."""
        shape = SHAPES[request.kind]()
        answers = [Answered(request.echo(index)) for index in range(len(request.submits))]
        for event in shape.begin(request):
            yield event
        outlook = self._outlook(tickets)
        if outlook is not None and outlook.cold:
            yield _heartbeat(request, outlook)
        try:
            async with aclosing(with_heartbeats(self._deltas(request, tickets), self._heartbeat_s)) as deltas:
                async for delta in deltas:
                    if delta is None:
                        yield _heartbeat(request, self._outlook(tickets))
                        continue
                    answers[delta.choice].add(delta)
                    for event in shape.go_on(request, delta):
                        yield event
        except RequestError as error:
            for event in shape.fail(request, error):
                yield event
            return
        except Exception:  # the outermost place that can still tell the client
            end = _as_end(broken(request.id), sum(len(answer.tokens) for answer in answers))
            for event in shape.fail(request, end):
                yield event
            return
        for event in shape.end(request, answers):
            yield event

    def _outlook(self, tickets: Sequence[Ticket]) -> Outlook | None:
        """How it stands with the first of them that is not over."""
        return next((found for ticket in tickets if (found := self._outlook_of(ticket.name)) is not None), None)

    async def _deltas(self, request: Ask, tickets: Sequence[Ticket]) -> AsyncGenerator[Delta]:
        """What all choices add, in the order in which it comes. The first RequestError ends all: once there was a token it
        is TimedOut, ModelFailed or Interrupted."""
        queue: asyncio.Queue[Delta | RequestError | None] = asyncio.Queue()
        outcome, given = "cancelled", Given()
        tasks = [
            asyncio.get_running_loop().create_task(self._run(request, index, ticket, given, queue))
            for index, ticket in enumerate(tickets)
        ]
        try:
            running = len(tasks)
            while running:
                item = await self._next(queue, request, given)
                if item is None:
                    running -= 1
                elif isinstance(item, Delta):
                    given.tokens += len(item.tokens)
                    yield item
                else:
                    outcome = "failed"
                    raise _as_end(item, given.tokens)
            outcome = "served"
        finally:
            self._metrics.requests.labels(request.model.name, outcome).inc()
            self._on_end(request, outcome, given)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _next(
        self, queue: "asyncio.Queue[Delta | RequestError | None]", request: Ask, given: Given
    ) -> Delta | RequestError | None:
        """What comes next; TimedOut if that is not in time. A request that is held is told by the brain that it is too late,
        and when to come back."""
        until_s, late = request.arrived_s + self._timeout_s, timed_out(self._timeout_s)
        if not given.tokens and request.deadline_s + TOLD_WITHIN_S < until_s:
            until_s = request.deadline_s + TOLD_WITHIN_S
            late = too_late("token", request.deadline_s - request.arrived_s)
        try:
            async with asyncio.timeout(until_s - time.monotonic()):
                return await queue.get()
        except TimeoutError:
            return late

    async def _run(
        self,
        request: Ask,
        index: int,
        ticket: Ticket,
        given: Given,
        queue: "asyncio.Queue[Delta | RequestError | None]",
    ) -> None:
        try:
            async with aclosing(self._choice(request, index, ticket)) as deltas:
                async for delta in deltas:
                    if delta.tokens:
                        given.last_s = time.monotonic() - request.arrived_s
                        given.ttft_s = given.last_s if given.ttft_s is None else given.ttft_s
                        given.cold = bool(given.cold) or ticket.cold
                    queue.put_nowait(delta)
        except RequestError as error:
            queue.put_nowait(error)
        except Exception:  # whatever it is, the one who waits at the queue must hear of it
            queue.put_nowait(broken(request.id))
        else:
            queue.put_nowait(None)

    async def _choice(self, request: Ask, choice: int, ticket: Ticket) -> AsyncGenerator[Delta]:
        submit = request.submits[choice]
        self._metrics.prompt_tokens.labels(request.model.name).inc(submit.prompt_tokens)
        model_text, reader = request.model.text, None
        async with aclosing(ticket.tokens()) as events:
            async for event in events:
                if reader is None:
                    answers = await model_text.answers() if model_text is not None else None
                    reader = ChoiceReader(request, choice, answers)
                self._metrics.generated_tokens.labels(request.model.name).inc(len(event.tokens))
                yield reader.read(event)
                if reader.stopped:
                    return


def _heartbeat(request: Ask, outlook: Outlook | None) -> bytes:
    return comment(told(request.model.name, outlook, now_s()))


def broken(request: str) -> Broken:
    """What the client is told of the exception that is being handled, which goes into the log under the request's id."""
    _log.exception("request %s failed", request)
    return Broken(f"request {request} failed here; the front end's log says why")


def _as_end(error: RequestError, generated: int) -> RequestError:
    """What a request ends with by an error after so many tokens: unless asking again is of no use, that it cannot be
    continued is all that matters then."""
    if not generated or isinstance(error, TimedOut | Interrupted | ModelFailed):
        return error
    interrupted = Interrupted(f"the answer broke off after {generated} tokens and could not be continued: {error}")
    interrupted.__cause__ = error
    return interrupted


def too_late(what: str, patience_s: float) -> TimedOut:
    """What a request is told whose client waits no longer, to which nothing was given yet."""
    return TimedOut(f"there was no {what} within {patience_s:g} s, which is as long as the client waits")


def timed_out(timeout_s: float) -> TimedOut:
    """What a request is told that took longer."""
    return TimedOut(f"the request took longer than {timeout_s:g} s (frontend.request_timeout_s)")
