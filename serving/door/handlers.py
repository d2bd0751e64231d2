"""Errors as answers: each has its status, and OpenAI's shape."""

import uuid
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from serving.answering.telling import REQUEST_ID
from serving.door.refused import note_refused
from serving.errors import RequestError, error_body
from serving.requests.complaints import complaint

OPENAI = "OpenAI"
"""The tag of routes that OpenAI has too."""
_SHOWN_LETTERS = 200


def add_handlers(app: FastAPI) -> None:
    """Let `app` answer RequestError, fields that are wrong, and paths and methods that there are not."""
    app.add_exception_handler(RequestError, _on_request_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)


async def _on_request_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestError)
    name = getattr(request.state, "request_id", None) or f"req-{uuid.uuid4().hex}"
    note_refused(name, f"{request.method} {request.url.path[:_SHOWN_LETTERS]}", error)
    headers = {REQUEST_ID: name}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    if error.closes:
        headers["Connection"] = "close"
    return JSONResponse(error_body(error), status_code=error.status, headers=headers)


async def _on_invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return await _on_request_error(request, complaint(error.errors()[0]))


async def _on_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    message, path = str(error.detail), request.url.path[:_SHOWN_LETTERS]
    if error.status_code == 404 and path.startswith("/v1/"):
        message = f"there is no {path} here; there are {', '.join(_openai(request.app.openapi()['paths']))}"
    elif error.status_code == 405:
        message = f"{path} does not take {request.method}; it takes {(error.headers or {}).get('Allow', 'others')}"
    body = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
    return JSONResponse({"error": body}, status_code=error.status_code, headers=error.headers)


def _openai(paths: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The routes of OpenAI's among those that the API describes of itself."""
    found = [(method, path, route) for path, methods in paths.items() for method, route in methods.items()]
    return [f"{method.upper()} {path}" for method, path, route in found if OPENAI in route.get("tags", ())]
