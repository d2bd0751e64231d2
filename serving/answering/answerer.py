"""Answers built from tokens as they come: one JSON body, or a stream of server-sent events."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any

from serving.answering.ask import Ask
from serving.answering.deltas import Answered, Delta, Given
from serving.answering.heartbeats import with_heartbeats
from serving.answering.shapes import SHAPES
from serving.errors import Broken, Interrupted, ModelFailed, RequestError, TimedOut
from serving.logprobs import Entry, InStep
from serving.metrics import Metrics
from serving.text import StopStrings
from serving.tickets import Ticket

_log = logging.getLogger(__name__)


class Answerer:
    """Reads requests' tokens and says what came of them.

    `on_end` hears of every request that was begun: its outcome, and what it was given.
    """

    def __init__(self, metrics: Metrics, timeout_s: float, on_end: Callable[[Ask, str, Given], object]) -> None:
        self._metrics, self._timeout_s, self._on_end = metrics, timeout_s, on_end

    async def whole(self, request: Ask, tickets: Sequence[Ticket]) -> dict[str, Any]:
        """The complete answer, from a ticket for each of its submits."""
        answers = [Answered(request.echo(index)) for index in range(len(request.submits))]
        async with aclosing(self._deltas(request, tickets)) as deltas:
            async for delta in deltas:
                answers[delta.choice].add(delta)
        return SHAPES[request.kind].whole(request, answers)

    async def events(self, request: Ask, tickets: Sequence[Ticket]) -> AsyncGenerator[bytes]:
        """The answer as server-sent events; comments keep the connection alive while a cold model starts."""
        shape = SHAPES[request.kind]
        answers = [Answered(request.echo(index)) for index in range(len(request.submits))]
        for event in shape.begin(request):
            yield event
        try:
            async with aclosing(with_heartbeats(self._deltas(request, tickets))) as deltas:
                async for delta in deltas:
                    if delta is None:
                        yield f": {request.model.name} is starting\n\n".encode()
                        continue
                    answers[delta.choice].add(delta)
                    for event in shape.go_on(request, delta):
                        yield event
        except RequestError as error:
            for event in shape.fail(request, error):
                yield event
            return
        except Exception:  # the outermost place that can still tell the client
            told = _as_end(_broken(request), sum(len(answer.tokens) for answer in answers))
            for event in shape.fail(request, told):
                yield event
            return
        for event in shape.end(request, answers):
            yield event

    async def _deltas(self, request: Ask, tickets: Sequence[Ticket]) -> AsyncGenerator[Delta]:
        """What all choices add, in the order in which it comes. The first RequestError ends all: once there was a token it
        is TimedOut, ModelFailed or Interrupted."""
        queue: asyncio.Queue[Delta | RequestError | None] = asyncio.Queue()
        outcome, given = "cancelled", Given()
        tasks = [
            asyncio.get_running_loop().create_task(self._run(request, index, ticket, given, queue))
            for index, ticket in enumerate(tickets)
        ]
        until_s = request.arrived_s + self._timeout_s
        try:
            running = len(tasks)
            while running:
                try:
                    item = await asyncio.wait_for(queue.get(), until_s - time.monotonic())
                except TimeoutError:
                    item = timed_out(self._timeout_s)
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
            queue.put_nowait(_broken(request))
        else:
            queue.put_nowait(None)

    async def _choice(self, request: Ask, choice: int, ticket: Ticket) -> AsyncGenerator[Delta]:
        submit = request.submits[choice]
        self._metrics.prompt_tokens.labels(request.model.name).inc(submit.prompt_tokens)
        model_text, decoder = request.model.text, None
        stops = StopStrings(request.stops)
        generated = 0
        in_step = InStep() if submit.sampling.logprobs is not None else None
        async with aclosing(ticket.tokens()) as events:
            async for event in events:
                if model_text is not None and decoder is None:
                    decoder = (await model_text.answers()).decoder(submit.tokens)
                generated += len(event.tokens)
                self._metrics.generated_tokens.labels(request.model.name).inc(len(event.tokens))
                ending = len(event.tokens) - (event.finish == "stop")  # what a token that ends it says is no answer
                texts = [
                    decoder.push(token) if decoder is not None and index < ending else ""
                    for index, token in enumerate(event.tokens)
                ]
                rest = decoder.flush() if decoder is not None and event.finish is not None else ""
                shown = "".join(texts) + rest
                shown = stops.push(shown) if generated > submit.min_tokens else shown
                finish = "stop" if stops.hit else event.finish
                if finish is not None:
                    shown += stops.flush()
                entries: tuple[Entry, ...] | None = None
                if in_step is not None:
                    for token, logprobs, text in zip(event.tokens, event.logprobs, texts, strict=True):
                        in_step.push(token, logprobs, text)
                    ended = finish is not None and not stops.hit
                    entries = in_step.show(shown, all_of_them=ended or decoder is None)
                yield Delta(choice, shown, event.tokens, finish, entries)
                if stops.hit:
                    return


def _broken(request: Ask) -> Broken:
    """What the client is told of the exception that is being handled, which goes into the log."""
    _log.exception("request %s failed", request.id)
    return Broken(f"request {request.id} failed here; the front end's log says why")


def _as_end(error: RequestError, generated: int) -> RequestError:
    """What a request ends with by an error after so many tokens: unless asking again is of no use, that it cannot be
    continued is all that matters then."""
    if not generated or isinstance(error, TimedOut | Interrupted | ModelFailed):
        return error
    interrupted = Interrupted(f"the answer broke off after {generated} tokens and could not be continued: {error}")
    interrupted.__cause__ = error
    return interrupted


def timed_out(timeout_s: float) -> TimedOut:
    """What a request is told that took longer."""
    return TimedOut(f"the request took longer than {timeout_s:g} s (frontend.request_timeout_s)")
