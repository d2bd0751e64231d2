"""How answers are written at /v1/responses: items of output, and events that are numbered."""

import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from serving.answering.ask import Ask
from serving.answering.deltas import Answered, Call, CallPiece, Delta
from serving.answering.shapes import event
from serving.errors import RequestError, error_body


class ResponseShape:
    """See `Shape`. A text is one message, which is there also if the answer is empty; each call of a function is an item."""

    def __init__(self) -> None:
        self._created, self._message = int(time.time()), f"msg_{uuid.uuid4().hex}"
        self._numbers = 0
        self._calls: list[str] = []
        self._items: list[str] = []

    def whole(self, request: Ask, answers: Sequence[Answered]) -> dict[str, Any]:
        (answer,) = answers
        return self._response(request, answer)

    def begin(self, request: Ask) -> Iterator[bytes]:
        for kind in ("response.created", "response.in_progress"):
            yield self._event(kind, response=self._state(request, "in_progress"))

    def go_on(self, request: Ask, delta: Delta) -> Iterator[bytes]:
        if delta.text:
            yield from self._begin_message()
            yield self._text_event("response.output_text.delta", delta=delta.text, logprobs=[])
        for piece in delta.calls:
            yield from self._go_on_call(piece)

    def end(self, request: Ask, answers: Sequence[Answered]) -> Iterator[bytes]:
        (answer,) = answers
        if not answer.calls:
            yield from self._begin_message()
        response = self._response(request, answer)
        for index, item in enumerate(response["output"]):
            if item["type"] == "message":
                yield self._text_event("response.output_text.done", text=answer.text, logprobs=[])
                yield self._text_event("response.content_part.done", part=_part(answer.text))
            else:
                said = {"item_id": item["id"], "name": item["name"], "arguments": item["arguments"]}
                yield self._event("response.function_call_arguments.done", output_index=index, **said)
            yield self._event("response.output_item.done", output_index=index, item=item)
        yield self._event(f"response.{response['status']}", response=response)

    def fail(self, request: Ask, error: RequestError) -> Iterator[bytes]:
        said = {"code": error.code or error.kind, "message": str(error)}
        yield self._event("response.failed", response=self._state(request, "failed") | {"error": said})

    def refuse(self, error: RequestError) -> Iterator[bytes]:
        said = {"code": error.code, "message": str(error), "param": error.param}
        yield self._event("error", **said, **error_body(error))

    # ---- items of the output, in the order in which they began

    def _begin_message(self) -> Iterator[bytes]:
        if self._message not in self._items:
            item = {"id": self._message, "type": "message", "status": "in_progress", "role": "assistant", "content": []}
            yield self._event("response.output_item.added", output_index=self._index(self._message), item=item)
            yield self._text_event("response.content_part.added", part=_part(""))

    def _go_on_call(self, piece: CallPiece) -> Iterator[bytes]:
        if piece.id is not None:
            item = self._call(piece.index, Call(piece.id, piece.name or ""), "in_progress")
            yield self._event("response.output_item.added", output_index=self._index(item["id"]), item=item)
        if piece.arguments:
            name = self._calls[piece.index]
            said = {"item_id": name, "output_index": self._index(name), "delta": piece.arguments}
            yield self._event("response.function_call_arguments.delta", **said)

    def _index(self, item: str) -> int:
        """Of an item, which begins if it has not."""
        if item not in self._items:
            self._items.append(item)
        return self._items.index(item)

    def _call(self, index: int, call: Call, status: str) -> dict[str, Any]:
        if index == len(self._calls):
            self._calls.append(f"fc_{uuid.uuid4().hex}")
        said = {"call_id": call.id, "name": call.name, "arguments": call.arguments}
        return {"id": self._calls[index], "type": "function_call", "status": status, **said}

    # ---- responses

    def _response(self, request: Ask, answer: Answered) -> dict[str, Any]:
        """The whole one."""
        status = "incomplete" if answer.finish == "length" else "completed"
        output: list[dict[str, Any]] = []
        if answer.text or not answer.calls:
            said = {"role": "assistant", "content": [_part(answer.text)]}
            output.append({"id": self._message, "type": "message", "status": status, **said})
        output += [self._call(index, call, status) for index, call in enumerate(answer.calls)]
        output.sort(key=lambda item: self._index(item["id"]))
        used, answered = request.prompt_tokens, len(answer.tokens)
        usage = {
            "input_tokens": used,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": answered,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": used + answered,
        }
        details = {"reason": "max_output_tokens"} if status == "incomplete" else None
        return self._state(request, status) | {"output": output, "usage": usage, "incomplete_details": details}

    def _state(self, request: Ask, status: str) -> dict[str, Any]:
        return {
            "id": request.id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "model": request.model.name,
            "output": [],
            "usage": None,
            **request.echoed,
        }

    def _text_event(self, kind: str, **said: Any) -> bytes:
        place = {"item_id": self._message, "output_index": self._index(self._message), "content_index": 0}
        return self._event(kind, **place, **said)

    def _event(self, kind: str, **said: Any) -> bytes:
        number, self._numbers = self._numbers, self._numbers + 1
        return f"event: {kind}\n".encode() + event({"type": kind, "sequence_number": number, **said})


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
