"""Starts groups for cold models: decides, makes room, forms, and learns from how it came out.

The decision is `schedules.placing.policies`; between it and its entry in the ledger of links there is no await. A node's
refusal is news, and it is decided again.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from cluster.client import ClusterClient
from cluster.errors import ClusterError
from cluster.group import Group
from cluster.wire.phases import timed_phase
from schedules.facts import NoPlacement, Placement
from schedules.learning import Learned, Lesson
from schedules.ledgers.links import Links
from schedules.placing.decision import NETWORK, Decision, Policy, Question, Running, Wait
from schedules.placing.survey import link_rates
from serving.cold_start import ColdStart, Ledger
from serving.errors import Unavailable
from serving.metrics import Metrics
from serving.service import Service, Start

_log = logging.getLogger(__name__)
START_ATTEMPTS = 3
_TOKENISE = "tokenise"
LONGEST_WAIT_S = 30.0
"""A start that waits for the links is decided again at least this often."""


class Starts:
    """See the module. Use from one event loop.

    `cluster` gives the client that is connected now, or None; `running` the replicas that are up; `make_room` ends the
    replicas of the groups that are named to it.
    """

    def __init__(
        self,
        cluster: Callable[[], ClusterClient | None],
        policy: Policy,
        running: Callable[[], Sequence[Running]],
        make_room: Callable[[Sequence[str]], Awaitable[None]],
        metrics: Metrics,
        ledger: Ledger,
    ) -> None:
        self._cluster, self._policy = cluster, policy
        self._running, self._make_room = running, make_room
        self._metrics, self._ledger = metrics, ledger
        self._links = Links({}, time.monotonic())
        self._learned = Learned()
        self._freed = asyncio.Event()

    def begin(self, arrived_s: float | None) -> Start:
        """A start for the request that arrived then, or for none."""
        start = Start(uuid.uuid4().hex[:12], arrived_s)
        if arrived_s is not None:
            start.phases.append(timed_phase("receive and tokenise", "front end", arrived_s))
        return start

    def recall(self, starts: Sequence[ColdStart]) -> None:
        """Learn from starts of before, newest first."""
        for start in reversed(starts):
            if start.predicted is not None and "uncorrected_s" in start.predicted:
                self._learn(start.predicted, start)

    def decide(self, service: Service, name: str = "now", waited_s: float = 0.0) -> Decision:
        """Where the service's model would start now. Changes nothing. Unavailable without a scheduler."""
        now_s, view = time.monotonic(), self._client().view()
        self._links.measure(link_rates(view), now_s)
        prompt_tokens = service.held[0].prompt_tokens if service.held else 1
        return self._policy.decide(
            Question(
                name, service.model.facts, service.objectives, view, self._links, now_s, tuple(self._running()),
                prompt_tokens, waited_s, self._learned.corrections,
            )
        )  # fmt: skip

    async def form(self, service: Service, start: Start, timeout_s: float) -> Group:
        """A group for the service's model.

        Unavailable if there is no room, ClusterError if it cannot be formed.
        """
        for attempt in range(START_ATTEMPTS):
            placement = await self._place(service, start)
            try:
                return await self._client().form(
                    f"g{uuid.uuid4().hex[:12]}", placement, service.model.checkpoint, timeout_s
                )
            except BaseException as error:
                self.over(start)
                if not isinstance(error, ClusterError) or attempt == START_ATTEMPTS - 1:
                    raise
                _log.warning("%s was not started (%s); deciding again", service.model.name, error)
        raise AssertionError("unreachable")

    def over(self, start: Start) -> None:
        """Nothing is fetched for the start any more, however it ended. Twice is once."""
        chosen = start.decision.chosen if start.decision is not None else None
        for transfer in chosen.transfers if chosen is not None else ():
            self._links.end(transfer.name, time.monotonic())
        self._freed.set()
        self._freed = asyncio.Event()

    async def record(self, model: str, group: Group, start: Start, ttft_s: float) -> None:
        """The start gave its first token: into the ledger with it, and learn from it."""
        assert start.arrived_s is not None
        client = self._cluster()
        phases = (*start.phases, *(await client.phases(group) if client is not None else ()))
        nodes = tuple(stage.node for stage in group.placement.stages)
        ordered = tuple(sorted(phases, key=lambda phase: phase.start_s))
        predicted = predicted_of(start)
        arrived_s = start.phases[0].start_s  # in unix seconds, as the phases that were noted since
        happened = ColdStart(model, group.name, nodes, arrived_s, ttft_s, ordered, predicted)
        if predicted is not None:
            self._learn(predicted, happened)
            if predicted["ttft_s"] > 0:
                self._metrics.prediction_error.observe(abs(ttft_s / predicted["ttft_s"] - 1))
        self._ledger.add(happened)

    def _learn(self, predicted: Mapping[str, Any], start: ColdStart) -> None:
        if _TOKENISE not in predicted.get("parts", ()) and start.one_clock:
            self._learned = self._learned.with_lesson(_lesson(predicted, start))

    def learn_token_time(self, start: Start, tpot_s: float) -> None:
        """A request had the replica for itself: what its tokens took tells what a hop takes."""
        chosen = start.decision.chosen if start.decision is not None else None
        if chosen is not None and chosen.prediction is not None and chosen.degree > 1:
            hop_s = start.hop_s + (tpot_s - chosen.prediction.tpot_s) / chosen.degree
            self._learned = self._learned.with_hop(max(0.0, hop_s))

    async def _place(self, service: Service, start: Start) -> Placement:
        """Where the model shall run; what stands in its way is ended or waited for."""
        while True:
            started_s = time.monotonic()
            waited_s = started_s - start.arrived_s if start.arrived_s is not None else 0.0
            decision = start.decision = self.decide(service, start.name, waited_s)
            start.hop_s = self._learned.corrections.hop_s
            chosen, outcome = decision.chosen, decision.outcome
            if chosen is not None:
                self._links.begin(chosen.transfers, started_s)
            start.phases.append(timed_phase("decide", "front end", started_s))
            self._metrics.decisions.labels(decision.policy, decision.kind).inc()
            match outcome:
                case NoPlacement():
                    raise Unavailable(outcome.reason)
                case Wait():
                    await self._wait(outcome, start)
                case Placement():
                    assert chosen is not None
                    if chosen.moves:
                        await self._make_room([move.group for move in chosen.moves])
                    return outcome

    async def _wait(self, wait: Wait, start: Start) -> None:
        """Until the links are freer. The lifetime of a start bounds how often."""
        began_s = time.monotonic()
        lasts_s = min(LONGEST_WAIT_S, max(0.05, wait.until_s - began_s))
        _log.info("a start waits up to %.1f s: %s", lasts_s, wait.reason)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._freed.wait(), lasts_s)
        start.phases.append(timed_phase("wait for links", "front end", began_s))

    def _client(self) -> ClusterClient:
        client = self._cluster()
        if client is None:
            raise Unavailable("the cluster's scheduler does not answer", retry_after_s=5)
        return client


