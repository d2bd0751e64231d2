"""The requests that run: what comes of them, and where they go on when their replica is lost."""

from collections.abc import Callable

from schedules import events
from schedules.actions import Action, Record, Replay, Why
from schedules.desk.handing import Handing, is_cold
from schedules.desk.line import Line
from schedules.estimates import token_s
from schedules.facts import ModelKey
from schedules.ledgers.books import Books
from schedules.limits import ALONE_TOKENS, EMBEDDING_S, REPLAYS
from schedules.load import NEWEST_WEIGHT
from schedules.replicas.fleet import Fleet
from schedules.requests import Request, Stand
from schedules.service import Alone, Embedding, Replica, Service


class Runs:
    """See the module. `out` takes actions in their order."""

    def __init__(
        self,
        services: dict[ModelKey, Service],
        books: Books,
        line: Line,
        handing: Handing,
        fleet: Fleet,
        out: Callable[[Action], None],
    ) -> None:
        self._services, self._books, self._line, self._handing = services, books, line, handing
        self._fleet, self._out = fleet, out

    def progressed(self, event: events.RequestProgressed, now_s: float) -> None:
        request = self._line.requests.get(event.request)
        if request is None or request.group != event.group:
            return
        replica = self._fleet.replicas[event.group]
        self._line.requests[event.request] = request.progressed(event.tokens)
        if not replica.cold.over:
            self._first_token(replica, request, now_s)
        alone = replica.alone
        if alone is not None:
            alone.last_s = now_s
            alone.tokens += event.tokens
        elif len(replica.requests) == 1 and request.attempts == 1 and not (request.generated or request.wants_vector):
            replica.alone = Alone(event.request, now_s, now_s, event.tokens)

    def _first_token(self, replica: Replica, request: Request, now_s: float) -> None:
        cold, was_cold = replica.cold, is_cold(request, replica)
        cold.over = True
        self._books.first_token(replica.group, now_s)
        self._fleet.links_free()
        self._fleet.consolidating.watch(replica, now_s)
        decision = cold.decision
        if decision is None:
            return
        cold.decision = decision.without_losers
        if request.generated or cold.arrived_s is None or replica.placement is None:
            return
        if was_cold:
            service = replica.service
            service.last_start_s = now_s - cold.decided_s
            ttft_s = service.last_ttft_s = now_s - cold.arrived_s
            self._out(
                Record(
                    replica.group, service.key, replica.placement, decision, cold.arrived_s,
                    cold.wanted_s, cold.decided_s, ttft_s, cold.text_s,
                )
            )  # fmt: skip

    def ended(self, event: events.RequestEnded | events.RequestLeft, now_s: float) -> None:
        request = self._line.requests.pop(event.request, None)
        if request is None:
            return
        service = self._services[request.key]
        if request.stand is not Stand.HELD:
            replica = self._fleet.replicas[request.group]
            if not request.wants_vector:
                service.load.over(request.generated)
            elif isinstance(event, events.RequestEnded):
                service.vectors.over(request.prompt_tokens)
                self._learn_late(replica, request, now_s)
            else:
                replica.embedding = None
            self._release(service, request, now_s)
        else:
            self._line.leave(service, request, now_s)

    def refused(self, event: events.RequestRefused, now_s: float) -> None:
        request = self._line.requests.get(event.request)
        if request is None or request.group != event.group:
            return
        self._line.reject(request, Why.UNAVAILABLE, f"the replica refused the request: {event.reason}", None)
        self._fleet.replicas[request.group].embedding = None
        self._release(self._services[request.key], request, now_s)

    def broke(self, event: events.RequestBroke, now_s: float) -> None:
        """Streams end before their last token with their group, and with nothing else."""
        request = self._line.requests.get(event.request)
        if request is not None and request.group == event.group:
            self._fleet.lost(event.group, event.cause, now_s)

    def _release(self, service: Service, request: Request, now_s: float) -> None:
        """The request is not its replica's any more, nor that's to which it was on its way."""
        replica = self._fleet.replicas[request.group]
        service.clearing.add(request.room, now_s)
        self._learn_hop(replica, request)
        self._handing.free(replica, request)
        arriving = self._handing.unshift(request)
        self._handing.freed([replica, *arriving], now_s)

    def _learn_hop(self, replica: Replica, request: Request) -> None:
        """A request had the replica for itself: what its tokens took tells what a hop takes."""
        alone, decision = replica.alone, replica.cold.decision
        if alone is None or alone.request != request.name:
            return
        replica.alone = None
        chosen = decision.chosen if decision is not None else None
        if alone.tokens < ALONE_TOKENS or chosen is None or chosen.prediction is None or chosen.degree < 2:
            return
        tpot_s = (alone.last_s - alone.first_s) / (alone.tokens - 1)
        hop_s = replica.cold.hop_s + (tpot_s - chosen.prediction.tpot_s) / chosen.degree
        self._books.learned = self._books.learned.with_hop(max(0.0, hop_s))

    def _learn_late(self, replica: Replica, request: Request, now_s: float) -> None:
        """The vectors that a pipeline makes in a while, and nothing else, tell how late they come out of it."""
        embedding, last = replica.embedding, len(replica.requests) == 1
        if embedding is None:
            return
        embedding.vectors += 1
        embedding.tokens += request.prompt_tokens
        if not last and now_s < embedding.since_s + EMBEDDING_S:
            return
        replica.embedding = None if last else Embedding(now_s)
        stages = self._books.stages(replica.placement)
        if stages is not None and len(stages) > 1:
            own_s = token_s(stages, 0.0, embedding.tokens)
            late_s, known = (now_s - embedding.since_s - own_s) / embedding.vectors, replica.late_s
            replica.late_s = late_s if known is None else known + NEWEST_WEIGHT * (late_s - known)

    def replay(self, replica: Replica, cause: str, now_s: float) -> None:
        """What the replica had begun waits again, first of all; who was unlucky too often is told so."""
        service, names = replica.service, [name for name in replica.requests if name not in replica.arriving]
        for name in replica.arriving:
            self._line.requests[name] = self._line.requests[name].stayed()
        replica.requests.clear()
        replica.arriving.clear()
        replica.used_tokens = 0
        for name in reversed(names):
            request = self._line.requests[name]
            self._handing.unshift(request)
            if request.attempts <= REPLAYS and not self._line.out_of_patience(request, now_s):
                self._line.hold(service, request.broken(now_s), now_s, first=True)
            else:
                self._line.reject_unstarted(request, cause)
        for name in names:
            again = self._line.requests.get(name)
            if again is not None:
                self._out(Replay(name, replica.group, again.generated, cause))
                self._line.watch_deadline(again)
