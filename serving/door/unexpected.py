"""What nobody expected: it is logged under an identifier, and the client is told that and nothing else."""

import logging
import uuid
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_log = logging.getLogger(__name__)


def unexpected(error: Exception) -> dict[str, Any]:
    """Log `error` with its traceback; what to tell of it, in OpenAI's shape."""
    identifier = f"req-{uuid.uuid4().hex}"
    _log.error("%s failed", identifier, exc_info=error)
    text = f"something went wrong in the front end; its log says what, under {identifier}"
    return {"error": {"message": text, "type": "server_error", "param": None, "code": "internal_error"}}


class Guard:
    """Answers 500 for an error that no handler knows. An answer that has begun is broken off by the server."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def noting(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except Exception as error:
            if begun:
                raise
            await JSONResponse(unexpected(error), status_code=500)(scope, receive, send)
