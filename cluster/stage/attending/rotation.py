"""Rotary encodings whose factors follow the length of the sequence: the kinds "dynamic" and "longrope".

transformers keeps the factors in the module: those of the longest sequence of this forward pass, or of one before. Here a
token has those of the length that its own request had when `generate` would have computed it: the prompt's for a token of
the prompt, for a later one as many tokens as there were with it. So they depend neither on what runs beside or ran before
nor on the pieces that a prompt comes in, and are the same again when the request is replayed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from cluster.model_facts import follows_length, rope_border, rope_kinds
from cluster.stage.steps import Segment


class Rotation:
    """The factors of a model's rotary module, which it is given before each step; nothing for kinds that do not change."""

    def __init__(self, rotary: nn.Module) -> None:
        config: Any = rotary.config
        kinds = rope_kinds(config)
        self._changing = [
            _Changing(rotary, layers, kind, rope_border(config, kind))
            for layers, kind in kinds.items()
            if follows_length(kind)
        ]
        if self._changing:  # or the module would go by the longest sequence again
            rotary.rope_type = "default" if None in kinds else dict.fromkeys(kinds, "default")

    @property
    def changes(self) -> bool:
        """Whether factors follow lengths."""
        return bool(self._changing)

    def turn_to(self, segments: Sequence[Segment]) -> None:
        """The next forward pass is for the tokens of `segments`."""
        if self._changing:
            lengths = torch.cat([lengths_of(segment) for segment in segments])
            for changing in self._changing:
                changing.turn_to(lengths)


def lengths_of(segment: Segment) -> torch.Tensor:
    """(tokens,): how many tokens its request counts when each token is computed for the first time."""
    return torch.arange(segment.position + 1, segment.position + segment.tokens + 1).clamp(min=segment.whole)


class _Changing:
    """The factors of layers of one type, of all if `layers` is None. Beyond `border` tokens they are others."""

    def __init__(self, rotary: nn.Module, layers: str | None, kind: Mapping[str, Any], border: int) -> None:
        self._rotary, self._layers, self._border = rotary, layers, border
        self._config: Any = rotary.config
        self._name = "inv_freq" if layers is None else f"{layers}_inv_freq"
        self._make = ROPE_INIT_FUNCTIONS[kind["rope_type"]]
        self._within: torch.Tensor = getattr(rotary, self._name)
        self._grows = kind["rope_type"] == "dynamic"
        self._beyond = self._factors(border + 1)

    def turn_to(self, lengths: torch.Tensor) -> None:
        """Give each token a row of factors, (tokens, factors), in the place of the one row that is for all."""
        factors = self._within
        lengths = lengths[:, None]
        if bool((lengths > self._border).any()):
            beyond = self._factors(lengths) if self._grows else self._beyond
            factors = torch.where(lengths > self._border, beyond, self._within)
        setattr(self._rotary, self._name, factors)

    def _factors(self, lengths: int | torch.Tensor) -> torch.Tensor:
        """transformers' own; of "dynamic" for any number of `lengths` (n, 1) at once."""
        return self._make(self._config, torch.device("cpu"), seq_len=lengths, layer_type=self._layers)[0]
