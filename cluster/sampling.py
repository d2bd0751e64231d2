"""Choosing the next token. A draw is keyed by (seed, position): it depends on nothing that ran before it, so a request
can be moved, replayed or batched with others and still gets the same text."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch

from cluster.messages import Sampling


class Sampler:
    """One request's choice of tokens: its parameters, and counts of what was generated for the penalties."""

    def __init__(self, sampling: Sampling, generated: Sequence[int]) -> None:
        self._sampling = sampling
        self._counts = Counter(generated)

    def choose(self, logits: torch.Tensor, position: int) -> int:
        """The token at `position`, from `logits` (vocabulary,) of the position before it. Remembers it."""
        token = self._draw(self._penalised(logits), position)
        self._counts[token] += 1
        return token

    def _penalised(self, logits: torch.Tensor) -> torch.Tensor:
        presence, frequency = self._sampling.presence_penalty, self._sampling.frequency_penalty
        if not self._counts or not (presence or frequency):
            return logits
        tokens = torch.tensor(list(self._counts))
        counts = torch.tensor([float(count) for count in self._counts.values()])
        logits = logits.float().clone()
        logits[tokens] -= presence + frequency * counts
        return logits

    def _draw(self, logits: torch.Tensor, position: int) -> int:
        sampling = self._sampling
        if sampling.temperature == 0.0:
            return int(torch.argmax(logits))
        scaled, tokens = torch.sort(logits.double(), descending=True, stable=True)
        scaled = (scaled - scaled[0]) / sampling.temperature  # the greatest becomes 0: no temperature overflows it
        if sampling.top_k > 0:
            scaled, tokens = scaled[: sampling.top_k], tokens[: sampling.top_k]
        cumulative = torch.softmax(scaled, 0).cumsum(0)
        if sampling.top_p < 1.0:
            kept = int(torch.searchsorted(cumulative, sampling.top_p)) + 1
            cumulative = cumulative[:kept]
        point = uniform(sampling.seed, position) * float(cumulative[-1])
        index = int(torch.searchsorted(cumulative, point, right=True))
        return int(tokens[min(index, len(cumulative) - 1)])


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that depends on (seed, position) alone (Philox, a counter-based generator)."""
    generator = np.random.Philox(key=seed & (2**64 - 1), counter=position)
    return float(np.random.Generator(generator).random())
