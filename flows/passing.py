"""How large values go to tasks."""

from typing import TypeVar, cast

from prefect.utilities.annotations import quote

T = TypeVar("T")


def unseen(value: T) -> T:
    """The same to the task; Prefect does not look through all of it for what other tasks gave, which takes seconds."""
    return cast(T, quote(value))
