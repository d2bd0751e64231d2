"""What became of a scenario: of its requests in columns, of its starts one by one, and what it cost."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schedules.world.usage import ByMinute

Seconds = NDArray[np.float64]


class Ending(IntEnum):
    """Of a request. One that is UNFINISHED was still held or generated when the scenario ended."""

    UNFINISHED, SERVED, REJECTED, LEFT = range(4)


class Found(IntEnum):
    """Where a request found its model: on accelerators, by a replica that it had not to wait for, or where the slowest of the
    bytes lay that its replica's start waited for. One that was never assigned to a replica found it NOWHERE."""

    NOWHERE, DEVICE, DRAM, SSD, PEER, REMOTE = range(6)


@dataclass(frozen=True)
class StartSeen:
    """A replica's start, of the model in that place of the scenario; seconds from the trace's begin, None is never.

    `arrived_s` is when the request came that it was for, `first_token_s` when that had its first token, `predicted_s` what
    the decision expected from its own moment on, `whence` where the slowest of its bytes came from (see Times). One that came
    `behind` another replica was for no request.
    """

    group: str
    model: int
    nodes: tuple[str, ...]
    behind: bool
    ordered_s: float
    formed_s: float | None = None
    fetched_s: float | None = None
    ended_s: float | None = None
    arrived_s: float | None = None
    first_token_s: float | None = None
    predicted_s: float | None = None
    whence: str | None = None

    @property
    def degree(self) -> int:
        return len(self.nodes)


@dataclass(frozen=True, eq=False)
class Outcomes:
    """In the trace's order: `ttft_s` from the arrival to the first token and `last_s` to the last one, NaN where there was
    none; `cold` if the request waited for a replica that was formed after it came; where its model was `found`; how it
    ended. `answer_tokens` it was to have.

    `cost_byte_s` is by model: accelerator memory reserved, times how long. `moved_bytes` by whence units came to nodes:
    "remote", "peer", "ssd", and `by_minute` says what that was of the cluster. It lasted `lasted_s` from the trace's begin;
    `events` were handled.
    """

    model: NDArray[np.int32]
    answer_tokens: NDArray[np.int32]
    ttft_s: Seconds
    last_s: Seconds
    cold: NDArray[np.bool_]
    found: NDArray[np.int8]
    ending: NDArray[np.int8]
    starts: tuple[StartSeen, ...]
    cost_byte_s: Seconds
    moved_bytes: Mapping[str, int]
    by_minute: ByMinute
    lasted_s: float
    events: int

    def __len__(self) -> int:
        return len(self.ttft_s)

    @property
    def dram_byte_s(self) -> float:
        """Bytes of units in the dram of nodes, times how long, in use or not."""
        return float(self.by_minute.dram_byte_s.sum())

    @cached_property
    def tpot_s(self) -> Seconds:
        """Time per output token after the first; NaN where there was no second."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self.answer_tokens > 1, (self.last_s - self.ttft_s) / (self.answer_tokens - 1), np.nan)

    def found_in(self, since: int = 0) -> Mapping[Found, float]:
        """Shares of the requests from that one on, by where they found their models."""
        counts = np.bincount(self.found[since:], minlength=len(Found))
        return {tier: float(counts[tier]) / max(1, len(self) - since) for tier in Found}

    def attained(self, ttft_s: NDArray[Any], tpot_s: NDArray[Any]) -> NDArray[np.bool_]:
        """Of each request whether it was served within the limits of its model, which are by model; infinity is no limit. An
        answer of one token has no time per token that could be too long."""
        within = np.nan_to_num(self.ttft_s, nan=np.inf) <= ttft_s[self.model]
        within &= np.nan_to_num(self.tpot_s, nan=0.0) <= tpot_s[self.model]
        served: NDArray[np.bool_] = within & (self.ending == Ending.SERVED)
        return served
