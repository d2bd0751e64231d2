"""Routes that are for operators alone, who show their key."""

import hmac
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from serving.errors import NotAnOperator


def for_operators(route: type[APIRoute], key: str) -> type[APIRoute]:
    """Such routes, for those who show the key: before anything that they send is looked at."""

    class OperatorRoute(route):  # type: ignore[valid-type, misc]
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            answer: Callable[[Request], Coroutine[Any, Any, Response]] = super().get_route_handler()

            async def handle(request: Request) -> Response:
                _check_key(request, key)
                return await answer(request)

            return handle

    return OperatorRoute


def _check_key(request: Request, key: str) -> None:
    """NotAnOperator unless it is shown; how long that takes says nothing of the key."""
    scheme, _, shown = request.headers.get("authorization", "").partition(" ")
    right = hmac.compare_digest(shown.strip().encode(), key.encode())
    if not key or not right or scheme.lower() != "bearer":
        raise NotAnOperator(
            "this is for operators: send the key of frontend.operator_key, or of operator.key in the platform's home, as "
            "`Authorization: Bearer KEY`"
        )
