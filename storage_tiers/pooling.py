"""How the vector of a text is made of a decoder's last hidden states: what a checkpoint says of it."""

from dataclasses import dataclass
from typing import Literal

Mode = Literal["mean", "last"]
"""Of all tokens the mean, or the last token's."""


@dataclass(frozen=True)
class Pooling:
    """`mode` is None where what the checkpoint says is nothing that we do, and `fault` tells what that is.

    With `normalized` a vector has the length 1. `max_tokens` is what its maker lets a text have; None if nothing is said.
    A model that was published `without_output` has no output matrix: it gives vectors, and no tokens that make sense.
    """

    mode: Mode | None
    normalized: bool = False
    max_tokens: int | None = None
    fault: str = ""
    without_output: bool = False
