"""A batch's tokens, some of them kept to grammars: nobody waits for another's grammar to be compiled."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from cluster.stage.choosing.batch import Pending
from cluster.stage.choosing.sampling import Sampler
from cluster.stage.steps import Choice

_ALONE_S = 0.01
"""How long a step waits for grammars where nobody else's token is chosen in it; then others are heard."""
_MASK_S = 1.0
"""How long it waits for a mask of a request that had one: those are bounded, and were begun a step ago."""
_LATER = Choice(None, later=True)


class Chooses(Protocol):
    """Chooses tokens, see `Chooser`."""

    def begin_choices(self, samplers: Sequence[Sampler], logits: Tensor, positions: Sequence[int]) -> Pending: ...


def begin_bounded(chooser: Chooses, samplers: Sequence[Sampler], logits: Tensor, positions: Sequence[int]) -> "Pending":
    """The same as `chooser` does, where requests have grammars: those who have to come again, or cannot, are left out."""
    found = _find(samplers, logits.shape[1])
    rows = [row for row, choice in enumerate(found) if choice is None]
    pending = None
    if rows:
        here = logits if len(rows) == len(found) else logits[torch.tensor(rows, device=logits.device)]
        pending = chooser.begin_choices([samplers[row] for row in rows], here, [positions[row] for row in rows])
    return _Bounded(pending, rows, found, samplers)


def _find(samplers: Sequence[Sampler], vocabulary: int) -> list[Choice | None]:
    """What is known before anything is chosen: that it comes later, or cannot."""
    waiting = [s for s in samplers if s.matching is not None and not s.matching.ready()]
    alone = len(waiting) == len(samplers)
    for sampler in waiting:
        assert sampler.matching is not None
        if sampler.matching.started or alone:
            sampler.matching.ready(_MASK_S if sampler.matching.started else _ALONE_S / len(waiting))
    return [_known(sampler, vocabulary) for sampler in samplers]


def _known(sampler: Sampler, vocabulary: int) -> Choice | None:
    matching = sampler.matching
    if matching is None:
        return None
    if not matching.ready():
        return _LATER
    if matching.fault is None and not matching.allowed(vocabulary).any():
        matching.fault = "the grammar cannot be kept to: the model has none of the tokens that may follow"
    return None if matching.fault is None else Choice(None, fault=matching.fault)


class _Bounded:
    """Nothing runs ahead of it."""

    def __init__(
        self, pending: Pending | None, rows: Sequence[int], found: Sequence[Choice | None], samplers: Sequence[Sampler]
    ) -> None:
        self.tokens: Tensor | None = None
        self.unforeseen: list[int] = []
        self._pending, self._rows, self._found, self._samplers = pending, rows, found, samplers

    def result(self) -> list[Choice]:
        choices = [choice or _LATER for choice in self._found]
        if self._pending is None:
            return choices
        for row, choice in zip(self._rows, self._pending.result(), strict=True):
            choices[row] = _after(self._samplers[row], choice)
        for row in self._rows:
            matching = self._samplers[row].matching
            if matching is not None and choices[row].token is not None:
                matching.look_ahead()
        return choices


def _after(sampler: Sampler, choice: Choice) -> Choice:
    """What became of the grammar with the token."""
    matching = sampler.matching
    if matching is None or choice.token is None:
        return choice
    if matching.fault is not None:
        return Choice(None, fault=matching.fault)
    return replace(choice, over=matching.over)
