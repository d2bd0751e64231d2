"""Keeps cold starts: asks nodes for what they did, writes it into the ledger, and tells the brain what it was like."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from cluster.contract import Cluster, FormedGroup
from cluster.errors import ClusterError
from cluster.wire.phases import Phase, timed_phase
from schedules import events
from schedules.actions import Record
from schedules.placing.decision import Decision
from serving.cold_start import DECIDE, TOKENISE, WAIT_FOR_ROOM, ColdStart, Ledger
from serving.metrics import Metrics

_log = logging.getLogger(__name__)
WAITED_S = 0.001
"""A start that stood back for less did not wait."""
CLOSED_WITHIN_S = 1.0


class Recorder:
    """See the module. `cluster` gives the client, or None; `tell` takes what happened. Use from one event loop."""

    def __init__(
        self,
        cluster: Callable[[], Cluster | None],
        metrics: Metrics,
        ledger: Ledger,
        tell: Callable[[events.Event], None],
    ) -> None:
        self._cluster, self._metrics, self._ledger, self._tell = cluster, metrics, ledger, tell
        self._ordered_s: dict[str, float] = {}
        self._at_work: set[asyncio.Task[None]] = set()

    def ordered(self, group: str) -> None:
        """The group's start is given out now."""
        self._ordered_s[group] = asyncio.get_running_loop().time()

    def over(self, group: str) -> None:
        """Nothing more will be recorded of the group."""
        self._ordered_s.pop(group, None)

    def record(self, action: Record, group: FormedGroup) -> None:
        """The group's start gave its first token. Returns at once."""
        task = asyncio.get_running_loop().create_task(self._record(action, group))
        self._at_work.add(task)
        task.add_done_callback(self._finished)

    async def close(self) -> None:
        """Wait a moment for what is being recorded, and give up the rest."""
        if self._at_work:
            await asyncio.wait(self._at_work, timeout=CLOSED_WITHIN_S)
        for task in self._at_work:
            task.cancel()
        await self.settle()

    async def settle(self) -> None:
        """Wait until what was to be recorded is."""
        await asyncio.gather(*self._at_work, return_exceptions=True)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._at_work.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a cold start could not be recorded", exc_info=error)

    async def _record(self, action: Record, group: FormedGroup) -> None:
        own = self._own_phases(action)
        arrived_s = own[0].start_s  # in the unix seconds that the phases are in
        ordered = tuple(sorted((*own, *await self._phases(group)), key=lambda phase: phase.start_s))
        nodes = tuple(stage.node for stage in action.placement.stages)
        predicted = predicted_of(action.decision, action.text_s)
        happened = ColdStart(action.key.name, action.group, nodes, arrived_s, action.ttft_s, ordered, predicted)
        self._tell(
            events.StartMeasured(
                action.group, action.decision, action.ttft_s, action.text_s, happened.formed_s, happened.fetched_s,
                happened.one_clock,
            )
        )  # fmt: skip
        if predicted is not None and predicted["ttft_s"] > 0:
            self._metrics.prediction_error.observe(abs(action.ttft_s / predicted["ttft_s"] - 1))
        self._ledger.add(happened)

    async def _phases(self, group: FormedGroup) -> tuple[Phase, ...]:
        client = self._cluster()
        try:
            return await client.phases(group) if client is not None else ()
        except ClusterError:
            return ()

    def _own_phases(self, action: Record) -> tuple[Phase, ...]:
        ordered_s = self._ordered_s.pop(action.group, action.decided_s)
        chosen = action.decision.chosen
        waited_until_s = ordered_s if chosen is not None and chosen.moves else action.decided_s
        # who comes to a start that another had asked for, and left, was received in no time
        received_s = max(action.arrived_s, action.wanted_s)
        found = [timed_phase("receive and tokenise", "front end", action.arrived_s, received_s)]
        if waited_until_s - action.wanted_s > WAITED_S:
            found.append(timed_phase(WAIT_FOR_ROOM, "front end", action.wanted_s, waited_until_s))
        return (*found, timed_phase(DECIDE, "front end", waited_until_s, ordered_s))


def predicted_of(decision: Decision, text_s: float) -> dict[str, Any] | None:
    """What was expected when it was decided, as JSON, with all that was considered.

    If the first token then had to wait until the request's own text was made into tokens, `text_s` after its arrival, that
    counts as known, and such a start teaches nothing: TOKENISE is one of its parts.
    """
    chosen = decision.chosen
    if chosen is None or chosen.prediction is None:
        return None
    prediction = chosen.prediction
    parts, at_least_s = dict(prediction.parts), 0.0
    if prediction.held_up(text_s):
        parts[TOKENISE] = text_s
        at_least_s = text_s + prediction.parts["compute"]
    return {
        "ttft_s": max(prediction.ttft_s, at_least_s),
        "ttft_bad_s": max(prediction.ttft_bad_s, at_least_s),
        "slowest": prediction.slowest,
        "uncorrected_s": prediction.ttft_s - prediction.parts["correction"],
        "tpot_s": prediction.tpot_s,
        "parts": parts,
        "decision": decision.as_json(),
    }
