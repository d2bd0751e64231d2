"""What the front end has to tell, as Prefect's events: automations react to them.

Each says when it happened, which may be long before it is told. Events wait, in their order, while Prefect is away.
"""

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Never

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.events import Event, RelatedResource, Resource
from prefect.exceptions import PrefectException

from flows.errors import Unintelligible
from flows.moving.moves import Move
from schedules.moving.plan import Step

COLD_START = "firsttoken.cold-start"
MOVE_ORDERED, MOVE_DONE, MOVE_GIVEN_UP = "firsttoken.move.ordered", "firsttoken.move.done", "firsttoken.move.given-up"
NODE = "firsttoken.node."
"""What became of a node follows: drained, undrained, left."""
KEPT = 1024
_BATCH = 64
_DELIVERED_WITHIN_S = 10.0
_FIRST_BACKOFF_S, _LONGEST_BACKOFF_S = 0.5, 15.0

_log = logging.getLogger(__name__)


def of_cold_start(told: Mapping[str, Any]) -> Event:
    """A cold start, at its first token. Unintelligible if it is none."""
    try:
        model, at_s, nodes = str(told["model"]), told["arrived_at"] + told["ttft_s"], list(told["nodes"])
    except (KeyError, TypeError) as error:
        raise Unintelligible(f"the front end tells of a cold start that cannot be read: {error!r}") from error
    return _event(COLD_START, _model(model), at_s, told, nodes=nodes)


def of_order(move: Move) -> Event:
    """A move, when it was ordered."""
    return _of_move(MOVE_ORDERED, move, move.ordered_at)


def of_end(move: Move) -> Event:
    """A move, at its end."""
    name = MOVE_DONE if move.step is Step.DONE else MOVE_GIVEN_UP
    return _of_move(name, move, move.ordered_at if move.done_at is None else move.done_at)


def of_node(told: Mapping[str, Any], now: datetime) -> Event:
    """What became of a node, now if it is not said when. Unintelligible if it is not said what."""
    try:
        node, what, at_s = str(told["node"]), str(told["what"]), float(told.get("at", now.timestamp()))
    except (KeyError, TypeError, ValueError) as error:
        raise Unintelligible(f"the front end tells of a node what cannot be read: {error!r}") from error
    return _event(NODE + what, _node(node), at_s, told)


class Outbox:
    """Events on their way to Prefect, the oldest first. Of more than `kept` the oldest are lost, and that is logged."""

    def __init__(self, client: PrefectClient, kept: int = KEPT) -> None:
        self._client = client
        self._kept = kept
        self._events: deque[Event] = deque()
        self._some = asyncio.Event()
        self._lost = 0

    def add(self, events: Iterable[Event]) -> None:
        """Have them delivered, later."""
        self._events.extend(events)
        while len(self._events) > self._kept:
            self._events.popleft()
            self._lost += 1
        if self._events:
            self._some.set()

    async def deliver(self) -> Never:
        """Deliver what is added, again and again until Prefect takes it."""
        backoff_s = _FIRST_BACKOFF_S
        while True:
            await self._some.wait()
            batch = list(itertools.islice(self._events, _BATCH))
            try:
                async with asyncio.timeout(_DELIVERED_WITHIN_S):
                    await self._send(batch)
            except (httpx.HTTPError, PrefectException, OSError) as error:
                _log.debug("Prefect takes no events (%r), again in %.1f s", error, backoff_s)
                await asyncio.sleep(backoff_s)
                backoff_s = min(2 * backoff_s, _LONGEST_BACKOFF_S)
            else:
                backoff_s = _FIRST_BACKOFF_S
                self._forget(batch)

    async def _send(self, batch: list[Event]) -> None:
        """Prefect takes an event twice for one. What it calls wrong is not sent again."""
        try:
            await self._client.request("POST", "/events", json=[event.model_dump(mode="json") for event in batch])
        except httpx.HTTPStatusError as error:
            if error.response.status_code not in (413, 422):
                raise
            _log.warning("Prefect refuses %d events, which are lost: %s", len(batch), error.response.text)

    def _forget(self, batch: list[Event]) -> None:
        sent = {event.id for event in batch}
        while self._events and self._events[0].id in sent:
            self._events.popleft()
        if not self._events:
            self._some.clear()
        if self._lost:
            _log.warning("%d events are lost: Prefect was away too long", self._lost)
            self._lost = 0


def _of_move(name: str, move: Move, at_s: float) -> Event:
    about = _node(move.node) if move.node and not move.models else _model(" ".join(move.models[:1]))
    from_ = [node for handover in move.handovers for node in handover.nodes]
    nodes = [node for node in dict.fromkeys([*from_, *move.goes_to, move.node]) if node]
    return _event(name, about, at_s, asdict(move), models=move.models, nodes=nodes)


def _event(
    name: str,
    about: Resource,
    at_s: float,
    payload: Mapping[str, Any],
    models: Iterable[str] = (),
    nodes: Iterable[str] = (),
) -> Event:
    others = [(_model(model), "model") for model in models] + [(_node(node), "node") for node in nodes]
    related = [
        RelatedResource.model_validate({**other.root, "prefect.resource.role": role})
        for other, role in others
        if other.id != about.id
    ]
    at = datetime.fromtimestamp(at_s, UTC)
    return Event(event=name, resource=about, related=related, payload=dict(payload), occurred=at)


def _model(name: str) -> Resource:
    return _resource("model", name)


def _node(name: str) -> Resource:
    return _resource("node", name)


def _resource(kind: str, name: str) -> Resource:
    return Resource.model_validate({"prefect.resource.id": f"firsttoken.{kind}.{name}", "prefect.resource.name": name})
