"""What operators want to move: each wish is followed by a move, or refused in one sentence and nothing has changed."""

from collections.abc import Callable, Mapping
from typing import Protocol

from schedules import events
from schedules.actions import Action, Refuse
from schedules.facts import ModelKey
from schedules.ledgers.books import Books
from schedules.lifecycle import State
from schedules.moving.draining import Leaves, leave_node
from schedules.moving.moves import Moves
from schedules.moving.plan import Kind
from schedules.moving.seats import Seats
from schedules.requests import Request, Stand
from schedules.service import Replica, Service


class Refused(Exception):
    """The wish is not followed; the text is the sentence."""


class Requests(Protocol):
    """Where requests are looked up."""

    def request(self, name: str) -> Request | None:
        """As it stands; None if it is over."""
        ...


class Wishes:
    """See the module. `newest` are the services that a model's name means."""

    def __init__(
        self, newest: Mapping[str, Service], services: Mapping[ModelKey, Service], books: Books, fleet: Leaves,
        moves: Moves, seats: Seats, desk: Requests, out: Callable[[Action], None],
    ) -> None:  # fmt: skip
        self._newest, self._services, self._books, self._desk = newest, services, books, desk
        self._fleet, self._moves, self._seats, self._out = fleet, moves, seats, out

    # ---- pipelines

    def consolidation(self, event: events.ConsolidationWanted, now_s: float) -> None:
        """The model's pipeline becomes one whole replica."""
        try:
            self._consolidate(event, now_s)
        except Refused as refused:
            self._out(Refuse(event.wish, str(refused)))

    def _consolidate(self, event: events.ConsolidationWanted, now_s: float) -> None:
        service = self._service(event.model)
        pipelines = [replica for replica in service.replicas if len(replica.nodes) > 1 and _is_up(replica)]
        if not pipelines:
            raise Refused(f"{event.model} does not run as a pipeline of several stages")
        if len(pipelines) > 1:
            names = ", ".join(replica.group for replica in pipelines)
            raise Refused(
                f"{event.model} runs as several pipelines ({names}): say which one moves by migrating its group"
            )
        self._follow(pipelines[0], event.node, Kind.CONSOLIDATE, event.wish, now_s)

    # ---- migrations

    def migration(self, event: events.MigrationWanted, now_s: float) -> None:
        """A replica, or a request, goes on at another node."""
        try:
            self._check_node(event.node)
            if event.request:
                self._migrate_request(event, now_s)
            else:
                self._follow(self._replica(event), event.node, Kind.MIGRATE, event.wish, now_s)
        except Refused as refused:
            self._out(Refuse(event.wish, str(refused)))

    def _replica(self, event: events.MigrationWanted) -> Replica:
        """The one that is meant."""
        if event.group:
            replica = self._fleet.replicas.get(event.group)
            if replica is None or (event.model and replica.service.model.name != event.model):
                raise Refused(f"no group called {event.group} runs{f' {event.model}' if event.model else ''}")
            return replica
        if not event.model:
            raise Refused("say what is to move: a model, a group, or a request")
        there = [replica for replica in self._service(event.model).replicas if _is_up(replica)]
        if not there:
            raise Refused(f"{event.model} does not run")
        if len(there) > 1:
            raise Refused(f"{event.model} runs as {', '.join(r.group for r in there)}: say which group is to move")
        return there[0]

    def _migrate_request(self, event: events.MigrationWanted, now_s: float) -> None:
        name, request = event.request, self._desk.request(event.request)
        if request is None:
            raise Refused(f"no request called {name} is known, or it is over")
        if request.stand is Stand.HELD:
            raise Refused(f"request {name} does not run yet, it waits for a replica")
        old = self._fleet.replicas[request.group]
        if (
            request.stand is Stand.SHIFTING
            or self._moves.underway.shifting(name)
            or self._moves.underway.of(old) is not None
        ):
            raise Refused(f"request {name} is moving already")
        if event.node in old.nodes:
            raise Refused(f"request {name} runs on node {event.node} already")
        there = [r for r in old.service.replicas if _is_up(r) and event.node in r.nodes and not r.giving_way]
        if not there:
            raise Refused(f"no replica of {request.key.name} serves on node {event.node}")
        most = old.service.objectives.kv_tokens
        to = min(there, key=lambda replica: replica.used_tokens)
        if to.used_tokens + request.room > most:
            raise Refused(
                f"the replica on node {event.node} has {max(0, most - to.used_tokens)} tokens of KV cache free, "
                f"{request.room} are needed"
            )
        reason = f"an operator wants request {name} on node {event.node}"
        self._moves.order_request(name, old, to, reason, now_s, event.wish)

    # ---- nodes

    def drained(self, event: events.NodeDrained, now_s: float) -> None:
        """Nothing new goes to the node, and what runs there goes on elsewhere, or ends."""
        node, wish = event.node, event.wish
        if wish and (sentence := self._stays(node)):
            self._out(Refuse(wish, sentence))
            return
        if self._moves.underway.draining(node) is None:
            if not self._books.nodes.drained([node]):
                self._books.nodes.drain(node)
            leave_node(node, wish, self._fleet, self._moves, self._seats, now_s)

    def leave(self, node: str, now_s: float) -> None:
        """The node says that it wants to end: the same, until it is there again."""
        if self._moves.underway.draining(node) is None:
            leave_node(node, "", self._fleet, self._moves, self._seats, now_s)

    def _stays(self, node: str) -> str:
        """Why the node cannot be left; empty if it can."""
        view = self._books.nodes.view()
        if self._books.nodes.node(node) is None:
            return f"no node called {node} is connected"
        move = self._moves.underway.draining(node)
        if move is not None:
            return f"node {node} is drained already (move {move.plan.move})"
        if self._books.nodes.drained([node]):
            return f"node {node} is drained already"
        if not any(other.name != node and not other.draining for other in view.nodes):
            return f"node {node} is the last one that takes anything: nothing could run any more"
        return ""

    # ---- all of them

    def _service(self, model: str) -> Service:
        service = self._newest.get(model)
        if service is None or service.key not in self._services:
            raise Refused(f"no model called {model} is known here")
        return service

    def _check_node(self, node: str) -> None:
        if self._books.nodes.view().node(node) is None:
            raise Refused(f"no node called {node} is connected")
        if self._books.nodes.drained([node]):
            raise Refused(f"node {node} is drained, and takes nothing new")

    def _follow(self, old: Replica, node: str, kind: Kind, wish: str, now_s: float) -> None:
        """The replica makes way for a whole one."""
        service, name = old.service, old.service.model.name
        if not _is_up(old):
            raise Refused(f"group {old.group} of {name} is {old.state}, only one that serves can move")
        move = self._moves.underway.of(old)
        if move is not None:
            raise Refused(f"group {old.group} is moving already (move {move.plan.move})")
        if node:
            self._check_node(node)
            if old.nodes == (node,):
                raise Refused(f"group {old.group} runs on node {node} already")
        seat = self._seats.whole(service, old.nodes, now_s, only=node)
        if seat is None:
            raise Refused(self._no_room(service, node, now_s))
        assert seat.decision.chosen is not None
        where = seat.decision.chosen.nodes[0]
        reason = f"an operator wants {name} whole on node {where}" if kind is Kind.CONSOLIDATE else (
            f"an operator wants {name} on node {where}"
        )  # fmt: skip
        self._moves.order(kind, [(old, [seat])], reason, now_s, wish=wish)

    def _no_room(self, service: Service, node: str, now_s: float) -> str:
        names = [node] if node else [other.name for other in self._books.nodes.view().nodes if not other.draining]
        found = {name: self._seats.needed(service, name, now_s) for name in names}
        needed, free = max(found.values(), key=lambda pair: pair[1], default=(service.model.size_bytes, 0))
        where = f"node {node} has" if node else "no node has more than"
        return f"{where} {free / 1e9:.2f} GB free, and {service.model.name} needs {needed / 1e9:.2f} GB whole"


def _is_up(replica: Replica) -> bool:
    return replica.state is State.SERVING and replica.heir_of is None
