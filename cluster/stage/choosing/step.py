"""One step's choice on the device: what comes there, what is asked, and the rows that have to be looked at again."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from cluster.stage.choosing.draws import Field, Odds, draw_likeliest
from cluster.stage.choosing.penalties import Ledger, Penalties, entries
from cluster.stage.choosing.sampling import LEAST, NONE, Sampler
from cluster.stage.choosing.tables import Kind, Table, masks_at, stops_at
from cluster.stage.choosing.trips import Trip

UNDECIDED = -2
"""Stands for a token that the look was too short for."""
ELSEWHERE = -3
"""Stands for a token that the request's sampler is to choose."""


class DeviceStep:
    """One step's choice on the device."""

    def __init__(self, table: Table, look: int, ledger: Ledger) -> None:
        self._table, self._look, self._ledger = table, look, ledger
        self.values: Tensor | None = None
        """The logits as they came, (rows, vocabulary) in float32, kept for those who are undecided."""

    def send(
        self, trip: Trip, samplers: Sequence[Sampler], positions: Sequence[int], vocabulary: int,
        new: Sequence[tuple[Sampler, int]],
    ) -> None:  # fmt: skip
        """Bring everything that the choice depends on to the device, in one copy."""
        table = self._table
        draws = not table.kinds.isdisjoint((Kind.LIKELIEST, Kind.ANY, Kind.FURTHER))
        points = [s.uniform(p) for s, p in zip(samplers, positions, strict=True)] if draws else [0.0] * len(samplers)
        stops = stops_at(samplers, positions, vocabulary)
        masked, masks = masks_at(samplers, positions, vocabulary)
        places = [place for _, place in new]
        parts = [table.numbers, np.array(points), table.bias, np.array(stops), table.penalties, masked, masks]
        if new:
            parts += [np.array(places), *entries(new, vocabulary)]
        sent = trip.send(parts).split([part.size for part in parts])
        numbers, points, self._bias, self._stops, self._penalties, self._masked, self._masks = sent[:7]
        self._columns = numbers.view(5, -1, 1).unbind(0)
        self._points = points.view(-1, 1)
        if new:
            where, where_counted, counts, prompts = sent[7:]
            self._ledger.write(where.long(), (where_counted.long(), counts), prompts.long())

    def choose(self, logits: Tensor) -> Tensor:
        """The answer: tokens (rows, 1); with log probabilities (rows, 2 + 2 n) in float64: the token's, n tokens, theirs."""
        self.values = logits.to(torch.float32, copy=True)
        greatest, first = self.values.max(-1, keepdim=True)
        known = torch.isfinite(greatest)
        self._adjusted = self._adjust(self.values.nan_to_num_())
        if self._adjusted is not self.values:
            greatest, first = self._adjusted.max(-1, keepdim=True)
        self._greatest = greatest
        tokens = torch.where(known, self._permitted(self._draw(first), first), NONE)
        if len(self._penalties):
            self._ledger.count(self._places, tokens.view(-1).index_select(0, self._penalised))
        return self._tell(tokens, self.values)

    def choose_again(self, trip: Trip, rows: Sequence[int]) -> Tensor:
        """The answer of rows that were undecided, from all tokens. What it chooses is not counted in the ledger."""
        picked = trip.send([np.array(rows)]).long()
        adjusted, greatest = self._adjusted.index_select(0, picked), self._greatest.index_select(0, picked)
        odds = Odds(*(column.index_select(0, picked) for column in (*self._columns[:4], self._points)))
        whole = Field(adjusted, greatest, odds.temperature).sums().sum(-1, keepdim=True)
        drawn = draw_likeliest(adjusted, greatest, odds, adjusted.shape[1], whole)
        assert self.values is not None
        return self._tell(drawn.tokens, self.values.index_select(0, picked))

    def _adjust(self, values: Tensor) -> Tensor:
        """Bias, penalties, then the stops that may not come yet, and what grammars forbid."""
        if not (len(self._bias) or len(self._penalties) or len(self._stops) or len(self._masked)):
            return values
        adjusted = values.clone()
        flat = adjusted.view(-1)
        if len(self._bias):
            where, much = self._bias.view(2, -1)
            flat.index_add_(0, where.long(), much.float())
        if len(self._penalties):
            self._penalised, self._places = self._penalties.view(5, -1)[:2].long()
            presence, frequency, repetition = self._penalties.view(5, -1, 1)[2:].float()
            self._ledger.penalise(adjusted, Penalties(self._penalised, self._places, presence, frequency, repetition))
        if len(self._stops):
            flat.index_fill_(0, self._stops.long(), LEAST)
        if len(self._masked):
            rows = self._masked.long()
            adjusted.index_copy_(
                0, rows, adjusted.index_select(0, rows).masked_fill_(self._forbidden(len(rows)), -torch.inf)
            )
        return adjusted

    def _forbidden(self, rows: int) -> Tensor:
        """(rows, vocabulary) of bool, of the rows that have a grammar."""
        bits = self._masks.view(torch.uint8).view(rows, -1, 1)
        allowed = bits.bitwise_right_shift(torch.arange(8, dtype=torch.uint8, device=bits.device)).bitwise_and_(1)
        assert self.values is not None
        return allowed.view(rows, -1)[:, : self.values.shape[1]] == 0

    def _permitted(self, tokens: Tensor, first: Tensor) -> Tensor:
        """The tokens, the greatest instead of what a grammar forbids: rounding may bring a draw to its neighbour."""
        if not len(self._masked):
            return tokens
        forbidden = self._adjusted.gather(1, tokens.clamp(min=0)) == -torch.inf
        return torch.where(forbidden & (tokens >= 0), first, tokens)

    def _draw(self, first: Tensor) -> Tensor:
        adjusted, greatest, kinds = self._adjusted, self._greatest, self._table.kinds
        temperature, top_k, top_p, min_p, kind = self._columns
        field = Field(adjusted, greatest, temperature) if self._table.field else None
        sums = None if field is None else field.sums()
        tokens = first
        if Kind.LIKELIEST in kinds:
            whole = None if sums is None else sums.sum(-1, keepdim=True)
            odds = Odds(temperature, top_k, top_p, min_p, self._points)
            drawn = draw_likeliest(adjusted, greatest, odds, min(self._look, adjusted.shape[1]), whole)
            likeliest = torch.where(drawn.undecided, UNDECIDED, drawn.tokens)
            tokens = torch.where(kind == Kind.LIKELIEST, likeliest, tokens)
        if Kind.ANY in kinds:
            assert field is not None
            if self._table.floor:
                field.keep(min_p)
                sums = field.sums()
            tokens = torch.where(kind == Kind.ANY, field.draw(sums, self._points), tokens)
        for other, mark in ((Kind.FURTHER, UNDECIDED), (Kind.ELSEWHERE, ELSEWHERE)):
            if other in kinds:
                tokens = torch.where(kind == other, mark, tokens)
        return tokens

    def _tell(self, tokens: Tensor, values: Tensor) -> Tensor:
        count = self._table.logprobs
        if count is None:
            return tokens
        logprobs = torch.log_softmax(values, -1)
        told = [tokens.double(), logprobs.gather(1, tokens.clamp(min=0)).double()]
        if count:
            likeliest = torch.topk(logprobs, count)
            told += [likeliest.indices.double(), likeliest.values.double()]
        return torch.cat(told, 1)
