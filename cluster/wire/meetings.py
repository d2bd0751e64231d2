"""What a stage process and its rendezvous say to each other."""

from dataclasses import dataclass

LONGEST_WAIT_S = 1.0
"""A caller that wants to wait longer asks again, so one that is gone is noticed within that."""


@dataclass(frozen=True)
class StoreSet:
    """Keep a value."""

    key: str
    value: bytes


@dataclass(frozen=True)
class StoreWait:
    """Tell the values of all keys once they are there, or none when that has not come about in time."""

    keys: tuple[str, ...]
    timeout_s: float


@dataclass(frozen=True)
class StoreAdd:
    """Add to a number, which is 0 at first, and tell it."""

    key: str
    amount: int


@dataclass(frozen=True)
class StoreSwap:
    """Put `desired` in place of `expected`, nothing being as good as empty; tell what is kept then."""

    key: str
    expected: bytes
    desired: bytes


@dataclass(frozen=True)
class StoreLook:
    """Are all of them there?"""

    keys: tuple[str, ...]


@dataclass(frozen=True)
class StoreDelete:
    """Forget a value; was it there?"""

    key: str


@dataclass(frozen=True)
class StoreCount:
    """How many values are kept?"""


@dataclass(frozen=True)
class StoreValues:
    """Values, in the order in which they were asked for."""

    values: tuple[bytes, ...]


@dataclass(frozen=True)
class StoreNumber:
    """A number; of what is yes or no, 1 or 0."""

    number: int


@dataclass(frozen=True)
class StoreFault:
    """It was not done."""

    message: str
