"""Who looks on while a scenario is played, and writes down what became of it."""

from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import nan
from typing import Any

import numpy as np

from schedules.actions import Action, Assign, Decided, Record, Reject, Start
from schedules.events import (
    Event,
    GroupFailed,
    GroupFormed,
    GroupStopped,
    RequestEnded,
    RequestLeft,
    RequestProgressed,
)
from schedules.facts import ModelKey
from schedules.simulation.outcomes import Ending, Found, Outcomes, StartSeen
from schedules.traces.trace import Trace
from schedules.world.world import World

PROGRESS_EVERY = 500
"""Requests between two words on progress."""


@dataclass
class _Up:
    """A start, and what it has reserved by node; until `since_s` that is in its cost."""

    seen: StartSeen
    reserved_bytes: dict[str, int]
    since_s: float


class Counting:
    """Requests are named by their places in the trace, "r0" the first; `models` are in its order."""

    def __init__(
        self,
        trace: Trace,
        models: Sequence[ModelKey],
        world: World,
        begin_s: float,
        on_progress: Callable[[int], object] | None,
    ) -> None:
        self._trace, self._world, self._begin_s, self._on_progress = trace, world, begin_s, on_progress
        self._places = {key: place for place, key in enumerate(models)}
        self._requests_over = 0
        count = len(trace)
        self._at_s = array("d", (trace.at_s + begin_s).tobytes())
        self._ttft_s, self._last_s = array("d", [nan]) * count, array("d", [nan]) * count
        self._cold, self._found, self._ending = bytearray(count), bytearray(count), bytearray(count)
        self._cost = np.zeros(len(trace.models))
        self._up: dict[str, _Up] = {}
        self._over: list[StartSeen] = []
        self._predicted: dict[str, float] = {}
        self._events = 0
        self._of_event: Mapping[type, Callable[[Any, float], None]] = {
            RequestProgressed: self._progressed, RequestEnded: self._ended, RequestLeft: self._left,
            GroupFormed: self._formed, GroupStopped: self._stopped, GroupFailed: self._stopped,
        }  # fmt: skip
        self._of_action: Mapping[type, Callable[[Any, float], None]] = {
            Assign: self._assigned, Reject: self._rejected, Start: self._started, Decided: self._decided,
            Record: self._recorded,
        }  # fmt: skip

    def see(self, now_s: float, event: Event, actions: tuple[Action, ...]) -> None:
        """The brain was told, and ordered."""
        self._events += 1
        look = self._of_event.get(type(event))
        if look is not None:
            look(event, now_s)
        for action in actions:
            look = self._of_action.get(type(action))
            if look is not None:
                look(action, now_s)

    def outcomes(self, now_s: float) -> Outcomes:
        """Of all until now; what is up by then costs until then."""
        for name in list(self._up):
            self._end(name, now_s, over=False)
        return Outcomes(
            self._trace.model, self._trace.answer_tokens, np.array(self._ttft_s), np.array(self._last_s),
            np.array(self._cold, np.bool_), np.array(self._found, np.int8), np.array(self._ending, np.int8),
            tuple(self._over), self._cost, self._world.moved_bytes, self._world.by_minute(now_s), now_s - self._begin_s,
            self._events,
        )  # fmt: skip

    # ---- requests

    def _progressed(self, event: RequestProgressed, now_s: float) -> None:
        place = int(event.request[1:])
        since_s = now_s - self._at_s[place]
        if self._last_s[place] != self._last_s[place]:
            self._ttft_s[place] = since_s
        self._last_s[place] = since_s

    def _ended(self, event: RequestEnded, _now_s: float) -> None:
        self._is_over(event.request, Ending.SERVED)

    def _left(self, event: RequestLeft, _now_s: float) -> None:
        self._is_over(event.request, Ending.LEFT)

    def _rejected(self, action: Reject, _now_s: float) -> None:
        self._is_over(action.request, Ending.REJECTED)

    def _is_over(self, request: str, how: Ending) -> None:
        self._ending[int(request[1:])] = how
        self._requests_over += 1
        if self._on_progress is not None and self._requests_over % PROGRESS_EVERY == 0:
            self._on_progress(self._requests_over)

    def _assigned(self, action: Assign, _now_s: float) -> None:
        place = int(action.request[1:])
        if action.cold:
            self._cold[place] = True
            times = self._world.times(action.group)
            self._found[place] = Found.DRAM if times is None else Found[times.found.upper()]
        elif not self._found[place]:
            self._found[place] = Found.DEVICE

    # ---- starts

    def _decided(self, action: Decided, _now_s: float) -> None:
        chosen = action.decision.chosen
        if chosen is not None and chosen.prediction is not None:
            self._predicted[action.group] = chosen.prediction.ttft_s

    def _started(self, action: Start, now_s: float) -> None:
        seen = StartSeen(
            action.group, self._places[action.key], action.placement.nodes, action.behind, now_s - self._begin_s,
            predicted_s=self._predicted.pop(action.group, None),
        )  # fmt: skip
        if (before := self._up.get(action.in_place_of)) is not None:
            self._pay(before, seen.ordered_s)
            for node in seen.nodes:
                before.reserved_bytes.pop(node, None)
        self._up[action.group] = _Up(seen, dict(action.placement.reserved_bytes), seen.ordered_s)

    def _formed(self, event: GroupFormed, now_s: float) -> None:
        up = self._up.get(event.group)
        if up is not None:
            up.seen = replace(up.seen, formed_s=now_s - self._begin_s)

    def _recorded(self, action: Record, now_s: float) -> None:
        up, times = self._up.get(action.group), self._world.times(action.group)
        if up is not None:
            fetched_s = None if times is None or times.fetched_s is None else times.fetched_s - self._begin_s
            told_s = action.arrived_s - self._begin_s
            up.seen = replace(
                up.seen, arrived_s=told_s - self._world.habits.receive_s, first_token_s=told_s + action.ttft_s,
                fetched_s=fetched_s, whence=None if times is None else times.whence,
            )  # fmt: skip

    def _stopped(self, event: GroupStopped | GroupFailed, now_s: float) -> None:
        if event.group in self._up:
            self._end(event.group, now_s, over=True)

    def _end(self, name: str, now_s: float, *, over: bool) -> None:
        up, at_s = self._up.pop(name), now_s - self._begin_s
        self._pay(up, at_s)
        self._over.append(replace(up.seen, ended_s=at_s) if over else up.seen)

    def _pay(self, up: _Up, at_s: float) -> None:
        self._cost[up.seen.model] += sum(up.reserved_bytes.values()) * (at_s - up.since_s)
        up.since_s = at_s
