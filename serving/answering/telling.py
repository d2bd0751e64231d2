"""What is told of a request besides its answer: comments in a stream while it waits, and headers."""

import asyncio

from schedules.outlook import Doing, Outlook

REQUEST_ID, START, DEGREE, PREDICTED = (
    "X-Request-ID",
    "X-Firsttoken-Start",
    "X-Firsttoken-Degree",
    "X-Firsttoken-Predicted-S",
)
TOLD_HEADERS = (REQUEST_ID, START, DEGREE, PREDICTED)
_ANY_MOMENT_S, _ON_TIME_S = 0.05, 0.5
_MB = 1_000_000


def now_s() -> float:
    """The time that outlooks are in."""
    return asyncio.get_running_loop().time()


def comment(text: str) -> bytes:
    """A comment in a stream, which clients skip."""
    return b": " + " ".join(text.split()).encode() + b"\n\n"


def told(model: str, outlook: Outlook | None, at_s: float) -> str:
    """How it stands with a request for the model, in a line."""
    if outlook is None:
        return f"{model} is at work"
    if outlook.doing is Doing.ANSWERING:
        return f"{model} is computing{_when(outlook.first_s, at_s)}"
    if outlook.doing is Doing.SHIFTING:
        return f"{model} goes on at another replica"
    when = _when(outlook.first_s, at_s)
    if outlook.doing is Doing.QUEUED:
        return f"{model} is busy: {outlook.waiting} request(s) wait for it{when}"
    return f"cold start of {model}: {_doing(outlook)}{when}"


def _doing(outlook: Outlook) -> str:
    if outlook.doing is Doing.ROOM:
        return f"waiting for room ({outlook.why})" if outlook.why else "waiting for room"
    if outlook.doing is Doing.COMPUTING:
        return "computing"
    fetching = f"fetching {outlook.there_bytes / _MB:.0f} of {outlook.all_bytes / _MB:.0f} MB"
    if outlook.doing is Doing.FORMING:
        return f"forming {outlook.degree} process(es), {fetching}"
    return fetching


def _when(first_s: float | None, at_s: float) -> str:
    if first_s is None:
        return ""
    left_s = first_s - at_s
    if left_s > _ANY_MOMENT_S:
        return f", first token in about {left_s:.1f} s"
    return ", first token any moment" if left_s > -_ON_TIME_S else f", {-left_s:.1f} s later than predicted"


def headers(request: str, outlook: Outlook | None, arrived_s: float) -> dict[str, str]:
    """What an answer's headers say of how it was begun; what is not known is absent."""
    found = {REQUEST_ID: request}
    if outlook is None:
        return found
    if outlook.doing is Doing.QUEUED:
        found[START] = "queued"
    else:
        found[START] = ("starting" if outlook.joins else "cold") if outlook.cold else "warm"
    if outlook.degree is not None:
        found[DEGREE] = str(outlook.degree)
    if outlook.first_s is not None:
        found[PREDICTED] = f"{max(0.0, outlook.first_s - arrived_s):.3f}"
    return found
