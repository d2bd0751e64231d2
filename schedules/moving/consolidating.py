"""When it is looked at whether pipelines should become whole replicas. Of those that are none nothing is asked."""

from math import ceil
from typing import Protocol

from schedules.estimates import Speeds
from schedules.ledgers.books import Books
from schedules.lifecycle import State
from schedules.limits import ALONE_TOKENS, Limits
from schedules.load import LEFT
from schedules.moving.consolidation import LONGEST_S, Outlook, pays, penalty_s, pipeline_s
from schedules.moving.migration import shift_s
from schedules.moving.moves import Moves
from schedules.moving.plan import Kind
from schedules.moving.seats import Seat, Seats
from schedules.requests import Request
from schedules.service import Replica
from schedules.wakes import Wakes

LOOK_AFTER_S, LOOK_AGAIN_S, SELDOM_S = 0.25, 2.0, 8.0
"""It is looked so long after a pipeline's first token, when that is on its way, and then again and again, more and more
seldom."""


class Requests(Protocol):
    """Where requests are looked up."""

    def request(self, name: str) -> Request | None:
        """As it stands; None if it is over."""
        ...


class Consolidating:
    """See the module. Where there is no room now, or it does not pay yet, it is looked again."""

    def __init__(self, books: Books, wakes: Wakes, moves: Moves, seats: Seats, desk: Requests, limits: Limits) -> None:
        self._books, self._wakes, self._moves, self._seats, self._desk = books, wakes, moves, seats, desk
        self._wanted, self._in_place = limits.consolidate, limits.in_place

    def watch(self, replica: Replica, now_s: float) -> None:
        """It serves. If it is a pipeline that is looked at until it serves no more."""
        if self._wanted and len(replica.nodes) > 1 and not replica.watched:
            replica.watched = True
            self._wakes.at(now_s + LOOK_AFTER_S, lambda then_s: self._look(replica, LOOK_AGAIN_S, then_s))

    def _look(self, replica: Replica, again_s: float, now_s: float) -> None:
        if replica.state in (State.STOPPING, State.GONE):
            return
        free_bytes = self._books.nodes.most_free_bytes  # where all are full, which is mostly, nothing else is looked at
        if self._in_place:
            if self._may(replica, now_s):
                self._grow(replica, now_s)
        elif free_bytes >= replica.service.model.size_bytes and self._may(replica, now_s):
            self._consider(replica, now_s)
        later_s = min(2 * again_s, SELDOM_S)
        self._wakes.at(now_s + again_s, lambda then_s: self._look(replica, later_s, then_s))

    def _may(self, replica: Replica, now_s: float) -> bool:
        busy = (
            self._moves.underway.of(replica) is not None or replica.heir_of is not None or replica.turn_of is not None
        )
        free = not busy and now_s >= replica.stay_until_s and not replica.service.retired
        return free and replica.state is State.SERVING and not self._books.nodes.drained(replica.nodes)

    def _consider(self, replica: Replica, now_s: float) -> None:
        service, placement = replica.service, replica.placement
        assert placement is not None
        needed_bytes = self._seats.whole_bytes(service)
        if self._books.nodes.most_free_bytes < needed_bytes:  # which costs little to see
            return
        stages = self._books.stages(placement)
        if stages is None:
            return
        size_bytes = sum(weight_bytes for weight_bytes, _ in stages)
        takes = pipeline_s(stages, self._books.learned.corrections.hop_s, _seen_s(replica), replica.late_s)
        later_s = max(max(penalty_s(takes, size_bytes, speeds)) for _, speeds in stages)
        if later_s <= 0.0 and sum(placement.reserved_bytes.values()) <= needed_bytes:
            return
        found = self._seats.find_whole(service, replica.nodes, now_s)
        if found is None or found.ready_s is None:
            return
        whole, chosen = self._books.speeds(_node(found)), found.decision.chosen
        if whole is None or chosen is None or chosen.placement is None:
            return
        later = penalty_s(takes, size_bytes, whole)
        outlook = self._outlook(replica, later.token_s, now_s)
        switch_s = shift_s(service.model, chosen.placement, self._mean_tokens(replica), [whole])
        why = pays(outlook, later, placement, chosen.placement, found.ready_s, switch_s)
        if not why:
            return
        seats = [self._seats.take(found, now_s), *self._more(replica, found, whole, now_s)]
        switch_s *= ceil(outlook.requests / len(seats))
        self._moves.order(Kind.CONSOLIDATE, [(replica, seats)], why, now_s, switch_s=switch_s)

    def _grow(self, replica: Replica, now_s: float) -> None:
        """Whatever it costs, and saves."""
        service = replica.service
        most = service.objectives.max_replicas - len(service.coming) + 1
        heirs = self._seats.in_place(replica, most, now_s)
        if heirs:
            why = "it has answered, and has reserved room to be whole"
            self._moves.order(Kind.CONSOLIDATE, [(replica, heirs)], why, now_s)

    def _more(self, replica: Replica, first: Seat, whole: Speeds, now_s: float) -> list[Seat]:
        """Under a burst several follow, each on another node, as far as there is room."""
        service = replica.service
        found, nodes = list[Seat](), {_node(first)}
        demand = service.demand()
        wanted = min(service.busy_replicas(whole, demand, now_s), service.objectives.max_replicas)
        for _ in range(wanted - demand.coming):
            seat = self._seats.whole(service, replica.nodes, now_s, but=nodes)
            if seat is None:
                break
            found.append(seat)
            nodes.add(_node(seat))
        return found

    # ---- what is expected

    def _outlook(self, replica: Replica, later_s: float, now_s: float) -> Outlook:
        service, goal, running = replica.service, replica.service.objectives, self._running(replica)
        left = [LEFT * (r.max_tokens - r.generated) for r in running if not r.wants_vector]
        idle_s = now_s - replica.idle_since_s if replica.idle_since_s is not None else 0.0
        kept_s = LONGEST_S if service.least_replicas else min(LONGEST_S, max(0.0, goal.keep_alive_s - idle_s))
        if left:
            kept_s = min(LONGEST_S, kept_s + max(left) * max(later_s, _seen_s(replica) or 0.0))
        to_come = service.load.per_s(now_s) * kept_s * self._answer_tokens(replica)
        vectors = len(running) - len(left) + service.vectors.per_s(now_s) * kept_s
        return Outlook(sum(left) + to_come, kept_s, len(left), vectors)

    def _running(self, replica: Replica) -> list[Request]:
        return [request for name in replica.requests if (request := self._desk.request(name)) is not None]

    def _answer_tokens(self, replica: Replica) -> float:
        """What an answer has, by those that were; before any was over, by what those that run may have."""
        known = replica.service.load.mean_tokens
        if known is not None:
            return known
        running = [request for request in self._running(replica) if not request.wants_vector]
        return LEFT * sum(request.max_tokens for request in running) / len(running) if running else 0.0

    def _mean_tokens(self, replica: Replica) -> int:
        running = [request for request in self._running(replica) if not request.wants_vector]
        return sum(request.tokens for request in running) // len(running) if running else 0


def _seen_s(replica: Replica) -> float | None:
    """What a token of a request took that has the replica for itself; None if none had it for long enough."""
    alone = replica.alone
    if alone is None or alone.tokens < ALONE_TOKENS:
        return None
    return (alone.last_s - alone.first_s) / (alone.tokens - 1)


def _node(seat: Seat) -> str:
    chosen = seat.decision.chosen
    assert chosen is not None
    return chosen.nodes[0]
