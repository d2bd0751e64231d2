"""The next tokens of a whole batch, chosen where its logits are: the very tokens that each request's `Sampler` chooses.

On a device everything is queued: one copy brings the parameters there, one brings the answer back, and the host waits for
nothing before `result`. What cannot be decided there is chosen by the request's sampler, from that row alone.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from cluster.stage.batching import Choice
from cluster.stage.choosing.draws import Field, Odds, draw_likeliest
from cluster.stage.choosing.penalties import Ledger, Penalties, entries
from cluster.stage.choosing.tables import Kind, Table, stops_at, tabulate
from cluster.stage.choosing.trips import Trip, Trips, cuda_trips
from cluster.stage.sampling import LEAST, NONE, Sampler, choose_all, finite
from cluster.wire.requests import TokenLogprobs

_UNDECIDED = -2
_LOOK = 1024
_TABLES = 8
"""Batches whose parameters are kept: as many as steps may be under way, and then some."""
_WORKING_BYTES = 32
"""Of a token of a row at most: logits twice, weights, what the penalties compare."""


def working_bytes(rows: int, vocabulary: int) -> int:
    """Memory of the device that choosing takes for a moment, beside the logits and the ledger."""
    return rows * vocabulary * _WORKING_BYTES


class Pending(Protocol):
    """Tokens that are being chosen. `tokens` (requests,) has them on the device before anybody has looked at them, for a
    step that runs ahead; None if they are nowhere but on the host. Once `result` was asked for, `unforeseen` names the
    requests whose token there is not the one."""

    tokens: Tensor | None
    unforeseen: list[int]

    def result(self) -> list[Choice]:
        """Wait for them. To be called once, before the same requests' next ones are begun."""
        ...


class Chooser:
    """Chooses a group's tokens. With `trips` on their device, without at once, by the requests' samplers."""

    def __init__(self, trips: Trips | None, ledger_bytes: int = 64 << 20, look: int = _LOOK) -> None:
        """`ledger_bytes` of the device are for requests that have penalties, from when the first of them comes.

        `look`: among how many of the likeliest tokens top_k and top_p are looked for.
        """
        self._trips, self._ledger_bytes, self._look = trips, ledger_bytes, look
        self._ledger: Ledger | None = None
        self._tables: dict[tuple[Sampler, ...], Table] = {}

    @property
    def ledger_bytes(self) -> int:
        """Memory of the device that the penalties have now."""
        return 0 if self._ledger is None else self._ledger.size_bytes

    @torch.inference_mode()
    def begin_choices(self, samplers: Sequence[Sampler], logits: Tensor, positions: Sequence[int]) -> Pending:
        """The next token of each request, from `logits` (requests, vocabulary), which may be overwritten afterwards."""
        if self._trips is None:
            return _Chosen(choose_all(samplers, logits, positions))
        trip = self._trips.start()
        if all(sampler.greedy(position) for sampler, position in zip(samplers, positions, strict=True)):
            greatest, tokens = logits.max(-1, keepdim=True)
            trip.fetch(torch.where(torch.isfinite(greatest), tokens, NONE))
            return _Queued(trip, samplers, positions, tokens.view(-1))
        if self._ledger is None:
            self._ledger = Ledger(self._ledger_bytes, logits.shape[1], logits.device)
        table, new = self._table(tuple(samplers), logits.shape[1])
        batch = _Batch(table, self._look, self._ledger)
        batch.send(trip, samplers, positions, logits.shape[1], new)
        told = batch.choose(logits)
        trip.fetch(told)
        return _Queued(trip, samplers, positions, told[:, 0].long().clamp_(min=0), batch.values, self._ledger)

    def forget(self, sampler: Sampler) -> None:
        """The request is over."""
        self._tables = {key: table for key, table in self._tables.items() if sampler not in key}
        if self._ledger is not None:
            self._ledger.forget(sampler)

    def _table(self, samplers: tuple[Sampler, ...], vocabulary: int) -> tuple[Table, list[tuple[Sampler, int]]]:
        known = self._tables.get(samplers)
        if known is not None:
            return known, []
        assert self._ledger is not None
        table, new = tabulate(samplers, vocabulary, self._look, self._ledger)
        while len(self._tables) >= _TABLES:
            del self._tables[next(iter(self._tables))]
        self._tables[samplers] = table
        return table, new


def chooser_on(device: torch.device, ledger_bytes: int = 64 << 20) -> Chooser:
    """The one for logits on `device`."""
    return Chooser(cuda_trips(device) if device.type == "cuda" else None, ledger_bytes)


