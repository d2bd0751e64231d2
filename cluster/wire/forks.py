"""What a zygote and whoever started it say to each other: a node's agent, or the front end with its text processes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Imported:
    """The zygote has everything imported: from now on it forks in milliseconds."""


@dataclass(frozen=True)
class Fork:
    """Make a stage process that talks on the descriptor beside this message; one that shall `measure` is ready later.

    The answer has the same `number`.
    """

    number: int
    measure: bool = False


@dataclass(frozen=True)
class Forked:
    """The stage process is there, perhaps dead already; a pidfd of it comes along."""

    number: int
    pid: int


@dataclass(frozen=True)
class NotForked:
    """No stage process was made: the system would not."""

    number: int
    reason: str
