"""How answers are written: a shape for each kind of request, as one JSON body or as server-sent events."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from serving.answering.ask import Ask
from serving.answering.deltas import Answered, Call, CallPiece, Delta
from serving.errors import RequestError, error_body
from serving.logprobs import chat_json, completion_json


class Shape(Protocol):
    """See the module; one for each answer. `answers` are the choices in order, as far as they came."""

    def whole(self, request: Ask, answers: Sequence[Answered]) -> dict[str, Any]:
        """The complete answer."""
        ...

    def begin(self, request: Ask) -> Iterator[bytes]:
        """The events before anything has come."""
        ...

    def go_on(self, request: Ask, delta: Delta) -> Iterator[bytes]:
        """The events of what has come."""
        ...

    def end(self, request: Ask, answers: Sequence[Answered]) -> Iterator[bytes]:
        """The events of a stream that is whole."""
        ...

    def fail(self, request: Ask, error: RequestError) -> Iterator[bytes]:
        """The events of one that breaks off."""
        ...

    def refuse(self, error: RequestError) -> Iterator[bytes]:
        """The events of one whose request was found to be wrong after its headers had left."""
        ...


class _Choices:
    """What chat and plain completions share: an answer has choices, a stream ends with [DONE]."""

    kind: str
    chunk: str
    """What `object` says in a whole answer, and in an event."""

    def whole(self, request: Ask, answers: Sequence[Answered]) -> dict[str, Any]:
        choices = []
        for index, (submit, answer) in enumerate(zip(request.submits, answers, strict=True)):
            logprobs = None if submit.sampling.logprobs is None else self._logprobs(request, answer.entries)
            choice = {"index": index, "finish_reason": answer.finish, "logprobs": logprobs, **self._answer(answer)}
            if request.with_token_ids:
                choice["token_ids"] = answer.tokens
            choices.append(choice)
        return {**_head(request, self.kind), "choices": choices, "usage": usage(request, answers)}

    def begin(self, request: Ask) -> Iterator[bytes]:
        for index in range(len(request.submits)) if request.echoes else ():
            yield from self.go_on(request, Delta(index, request.echo(index), ()))

    def go_on(self, request: Ask, delta: Delta) -> Iterator[bytes]:
        yield self._event(request, delta, self._delta(delta))

    def end(self, request: Ask, answers: Sequence[Answered]) -> Iterator[bytes]:
        if request.with_usage:
            yield event({**_head(request, self.chunk), "choices": [], "usage": usage(request, answers)})
        yield b"data: [DONE]\n\n"

    def fail(self, request: Ask, error: RequestError) -> Iterator[bytes]:
        yield event(error_body(error))

    def refuse(self, error: RequestError) -> Iterator[bytes]:
        yield event(error_body(error))

    def _event(self, request: Ask, delta: Delta, said: Mapping[str, Any]) -> bytes:
        logprobs = self._logprobs(request, delta.logprobs) if delta.logprobs else None
        choice = {"index": delta.choice, "finish_reason": delta.finish, "logprobs": logprobs, **said}
        if request.with_token_ids:
            choice["token_ids"] = list(delta.tokens)
        later = {"usage": None} if request.with_usage else {}
        return event({**_head(request, self.chunk), "choices": [choice], **later})

    def _answer(self, answer: Answered) -> dict[str, Any]:
        raise NotImplementedError

    def _delta(self, delta: Delta) -> dict[str, Any]:
        raise NotImplementedError

    def _logprobs(self, request: Ask, entries: Sequence[Any]) -> dict[str, Any]:
        raise NotImplementedError


class _Completion(_Choices):
    kind = chunk = "text_completion"

    def _answer(self, answer: Answered) -> dict[str, Any]:
        return {"text": answer.text}

    def _delta(self, delta: Delta) -> dict[str, Any]:
        return {"text": delta.text}

    def _logprobs(self, request: Ask, entries: Sequence[Any]) -> dict[str, Any]:
        return completion_json(entries, request.model.text)


class _Chat(_Choices):
    kind, chunk = "chat.completion", "chat.completion.chunk"

    def begin(self, request: Ask) -> Iterator[bytes]:
        for index in range(len(request.submits)):
            yield self._event(request, Delta(index, "", ()), {"delta": {"role": "assistant", "content": ""}})
        yield from super().begin(request)

    def _answer(self, answer: Answered) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
        if answer.calls:
            message |= {"content": answer.text or None, "tool_calls": list(map(_call, answer.calls))}
        return {"message": message}

    def _delta(self, delta: Delta) -> dict[str, Any]:
        said: dict[str, Any] = {"content": delta.text} if delta.text else {}
        if delta.calls:
            said["tool_calls"] = list(map(_piece, delta.calls))
        return {"delta": said}

    def _logprobs(self, request: Ask, entries: Sequence[Any]) -> dict[str, Any]:
        return chat_json(entries, request.model.text)


CHOICES: Mapping[str, Callable[[], Shape]] = {shape.kind: shape for shape in (_Chat, _Completion)}
"""By the kind of a request."""


def usage(request: Ask, answers: Sequence[Answered]) -> dict[str, int]:
    """How many tokens it took."""
    prompt, generated = request.prompt_tokens, sum(len(answer.tokens) for answer in answers)
    return {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated}


def event(body: Mapping[str, Any]) -> bytes:
    """A server-sent event."""
    return b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def _head(request: Ask, kind: str) -> dict[str, Any]:
    return {"id": request.id, "object": kind, "created": int(time.time()), "model": request.model.name}


def _call(call: Call) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _piece(piece: CallPiece) -> dict[str, Any]:
    if piece.id is None:
        return {"index": piece.index, "function": {"arguments": piece.arguments}}
    function = {"name": piece.name, "arguments": piece.arguments}
    return {"index": piece.index, "id": piece.id, "type": "function", "function": function}
