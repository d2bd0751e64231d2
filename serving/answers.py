"""Answers in OpenAI's shape, built from tokens as they come: one JSON body, or a stream of server-sent events."""

import asyncio
import json
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from cluster.wire.requests import Submit
from serving.catalog import ServedModel
from serving.errors import Broken, Interrupted, ModelFailed, RequestError, TimedOut, error_body
from serving.logprobs import Entry, InStep, chat_json, completion_json
from serving.metrics import Metrics
from serving.requests.preparing import Prepared
from serving.requests.schemas import GenerationRequest
from serving.text import StopStrings
from serving.tickets import Ticket

_log = logging.getLogger(__name__)
HEARTBEAT_S = 5.0


@dataclass(frozen=True)
class Ask:
    """A validated request: prompts as tokens, one Submit for each choice in order; `arrived_s` in monotonic seconds.

    `echoes` are what each prompt's answers begin with, if they shall.
    """

    id: str
    kind: str
    model: ServedModel
    submits: tuple[Submit, ...]
    choices_per_prompt: int
    stops: tuple[str, ...]
    arrived_s: float
    with_token_ids: bool
    with_usage: bool
    echoes: tuple[str, ...] = ()

    @property
    def chat(self) -> bool:
        return self.kind == "chat.completion"

    @property
    def prompt_tokens(self) -> int:
        """Of all prompts, each once however many choices it has."""
        return sum(submit.prompt_tokens for submit in self.submits[:: self.choices_per_prompt])

    def echo(self, choice: int) -> str:
        """What a choice's text begins with."""
        return self.echoes[choice // self.choices_per_prompt] if self.echoes else ""

    def logprobs(self, entries: Sequence[Entry]) -> dict[str, Any]:
        """A choice's log probabilities in the shape of this kind of request."""
        return (chat_json if self.chat else completion_json)(entries, self.model.text)


def ask(kind: str, prepared: Prepared, body: GenerationRequest, arrived_s: float) -> Ask:
    """Every prompt with every sampling, prompts in the outer order, as OpenAI numbers choices."""
    name = ("chatcmpl-" if kind == "chat.completion" else "cmpl-") + uuid.uuid4().hex
    submits = [
        Submit(
            f"{name}.{p}.{i}",
            prompt,
            len(prompt),
            limit,
            prepared.stop_tokens,
            sampling,
            min_tokens=prepared.min_tokens,
        )
        for p, (prompt, limit) in enumerate(zip(prepared.prompts, prepared.limits, strict=True))
        for i, sampling in enumerate(prepared.samplings)
    ]
    with_usage = body.stream_options is not None and body.stream_options.include_usage
    choices, stops = len(prepared.samplings), tuple(body.stop)
    return Ask(
        name, kind, prepared.model, tuple(submits), choices, stops, arrived_s, body.return_token_ids, with_usage,
        prepared.echoes,
    )  # fmt: skip


@dataclass(frozen=True)
class Delta:
    """What one step adds to a choice: text, maybe empty, and tokens; `finish` with the last.

    `logprobs` belong to the text: they may be of tokens that came before. None if they were not asked for.
    """

    choice: int
    text: str
    tokens: tuple[int, ...]
    finish: str | None = None
    logprobs: tuple[Entry, ...] | None = None


@dataclass
class Given:
    """What a request was given: so many tokens, the first and the latest of them so long after it came. `cold` if one of its
    choices waited for a replica to start. None before the first."""

    tokens: int = 0
    ttft_s: float | None = None
    last_s: float | None = None
    cold: bool | None = None


class Answerer:
    """Reads requests' tokens and says what came of them.

    `on_end` hears of every request that was begun: its outcome, and what it was given.
    """

    def __init__(self, metrics: Metrics, timeout_s: float, on_end: Callable[[Ask, str, Given], object]) -> None:
        self._metrics, self._timeout_s, self._on_end = metrics, timeout_s, on_end

    async def whole(self, request: Ask, tickets: Sequence[Ticket]) -> dict[str, Any]:
        """The complete answer, from a ticket for each of its submits."""
        texts = [request.echo(index) for index in range(len(request.submits))]
        tokens: list[list[int]] = [[] for _ in request.submits]
        entries: list[list[Entry]] = [[] for _ in request.submits]
        finishes: list[str | None] = [None for _ in request.submits]
        async with aclosing(self._deltas(request, tickets)) as deltas:
            async for delta in deltas:
                texts[delta.choice] += delta.text
                tokens[delta.choice] += delta.tokens
                entries[delta.choice] += delta.logprobs or ()
                finishes[delta.choice] = delta.finish or finishes[delta.choice]
        choices = []
        for index, submit in enumerate(request.submits):
            text, ids, finish = texts[index], tokens[index], finishes[index]
            logprobs = None if submit.sampling.logprobs is None else request.logprobs(entries[index])
            choice: dict[str, Any] = {"index": index, "finish_reason": finish, "logprobs": logprobs}
            if request.chat:
                choice["message"] = {"role": "assistant", "content": text, "refusal": None}
            else:
                choice["text"] = text
            if request.with_token_ids:
                choice["token_ids"] = ids
            choices.append(choice)
        return {**_head(request, request.kind), "choices": choices, "usage": _usage(request, tokens)}

    async def events(self, request: Ask, tickets: Sequence[Ticket]) -> AsyncGenerator[bytes]:
        """The answer as server-sent events; comments keep the connection alive while a cold model starts."""
        kind = "chat.completion.chunk" if request.chat else request.kind
        head = _head(request, kind)
        tokens: list[list[int]] = [[] for _ in request.submits]
        if request.chat:
            for index in range(len(request.submits)):
                yield _event({**head, "choices": [_chunk(request, Delta(index, "", ()), role=True)]})
        for index in range(len(request.submits)) if request.echoes else ():
            yield _event({**head, "choices": [_chunk(request, Delta(index, request.echo(index), ()))]})
        try:
            async with aclosing(_with_heartbeats(self._deltas(request, tickets))) as deltas:
                async for delta in deltas:
                    if delta is None:
                        yield f": {request.model.name} is starting\n\n".encode()
                        continue
                    tokens[delta.choice] += delta.tokens
                    yield _event({**head, "choices": [_chunk(request, delta)]})
        except RequestError as error:
            yield _event(error_body(error))
            return
        except Exception:  # the outermost place that can still tell the client
            yield _event(error_body(_as_end(_broken(request), sum(map(len, tokens)))))
            return
        if request.with_usage:
            yield _event({**head, "choices": [], "usage": _usage(request, tokens)})
        yield b"data: [DONE]\n\n"

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


async def _with_heartbeats(deltas: AsyncGenerator[Delta]) -> AsyncGenerator[Delta | None]:
    """The deltas, and a None whenever none has come for a while."""
    waiting: asyncio.Task[Delta] | None = None
    try:
        while True:
            if waiting is None:
                waiting = asyncio.ensure_future(anext(deltas))  # type: ignore[arg-type]
            done, _ = await asyncio.wait({waiting}, timeout=HEARTBEAT_S)
            if not done:
                yield None
                continue
            finished, waiting = waiting, None
            try:
                yield finished.result()
            except StopAsyncIteration:
                return
    finally:
        if waiting is not None:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        await deltas.aclose()


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


def _head(request: Ask, kind: str) -> dict[str, Any]:
    return {"id": request.id, "object": kind, "created": int(time.time()), "model": request.model.name}


def _chunk(request: Ask, delta: Delta, role: bool = False) -> dict[str, Any]:
    logprobs = request.logprobs(delta.logprobs) if delta.logprobs else None
    choice: dict[str, Any] = {"index": delta.choice, "finish_reason": delta.finish, "logprobs": logprobs}
    if request.chat:
        choice["delta"] = (
            {"role": "assistant", "content": ""} if role else {"content": delta.text} if delta.text else {}
        )
    else:
        choice["text"] = delta.text
    if request.with_token_ids:
        choice["token_ids"] = list(delta.tokens)
    return choice


def _usage(request: Ask, tokens: Sequence[Sequence[int]]) -> dict[str, int]:
    prompt = request.prompt_tokens
    generated = sum(len(ids) for ids in tokens)
    return {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated}


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
