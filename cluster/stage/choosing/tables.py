"""A batch's parameters as numbers: made once for the same requests, however many steps they stay together."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from cluster.stage.choosing.penalties import Ledger
from cluster.stage.choosing.sampling import Sampler


class Kind(IntEnum):
    """How a row's token comes."""

    GREATEST = 0
    LIKELIEST = 1
    """Drawn from the likeliest alone: it has top_k or top_p."""
    ANY = 2
    FURTHER = 3
    """Drawn from the likeliest, of which top_k leaves more than are looked at."""
    ELSEWHERE = 4
    """By the request's sampler, on the host."""


@dataclass(frozen=True)
class Table:
    """Rows are requests; where: row times the vocabulary's size, plus a token. All numbers in float64.

    `numbers` is (5, rows): temperature, top_k (the vocabulary's size for none), top_p, min_p, kind. `bias` is (2, n): where
    and how much. `penalties` is (5, n): row, place in the ledger, presence, frequency, repetition. `logprobs` is how many of
    the likeliest are told at most; None: of nobody.
    """

    numbers: np.ndarray
    kinds: frozenset[Kind]
    field: bool
    """Whether the weights of all tokens are asked for."""
    floor: bool
    """Whether a row that is drawn from all tokens has min_p."""
    bias: np.ndarray
    penalties: np.ndarray
    logprobs: int | None


def tabulate(
    samplers: Sequence[Sampler], vocabulary: int, look: int, ledger: Ledger
) -> tuple[Table, list[tuple[Sampler, int]]]:
    """The table, and who has a new place in the ledger, which is to be written before anything is chosen."""
    places = [ledger.place(sampler) if sampler.penalised else (None, False) for sampler in samplers]
    columns = [_column(s, vocabulary, look, place) for s, (place, _) in zip(samplers, places, strict=True)]
    bias = [
        (row * vocabulary + token, bias)
        for row, sampler in enumerate(samplers)
        for token, bias in sampler.sampling.logit_bias
        if token < vocabulary
    ]
    penalties = [
        (row, place, s.sampling.presence_penalty, s.sampling.frequency_penalty, s.sampling.repetition_penalty)
        for row, (s, (place, _)) in enumerate(zip(samplers, places, strict=True))
        if place is not None
    ]
    told = [min(s.sampling.logprobs, vocabulary) for s in samplers if s.sampling.logprobs is not None]
    table = Table(
        numbers=np.array(columns, dtype=np.float64).T.copy(),
        kinds=frozenset(Kind(int(column[-1])) for column in columns),
        field=any(
            kind is Kind.ANY or (kind is Kind.LIKELIEST and top_k == vocabulary) for _, top_k, *_, kind in columns
        ),
        floor=any(min_p and kind is Kind.ANY for *_, min_p, kind in columns),
        bias=np.array(bias, dtype=np.float64).reshape(-1, 2).T.copy(),
        penalties=np.array(penalties, dtype=np.float64).reshape(-1, 5).T.copy(),
        logprobs=max(told, default=None),
    )
    new = [(s, place) for s, (place, fresh) in zip(samplers, places, strict=True) if fresh and place is not None]
    return table, new


def _column(sampler: Sampler, vocabulary: int, look: int, place: int | None) -> tuple[float, ...]:
    sampling = sampler.sampling
    top_k = min(sampling.top_k or vocabulary, vocabulary)
    kind = _kind(sampler, top_k, vocabulary, look, place)
    return sampling.temperature or 1.0, top_k, sampling.top_p, sampling.min_p, kind


def _kind(sampler: Sampler, top_k: int, vocabulary: int, look: int, place: int | None) -> Kind:
    if sampler.penalised and place is None:
        return Kind.ELSEWHERE
    if sampler.sampling.temperature == 0.0:
        return Kind.GREATEST
    if look < top_k < vocabulary:
        return Kind.FURTHER
    return Kind.LIKELIEST if top_k < vocabulary or sampler.sampling.top_p < 1.0 else Kind.ANY


def masks_at(samplers: Sequence[Sampler], positions: Sequence[int], vocabulary: int) -> tuple[np.ndarray, np.ndarray]:
    """Of those that have a grammar the rows, (n,) in float64, and what may be chosen, (n, words): bits of tokens, 64 in the
    place of a number."""
    rows, masks = [], []
    for row, (sampler, position) in enumerate(zip(samplers, positions, strict=True)):
        allowed = sampler.allowed(position, vocabulary)
        if allowed is not None:
            rows.append(row)
            masks.append(np.pad(allowed, (0, -len(allowed) % 8)).view(np.float64))
    return np.array(rows, dtype=np.float64), np.array(masks, dtype=np.float64)


def stops_at(samplers: Sequence[Sampler], positions: Sequence[int], vocabulary: int) -> list[int]:
    """Where no token may be chosen yet, of those that have no grammar: what its says has that in it."""
    return [
        row * vocabulary + token
        for row, (sampler, position) in enumerate(zip(samplers, positions, strict=True))
        if position < sampler.stops_from and sampler.matching is None
        for token in sampler.stops
        if token < vocabulary
    ]
