"""What whoever waits for a first token may be told: what is being done for it, and when it is predicted to come."""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from schedules.placing.decision import Prediction


class Doing(StrEnum):
    """What a request waits for. At a replica that is up it is ANSWERING, before its first token and after."""

    ROOM = "room"
    FORMING = "forming"
    FETCHING = "fetching"
    COMPUTING = "computing"
    QUEUED = "queued"
    ANSWERING = "answering"
    SHIFTING = "shifting"


class Expected(NamedTuple):
    """When the first token is predicted, as times of the clock: it hardly comes before `best_s`, and nine times of ten by
    `bad_s`."""

    best_s: float
    mean_s: float
    bad_s: float


def expected(since_s: float, prediction: Prediction) -> Expected:
    """By a prediction that counts from `since_s`."""
    return Expected(since_s + prediction.ttft_best_s, since_s + prediction.ttft_s, since_s + prediction.ttft_bad_s)


@dataclass(frozen=True)
class Outlook:
    """How it stands with a request that waits, or comes now.

    It is `cold` if it waits for a replica to start, which was begun for this request or, if it `joins`, for others before it.
    `degree` is that of the replica that it waits for or runs at, None before it is decided; `there_bytes` of `all_bytes`,
    which its first token waits for, are on their nodes. `waiting` requests wait for the model. `first_s` is when the first
    token is predicted, None if it is not; `why` says why nothing is decided yet.
    """

    doing: Doing
    cold: bool = False
    joins: bool = False
    degree: int | None = None
    there_bytes: int = 0
    all_bytes: int = 0
    waiting: int = 0
    first_s: float | None = None
    why: str = ""
