"""What the penalties ask about a request, kept on the device: how often each token came, and which the prompt has."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cluster.stage.choosing.sampling import Sampler

_TOKEN_BYTES = 5
"""A count in float32 and a flag."""


@dataclass(frozen=True)
class Penalties:
    """Of some rows of a batch. `rows` and `places` are (n,) in int64, the others (n, 1) in float32."""

    rows: Tensor
    places: Tensor
    presence: Tensor
    frequency: Tensor
    repetition: Tensor


class Ledger:
    """Places of (vocabulary,) for the requests that have penalties; who finds none is done elsewhere.

    A place is written from the sampler when it is taken, and from then on by what is chosen on the device.
    """

    def __init__(self, room_bytes: int, vocabulary: int, device: torch.device) -> None:
        """`room_bytes` are taken when the first request comes, less what does not make a whole place."""
        self._vocabulary, self._device = vocabulary, device
        self._free = list(range(room_bytes // (_TOKEN_BYTES * vocabulary)))
        self._count = len(self._free)
        self._places: dict[Sampler, int] = {}
        self._counts: Tensor | None = None
        self._prompts: Tensor | None = None

    @property
    def size_bytes(self) -> int:
        """Memory of the device that it has."""
        return 0 if self._counts is None else self._count * self._vocabulary * _TOKEN_BYTES

    def place(self, sampler: Sampler) -> tuple[int | None, bool]:
        """The request's place, None if there is none left; and whether it is new, and has to be written."""
        known = self._places.get(sampler)
        if known is not None or not self._free:
            return known, False
        self._places[sampler] = self._free.pop()
        return self._places[sampler], True

    def forget(self, sampler: Sampler) -> None:
        """The request is over."""
        place = self._places.pop(sampler, None)
        if place is not None:
            self._free.append(place)

    def write(self, places: Tensor, counted: tuple[Tensor, Tensor], prompts: Tensor) -> None:
        """New requests at `places`: where their tokens are and how often, where their prompts' are; all (n,).

        Where: place times the vocabulary's size, plus the token, in int64.
        """
        if self._counts is None:
            shape = (self._count, self._vocabulary)
            self._counts = torch.empty(shape, dtype=torch.float32, device=self._device)
            self._prompts = torch.empty(shape, dtype=torch.bool, device=self._device)
        assert self._prompts is not None
        self._counts.index_fill_(0, places, 0.0)
        self._prompts.index_fill_(0, places, False)
        where, counts = counted
        self._counts.view(-1).index_copy_(0, where, counts.float())
        self._prompts.view(-1).index_fill_(0, prompts, True)

    def penalise(self, logits: Tensor, penalties: Penalties) -> None:
        """Change the rows of `logits` (rows, vocabulary) in place: repetition's penalty first, then the others."""
        assert self._counts is not None
        assert self._prompts is not None
        counts = self._counts.index_select(0, penalties.places)
        came = counts > 0.0
        scores = logits.index_select(0, penalties.rows)
        repeated = torch.where(scores < 0, scores * penalties.repetition, scores / penalties.repetition)
        seen = came | self._prompts.index_select(0, penalties.places)
        scores = torch.where(seen, torch.nan_to_num(repeated), scores)
        taken = counts.mul_(penalties.frequency).add_(penalties.presence)
        logits.index_copy_(0, penalties.rows, scores.sub_(torch.where(came, taken, 0.0)))

    def count(self, places: Tensor, tokens: Tensor) -> None:
        """`tokens` (n,) were chosen by those at `places`; none where it is negative."""
        assert self._counts is not None
        where = places * self._vocabulary + tokens.clamp(min=0)
        self._counts.view(-1).index_add_(0, where, (tokens >= 0).float())

    def count_one(self, sampler: Sampler, token: int) -> None:
        """`token` was chosen elsewhere."""
        place = self._places.get(sampler)
        if place is not None and self._counts is not None:
            self._counts[place, token] += 1.0


def entries(samplers: Sequence[tuple[Sampler, int]], vocabulary: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What `Ledger.write` is to write of samplers at their places, as numbers: where, counts, where of the prompts."""
    where = [place * vocabulary + token for sampler, place in samplers for token in sampler.counts]
    counts = [count for sampler, _ in samplers for count in sampler.counts.values()]
    prompts = [place * vocabulary + token for sampler, place in samplers for token in sampler.prompt]
    return np.array(where, dtype=np.float64), np.array(counts, dtype=np.float64), np.array(prompts, dtype=np.float64)