class _Batch:
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
        draws = not table.kinds.isdisjoint((Kind.LIKELIEST, Kind.ANY))
        points = [s.uniform(p) for s, p in zip(samplers, positions, strict=True)] if draws else [0.0] * len(samplers)
        stops = stops_at(samplers, positions, vocabulary)
        places = [place for _, place in new]
        parts = [table.numbers, np.array(points), table.bias, np.array(stops), table.penalties]
        if new:
            parts += [np.array(places), *entries(new, vocabulary)]
        sent = trip.send(parts).split([part.size for part in parts])
        self._numbers, self._points, self._bias, self._stops, self._penalties = sent[:5]
        if new:
            where, where_counted, counts, prompts = sent[5:]
            self._ledger.write(where.long(), (where_counted.long(), counts), prompts.long())

    def choose(self, logits: Tensor) -> Tensor:
        """The answer: tokens (rows, 1); with log probabilities (rows, 2 + 2 n) in float64: the token's, n tokens, theirs."""
        self.values = logits.to(torch.float32, copy=True)
        greatest, first = self.values.max(-1, keepdim=True)
        known = torch.isfinite(greatest)
        adjusted = self._adjust(self.values.nan_to_num_())
        if adjusted is not self.values:
            greatest, first = adjusted.max(-1, keepdim=True)
        tokens = torch.where(known, self._draw(adjusted, greatest, first), NONE)
        if len(self._penalties):
            self._ledger.count(self._places, tokens.view(-1).index_select(0, self._penalised))
        return tokens if self._table.logprobs is None else self._tell(tokens, self._table.logprobs)

    def _adjust(self, values: Tensor) -> Tensor:
        """Bias, penalties, then the stops that may not come yet."""
        if not (len(self._bias) or len(self._penalties) or len(self._stops)):
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
        return adjusted

    def _draw(self, adjusted: Tensor, greatest: Tensor, first: Tensor) -> Tensor:
        rows, vocabulary = adjusted.shape
        temperature, top_k, top_p, min_p, kind = self._numbers.view(5, rows, 1)
        odds = Odds(temperature, top_k, top_p, min_p, self._points.view(rows, 1))
        field = Field(adjusted, greatest, temperature) if self._table.field else None
        sums = None if field is None else field.sums()
        whole = None if sums is None else sums.sum(-1, keepdim=True)
        tokens = first
        if Kind.LIKELIEST in self._table.kinds:
            drawn = draw_likeliest(adjusted, greatest, odds, min(self._look, vocabulary), whole)
            likeliest = torch.where(drawn.undecided, _UNDECIDED, drawn.tokens)
            tokens = torch.where(kind == Kind.LIKELIEST, likeliest, tokens)
        if Kind.ANY in self._table.kinds:
            assert field is not None
            if self._table.floor:
                field.keep(min_p)
                sums = field.sums()
            tokens = torch.where(kind == Kind.ANY, field.draw(sums, odds.point), tokens)
        if Kind.ELSEWHERE in self._table.kinds:
            tokens = torch.where(kind == Kind.ELSEWHERE, _UNDECIDED, tokens)
        return tokens

    def _tell(self, tokens: Tensor, count: int) -> Tensor:
        assert self.values is not None
        logprobs = torch.log_softmax(self.values, -1)
        of_token = logprobs.gather(1, tokens.clamp(min=0))
        told = [tokens.double(), of_token.double()]
        if count:
            values, likeliest = torch.topk(logprobs, count)
            told += [likeliest.double(), values.double()]
        return torch.cat(told, 1)


class _Chosen:
    """What was chosen at once."""

    def __init__(self, choices: list[Choice]) -> None:
        self._choices = choices
        self.tokens: Tensor | None = None
        self.unforeseen: list[int] = []

    def result(self) -> list[Choice]:
        return self._choices


class _Queued:
    """What a device is at; `values` are the logits, for the rows that it does not decide."""

    def __init__(
        self, trip: Trip, samplers: Sequence[Sampler], positions: Sequence[int], tokens: Tensor,
        values: Tensor | None = None, ledger: Ledger | None = None,
    ) -> None:  # fmt: skip
        self.tokens: Tensor | None = tokens
        self.unforeseen: list[int] = []
        self._trip, self._samplers, self._positions = trip, samplers, positions
        self._values, self._ledger = values, ledger

    @torch.inference_mode()
    def result(self) -> list[Choice]:
        return [self._choice(row, index) for index, row in enumerate(self._trip.wait())]

    def _choice(self, told: list[float], row: int) -> Choice:
        token, sampler = int(told[0]), self._samplers[row]
        if token == _UNDECIDED:
            self.unforeseen.append(row)
            return self._choose_here(sampler, row)
        if token == NONE:
            return Choice(None)
        sampler.remember(token)
        count = sampler.sampling.logprobs
        return Choice(token) if count is None else Choice(token, _logprobs(told, count))

    def _choose_here(self, sampler: Sampler, row: int) -> Choice:
        assert self._values is not None
        assert self._ledger is not None
        choice = sampler.choose(self._values[row].cpu(), self._positions[row])
        if choice.token is not None:
            self._ledger.count_one(sampler, choice.token)
        return choice


def _logprobs(told: list[float], count: int) -> TokenLogprobs:
    """Of a row of the answer, which may have told more than the `count` that were asked for."""
    most = (len(told) - 2) // 2
    tokens, values = told[2 : 2 + min(count, most)], told[2 + most :]
    top = tuple((int(token), finite(value)) for token, value in zip(tokens, values, strict=False))
    return TokenLogprobs(finite(told[1]), top)
