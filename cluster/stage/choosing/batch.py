"""The next tokens of a whole batch, chosen where its logits are: the very tokens that each request's `Sampler` chooses.

On a device everything is queued: one copy brings the parameters there, one brings the answer back, and the host waits for
nothing before `result`. What cannot be decided there is chosen by the request's sampler, from that row alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from cluster.stage.choosing.penalties import Ledger
from cluster.stage.choosing.sampling import NONE, Sampler, choose_all, finite
from cluster.stage.choosing.step import ELSEWHERE, UNDECIDED, DeviceStep
from cluster.stage.choosing.tables import Table, tabulate
from cluster.stage.choosing.trips import Trip, Trips, cuda_trips
from cluster.stage.steps import Choice
from cluster.wire.requests import TokenLogprobs

_LOOK = 1024
_AGAIN = 8
"""Rows at most whose tokens are all sorted at once."""
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
        step = DeviceStep(table, self._look, self._ledger)
        step.send(trip, samplers, positions, logits.shape[1], new)
        told = step.choose(logits)
        trip.fetch(told)
        tokens = told[:, 0].long().clamp_(min=0)
        return _Queued(trip, samplers, positions, tokens, _Rest(step, self._trips, self._ledger))

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


class _Chosen:
    """What was chosen at once."""

    def __init__(self, choices: list[Choice]) -> None:
        self._choices = choices
        self.tokens: Tensor | None = None
        self.unforeseen: list[int] = []

    def result(self) -> list[Choice]:
        return self._choices


@dataclass(frozen=True)
class _Rest:
    """What those need whose token the first look did not find."""

    step: DeviceStep
    trips: Trips
    ledger: Ledger

    def look_again(self, told: list[list[float]]) -> list[int]:
        """Complete what was told of the rows; gives those that are completed."""
        rows = [row for row, (token, *_) in enumerate(told) if token == UNDECIDED]
        for start in range(0, len(rows), _AGAIN):
            these = rows[start : start + _AGAIN]
            trip = self.trips.start()
            trip.fetch(self.step.choose_again(trip, these))
            for row, answer in zip(these, trip.wait(), strict=True):
                told[row] = answer
        return rows


class _Queued:
    """What a device is at; greedy ones have no rest."""

    def __init__(
        self, trip: Trip, samplers: Sequence[Sampler], positions: Sequence[int], tokens: Tensor,
        rest: _Rest | None = None,
    ) -> None:  # fmt: skip
        self.tokens: Tensor | None = tokens
        self.unforeseen: list[int] = []
        self._trip, self._samplers, self._positions, self._rest = trip, samplers, positions, rest

    @torch.inference_mode()
    def result(self) -> list[Choice]:
        told = self._trip.wait()
        again = [] if self._rest is None else self._rest.look_again(told)
        choices = [self._choice(row, index) for index, row in enumerate(told)]
        self.unforeseen += again
        for row in again:
            self._count(row, choices[row])
        for row in self.unforeseen:
            self._samplers[row].foreseeable = False
        return choices

    def _choice(self, told: list[float], row: int) -> Choice:
        token, sampler = int(told[0]), self._samplers[row]
        if token == ELSEWHERE:
            assert self._rest is not None
            assert self._rest.step.values is not None
            self.unforeseen.append(row)
            return sampler.choose(self._rest.step.values[row].cpu(), self._positions[row])
        if token == NONE:
            return Choice(None)
        sampler.remember(token)
        count = sampler.sampling.logprobs
        return Choice(token) if count is None else Choice(token, _logprobs(told, count))

    def _count(self, row: int, choice: Choice) -> None:
        assert self._rest is not None
        assert choice.token is not None
        self._rest.ledger.count_one(self._samplers[row], choice.token)


def _logprobs(told: list[float], count: int) -> TokenLogprobs:
    """Of a row of the answer, which may have told more than the `count` that were asked for."""
    most = (len(told) - 2) // 2
    tokens, values = told[2 : 2 + min(count, most)], told[2 + most :]
    top = tuple((int(token), finite(value)) for token, value in zip(tokens, values, strict=False))
    return TokenLogprobs(finite(told[1]), top)
