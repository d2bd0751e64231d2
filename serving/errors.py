"""What can go wrong with a request, each with the HTTP status it becomes; and with the history."""

from typing import Any


class RequestError(Exception):
    """Root: `status` is the HTTP status, `param` the request's field at fault, `retry_after_s` when to come back."""

    status = 500
    kind = "server_error"
    code: str | None = None
    closes = False
    """Whether the connection ends with the answer."""

    def __init__(self, message: str, param: str | None = None, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.param, self.retry_after_s = param, retry_after_s


class BadRequest(RequestError):
    """The request cannot be served as it is."""

    status = 400
    kind = "invalid_request_error"


class ContextTooLong(BadRequest):
    """Prompt and answer do not fit the model."""

    code = "context_length_exceeded"


class BodyTooLarge(RequestError):
    """The body has more bytes than one may have."""

    status = 413
    kind = "invalid_request_error"
    code = "body_too_large"


class ClientTooSlow(RequestError):
    """The body did not come in time."""

    status = 408
    kind = "invalid_request_error"
    code = "client_too_slow"
    closes = True


class TooManyBodies(RequestError):
    """Too much is being read from other clients already."""

    status = 503
    kind = "service_unavailable"
    code = "too_many_bodies"


class ModelNotFound(RequestError):
    """No such model is published."""

    status = 404
    kind = "invalid_request_error"
    code = "model_not_found"


class ResponseNotKept(RequestError):
    """Answers are not kept, this one neither."""

    status = 404
    kind = "invalid_request_error"
    code = "response_not_found"


class NotAnOperator(RequestError):
    """Who asks has not shown the operator's key."""

    status = 401
    kind = "invalid_request_error"
    code = "not_an_operator"


class NodeNotFound(RequestError):
    """No such node is connected."""

    status = 404
    kind = "invalid_request_error"
    code = "node_not_found"


class GroupNotFound(RequestError):
    """No such replica is up."""

    status = 404
    kind = "invalid_request_error"
    code = "group_not_found"


class RunningNotFound(RequestError):
    """No such request is being answered."""

    status = 404
    kind = "invalid_request_error"
    code = "request_not_found"


class MoveNotFound(RequestError):
    """No such move is known."""

    status = 404
    kind = "invalid_request_error"
    code = "move_not_found"


class MoveRefused(RequestError):
    """The move is not possible now, or would be of no use; nothing has changed."""

    status = 409
    kind = "invalid_request_error"
    code = "move_refused"


class PlanRefused(RequestError):
    """The plan of prewarming is not followed; the one before is as it was."""

    status = 409
    kind = "invalid_request_error"
    code = "plan_refused"


class ForeignPage(RequestError):
    """A browser sent it for a page that is not ours, or called us by a name that is not ours."""

    status = 403
    kind = "invalid_request_error"
    code = "foreign_page"


class Overloaded(RequestError):
    """Too many requests are held already."""

    status = 429
    kind = "rate_limit_error"
    code = "too_many_held_requests"


class Unavailable(RequestError):
    """The model cannot be served now."""

    status = 503
    kind = "service_unavailable"
    code = "model_unavailable"


class DeadlineUnreachable(Unavailable):
    """The first token would come after nobody waits for it any more, by what is predicted."""

    code = "deadline_unreachable"


class ModelDamaged(Unavailable):
    """What is published under the name cannot be served; asking again does not help, publishing it again does."""

    code = "model_damaged"


class Interrupted(RequestError):
    """The answer broke off and could not be continued."""

    status = 502
    kind = "server_error"
    code = "generation_interrupted"


class ModelFailed(RequestError):
    """The model itself gave no answer that makes sense; asking again would not help."""

    code = "model_failed"


class TimedOut(RequestError):
    """The request took longer than it may."""

    status = 504
    kind = "server_error"
    code = "request_timeout"


class Broken(RequestError):
    """Something went wrong here that nobody thought of; the log says what, under the request's id."""

    code = "internal_error"


def error_body(error: RequestError) -> dict[str, Any]:
    """An error in OpenAI's shape."""
    param = None if error.param is None else _sendable(error.param)
    return {"error": {"message": _sendable(str(error)), "type": error.kind, "param": param, "code": error.code}}


def _sendable(text: str) -> str:
    """Clients' words may hold halves of characters."""
    return text.encode(errors="replace").decode()


class HistoryError(Exception):
    """Root of what goes wrong with the history. Requests never see it."""


class HistoryAway(HistoryError):
    """The history's database does not answer, or not in time."""


class HistoryRejected(HistoryError):
    """The history's database will not take these values, however often they are offered."""


class HistoryRefused(HistoryError):
    """The history's database is of a version that we neither read nor write."""
