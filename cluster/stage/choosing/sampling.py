"""Choosing the next token. A draw is keyed by (seed, position): it depends on nothing that ran before it, so a request
can be moved, replayed or batched with others and still gets the same text."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

from cluster.stage.steps import Choice
from cluster.wire.requests import Sampling, TokenLogprobs

_FIRST_LOOK = 256
"""Most likely tokens that are sorted to find top_p's set; all of them only when these do not reach it."""
_AHEAD = 64
"""Draws of a request that are made together: making a generator costs as much as hundreds of numbers."""
_NUMBERS = 4
"""What Philox gives for one value of its counter."""
LEAST = torch.finfo(torch.float32).min
"""What no token's logit is below while it is chosen from, and what a stop that may not come yet has."""
NONE = -1
"""Stands for a token where none could be chosen."""


class Matching(Protocol):
    """A request's way through its grammar, see `cluster.stage.choosing.grammars`."""

    started: bool
    over: bool
    fault: str | None

    def ready(self, timeout_s: float = 0.0) -> bool: ...
    def allowed(self, vocabulary: int) -> np.ndarray: ...
    def take(self, token: int) -> None: ...
    def look_ahead(self) -> None: ...


class Sampler:
    """One request's choice of tokens: its parameters, and counts of its tokens for the penalties.

    At positions before `stops_from` none of the `stops` is chosen, unless the vocabulary, or the grammar of `matching`, has
    no other token. Whatever else is asked, none is chosen that the grammar forbids.
    """

    def __init__(
        self,
        sampling: Sampling,
        prompt: Sequence[int],
        generated: Sequence[int],
        stops: Sequence[int] = (),
        stops_from: int = 0,
        matching: Matching | None = None,
    ) -> None:
        self.sampling, self.matching = sampling, matching
        self.counts = Counter(generated)
        """How often each token of the answer came."""
        self.prompt = frozenset(prompt) if sampling.repetition_penalty != 1.0 else frozenset()
        """The prompt's tokens, if there is a penalty that asks for them."""
        self.penalised = bool(
            sampling.presence_penalty or sampling.frequency_penalty or sampling.repetition_penalty != 1.0
        )
        self.foreseeable = not self.penalised and matching is None
        """Whether its choice can be fed before it is looked at. A penalty and a grammar depend on what came before; a first
        look that did not find the token is likely not to find the next."""
        self.stops, self.stops_from = tuple(stops), stops_from
        plain = sampling.temperature == 0.0 and sampling.logprobs is None and matching is None
        self._greedy = plain and not (self.penalised or sampling.logit_bias)
        self._ahead: tuple[int, list[float]] = (0, [])
        self._biased = torch.tensor([token for token, _ in sampling.logit_bias], dtype=torch.int64)
        self._biases = torch.tensor([bias for _, bias in sampling.logit_bias], dtype=torch.float32)
        self._stops = torch.tensor(stops, dtype=torch.int64)

    def greedy(self, position: int) -> bool:
        """Whether the token is the likeliest one and nothing else is asked: a batch's can be found at once."""
        return self._greedy and position >= self.stops_from

    def choose(self, logits: torch.Tensor, position: int) -> Choice:
        """The token at `position`, from `logits` (vocabulary,) of the position before it. Remembers it.

        There is none if the greatest logit is no finite number: NaN counts as greater than any. Others may be -inf.
        """
        logits = logits.float()
        if not math.isfinite(logits.max()):
            return Choice(None)
        logits = logits.clamp(min=LEAST)
        adjusted = self._adjusted(logits)
        allowed = self.allowed(position, len(adjusted))
        if allowed is not None:
            bits = np.unpackbits(allowed, count=len(adjusted), bitorder="little")
            adjusted[torch.from_numpy(bits) == 0] = -math.inf
        elif position < self.stops_from:
            adjusted[self._stops[self._stops < len(adjusted)]] = LEAST
        token = self._draw(adjusted, position)
        self.remember(token)
        return Choice(token, self._logprobs(logits, token))

    def allowed(self, position: int, vocabulary: int) -> np.ndarray | None:
        """Which of so many tokens may be chosen there, a bit each in bytes of 8, the lowest first; None without a grammar."""
        if self.matching is None:
            return None
        allowed = self.matching.allowed(vocabulary)
        if position >= self.stops_from:
            return allowed
        without = allowed.copy()
        for token in self.stops:
            if token < vocabulary:
                without[token // 8] &= ~(1 << token % 8) & 0xFF
        return without if without.any() else allowed

    def remember(self, token: int) -> None:
        """The token was chosen."""
        self.counts[token] += 1
        if self.matching is not None:
            self.matching.take(token)

    def uniform(self, position: int) -> float:
        """`uniform(seed, position)`, cheaper for positions that follow each other."""
        first, numbers = self._ahead
        if not 0 <= position - first < len(numbers):
            first, numbers = self._ahead = position, uniforms(self.sampling.seed, position, _AHEAD)
        return numbers[position - first]

    def _adjusted(self, logits: torch.Tensor) -> torch.Tensor:
        """Bias, then the penalties: repetition's of prompt and answer (as transformers has it), the others' of the answer."""
        sampling = self.sampling
        changed = logits.clone()
        if len(self._biased):
            known = self._biased < len(changed)
            changed.index_add_(0, self._biased[known], self._biases[known])
        seen = torch.tensor(list(self.prompt | self.counts.keys()), dtype=torch.int64)
        if sampling.repetition_penalty != 1.0 and len(seen):
            scores, penalty = changed[seen], sampling.repetition_penalty
            penalised = torch.where(scores < 0, scores * penalty, scores / penalty)
            changed[seen] = torch.nan_to_num(penalised)  # a penalty near 0 overflows
        if self.counts and (sampling.presence_penalty or sampling.frequency_penalty):
            tokens = torch.tensor(list(self.counts))
            counts = torch.tensor([float(count) for count in self.counts.values()])
            changed[tokens] -= sampling.presence_penalty + sampling.frequency_penalty * counts
        return changed

    def _draw(self, logits: torch.Tensor, position: int) -> int:
        sampling = self.sampling
        if sampling.temperature == 0.0:
            return int(torch.argmax(logits))
        scaled = (
            logits.double() - logits.max()
        ) / sampling.temperature  # the greatest is 0: no temperature overflows it
        weights, tokens = scaled.exp_(), None
        if 0 < sampling.top_k < len(weights) or sampling.top_p < 1.0:
            weights, tokens = self._likeliest(weights)
        if sampling.min_p > 0.0:
            weights = torch.where(weights >= sampling.min_p * weights.max(), weights, 0.0)
        cumulative = weights.cumsum(0)
        point = self.uniform(position) * float(cumulative[-1])
        index = min(int(torch.searchsorted(cumulative, point, right=True)), len(cumulative) - 1)
        while index and weights[index] == 0.0:  # rounding brought us past the last that may be drawn
            index -= 1
        return index if tokens is None else int(tokens[index])

    def _likeliest(self, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The tokens that top_k, and then top_p, leave, likeliest first; of equals, those of lower number."""
        top_k, top_p = self.sampling.top_k or len(weights), self.sampling.top_p
        look = top_k if top_k < len(weights) else min(len(weights), _FIRST_LOOK)
        while True:
            kept, tokens = _sorted(weights, look)
            if top_p >= 1.0:
                return kept, tokens
            whole = float(kept.sum() if top_k < len(weights) else weights.sum())
            cumulative = kept.cumsum(0)
            reached = int(torch.searchsorted(cumulative, top_p * whole)) + 1
            if reached <= look or look in (top_k, len(weights)):
                return kept[:reached], tokens[:reached]
            look = len(weights)

    def _logprobs(self, logits: torch.Tensor, token: int) -> TokenLogprobs | None:
        """Of the model's own distribution, before anything is adjusted."""
        count = self.sampling.logprobs
        if count is None:
            return None
        logprobs = torch.log_softmax(logits, 0)
        values, tokens = torch.topk(logprobs, min(count, len(logprobs)))
        top = tuple(zip(tokens.tolist(), (finite(value) for value in values.tolist()), strict=True))
        return TokenLogprobs(finite(float(logprobs[token])), top)


def choose_all(samplers: Sequence[Sampler], logits: torch.Tensor, positions: Sequence[int]) -> list[Choice]:
    """The next token of each request, from `logits` (requests, vocabulary)."""
    greedy = [sampler.greedy(position) for sampler, position in zip(samplers, positions, strict=True)]
    greatest = _greatest(logits) if any(greedy) else [NONE] * len(samplers)
    rows = logits if all(greedy) else logits.cpu()
    choices = []
    for sampler, position, token, row, plain in zip(samplers, positions, greatest, rows, greedy, strict=True):
        if not plain:
            choices.append(sampler.choose(row, position))
            continue
        choices.append(Choice(None if token == NONE else token))
        if token != NONE:
            sampler.remember(token)
    return choices


def _greatest(logits: torch.Tensor) -> list[int]:
    """The likeliest token of each row, NONE where there is none; together: a GPU is waited for but once."""
    greatest, tokens = torch.max(logits, -1)
    known: list[int] = torch.where(torch.isfinite(greatest), tokens, NONE).tolist()
    return known


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that depends on (seed, position) alone (Philox, a counter-based generator)."""
    return uniforms(seed, position, 1)[0]


def uniforms(seed: int, position: int, count: int) -> list[float]:
    """The numbers of `count` positions from `position` on."""
    generator = np.random.Generator(np.random.Philox(key=seed & (2**64 - 1), counter=position))
    return generator.random(_NUMBERS * count)[::_NUMBERS].tolist()


def _sorted(weights: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The `count` greatest in falling order; of equals the one of lower number first, also at the cut."""
    if count == len(weights):
        return torch.sort(weights, descending=True, stable=True)
    least = torch.topk(weights, count).values[-1]
    candidates = torch.nonzero(weights >= least).flatten()
    values, order = torch.sort(weights[candidates], descending=True, stable=True)
    return values[:count], candidates[order][:count]


def finite(value: float) -> float:
    """The log probability, as JSON can have it."""
    return max(value, -1e9)