def predicted_of(start: Start) -> dict[str, Any] | None:
    """What was expected when it was decided, as JSON, with all that was considered.

    If the first token then had to wait until the request's own text was made into tokens, that counts as known, and
    such a start teaches nothing: _TOKENISE is one of its parts.
    """
    chosen = start.decision.chosen if start.decision is not None else None
    if start.decision is None or chosen is None or chosen.prediction is None:
        return None
    prediction = chosen.prediction
    parts, at_least_s = dict(prediction.parts), start.text_s + prediction.parts["compute"]
    if start.text_s and at_least_s > prediction.ttft_s:
        parts[_TOKENISE] = start.text_s
    else:
        at_least_s = 0.0
    return {
        "ttft_s": max(prediction.ttft_s, at_least_s),
        "ttft_bad_s": max(prediction.ttft_bad_s, at_least_s),
        "slowest": prediction.slowest,
        "uncorrected_s": prediction.ttft_s - prediction.parts["correction"],
        "tpot_s": prediction.tpot_s,
        "parts": parts,
        "decision": start.decision.as_json(),
    }


def _lesson(predicted: Mapping[str, Any], start: ColdStart) -> Lesson:
    parts = {name: float(seconds) for name, seconds in predicted.get("parts", {}).items()}
    waited_s = parts.get("waited", 0.0)
    ready_s = waited_s + max(parts.get("form group", 0.0), parts.get("fetch", 0.0))
    was_ready_s = max(waited_s + start.formed_s, start.fetched_s)
    slowest = str(predicted.get("slowest", NETWORK))
    return Lesson(len(start.nodes), float(predicted["uncorrected_s"]), start.ttft_s, slowest, ready_s, was_ready_s)
