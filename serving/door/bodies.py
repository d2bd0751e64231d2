"""Bodies of requests: how much of one is read, how long it may take to come, and JSON that becomes a validated request.

A body and what was parsed of it are gone before the request is answered, which may take minutes.
"""

import asyncio
import json
import re
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any, get_type_hints

import jiter
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from serving.errors import BadRequest, BodyTooLarge, ClientTooSlow, TooManyBodies

CLIENT_LEFT = 499
BODIES = 8
"""So many of the largest bodies may be read at the same time."""
SMALL_BYTES = 1 << 16
"""The first bytes of each body, which do not count for that: small ones are read whatever the others send."""
MAX_CONTAINERS = 1 << 18
"""Objects and arrays in a body. Each takes far more memory than the two letters that it is written with."""
_SHOWN_LETTERS = 200
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)


class Bodies:
    """Reads bodies for all routes of a front end. Use from one event loop."""

    def __init__(self, max_bytes: int, timeout_s: float, context: Mapping[str, Any]) -> None:
        self._max_bytes, self._timeout_s, self._context = max_bytes, timeout_s, dict(context)
        self._reading_bytes = 0

    async def parsed(self, request: Request, kind: type[BaseModel]) -> BaseModel:
        """The request's body as a `kind`, validated in the context that all share.

        BodyTooLarge, ClientTooSlow, TooManyBodies; BadRequest if it is no JSON object, RequestValidationError if a field
        is wrong; ClientDisconnect.
        """
        return validated(_object(await self._read(request)), kind, self._context)

    async def _read(self, request: Request) -> bytes:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json" and not kind.endswith("+json"):  # a web page can send others unasked
            raise BadRequest("the body is not a JSON object: send one, with Content-Type: application/json")
        coding = request.headers.get("content-encoding", "identity")
        if coding.strip().lower() != "identity":
            raise BadRequest(f"the body is not a JSON object: send it as it is, not as {coding[:_SHOWN_LETTERS]}")
        declared = request.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > self._max_bytes:
            raise self._too_large()
        body, counted = bytearray(), 0
        try:
            async with asyncio.timeout(self._timeout_s):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > self._max_bytes:
                        raise self._too_large()
                    more = max(0, len(body) - SMALL_BYTES) - counted
                    if self._reading_bytes + more > BODIES * self._max_bytes:
                        raise TooManyBodies("too many large bodies are being read already", retry_after_s=5)
                    self._reading_bytes += more
                    counted += more
        except TimeoutError as error:
            raise ClientTooSlow(
                f"the body did not come within {self._timeout_s:g} s (frontend.client_timeout_s)"
            ) from error
        finally:
            self._reading_bytes -= counted
        return bytes(body)

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"the body has more than {self._max_bytes} bytes (frontend.max_body_bytes)")


def json_route(bodies: Bodies) -> type[APIRoute]:
    """Routes whose first parameter is a JSON body and whose second is the request; FastAPI describes them as any other."""

    class JsonRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            kind = next(iter(get_type_hints(self.endpoint).values()))

            async def handle(request: Request) -> Response:
                try:
                    body = await bodies.parsed(request, kind)
                except ClientDisconnect:
                    return Response(status_code=CLIENT_LEFT)
                answer: Response = await self.endpoint(body, request)
                return answer

            return handle

    return JsonRoute


def validated(data: Any, kind: type[BaseModel], context: Mapping[str, Any]) -> BaseModel:
    """`data` as a `kind`, else RequestValidationError."""
    try:
        return kind.model_validate(data, context=dict(context))
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        raise RequestValidationError([{**each, "loc": ("body", *each["loc"])} for each in found]) from error


def _object(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`, else BadRequest. No key may come twice, no number be NaN, nothing be nested by hundreds."""
    if _containers(body) > MAX_CONTAINERS:
        raise BadRequest(f"the body has more than {MAX_CONTAINERS} objects and arrays")
    try:
        found = jiter.from_json(body, allow_inf_nan=False, cache_mode="keys", catch_duplicate_keys=True)
    except ValueError as error:
        field = _half_character(body) if b"\\u" in body else None
        if field is not None:
            raise BadRequest(f"{field}: half of a character, as in \\ud83d without its other half", field) from error
        raise BadRequest(f"the body is not a JSON object: {str(error)[:_SHOWN_LETTERS]}") from error
    if not isinstance(found, dict):
        raise BadRequest("the body is not a JSON object")
    return found


def _containers(body: bytes) -> int:
    """How many objects and arrays are in `body`, roughly; brackets in texts count only where there are very many texts."""
    found = body.count(b"{") + body.count(b"[")
    if found <= MAX_CONTAINERS or body.count(b'"') - body.count(b'\\"') > MAX_CONTAINERS:
        return found
    bare = _STRING.sub(b"", body)
    return bare.count(b"{") + bare.count(b"[")


def _half_character(body: bytes) -> str | None:
    """The field that has a surrogate by itself, which Unicode has no text for."""
    with suppress(ValueError, RecursionError):
        found = json.loads(body)
        for field, value in found.items() if isinstance(found, dict) else ():
            try:
                json.dumps([field, value], ensure_ascii=False).encode()
            except UnicodeEncodeError:
                return ascii(field[:_SHOWN_LETTERS])[1:-1]
    return None
