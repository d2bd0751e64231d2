"""How the vector of a text is made of a decoder's last hidden states: what a checkpoint says of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

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


def sees_ahead(config: Mapping[str, Any]) -> bool:
    """Whether a model's tokens attend to those behind them too, as its configuration has it: no decoder's do."""
    return config.get("use_bidirectional_attention") in (True, "all") or config.get("is_causal") is False
