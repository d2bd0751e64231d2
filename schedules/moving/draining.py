"""A node that is to be left: what runs there goes on elsewhere, as far as there is room, or ends what it has begun."""

from collections.abc import Sequence
from typing import Protocol

from schedules.lifecycle import State
from schedules.moving.moves import Moves
from schedules.moving.plan import Kind
from schedules.moving.seats import Seat, Seats
from schedules.service import Replica


class Leaves(Protocol):
    """The replicas, as a node that is to be left orders of them."""

    replicas: dict[str, Replica]

    def unplace_from(self, node: str, now_s: float) -> None:
        """Those that were to start there once there is room cannot any more."""
        ...

    def make_way(self, replicas: Sequence[Replica], now_s: float) -> None:
        """They get nothing new from now on."""
        ...


def leave_node(node: str, wish: str, fleet: Leaves, moves: Moves, seats: Seats, now_s: float) -> None:
    """One move for all that runs there. Nothing new goes there already. With nothing there nobody but who has a `wish` hears
    of it."""
    for replica in _on(node, fleet):
        moves.ways.interrupt(replica, f"node {node} is to be left", now_s)
    fleet.unplace_from(node, now_s)
    ways: list[tuple[Replica, list[Seat]]] = []
    for old in [
        r for r in _on(node, fleet) if r.state in (State.SERVING, State.DRAINING) and moves.underway.of(r) is None
    ]:
        seat = seats.anywhere(old.service, old.nodes, now_s)
        ways.append((old, [seat] if seat is not None else []))
    if not ways and not wish:
        return
    moves.order(Kind.DRAIN, ways, f"node {node} is to be left", now_s, node=node, wish=wish)
    fleet.make_way([old for old, seat in ways if not seat], now_s)


def _on(node: str, fleet: Leaves) -> list[Replica]:
    return [replica for replica in list(fleet.replicas.values()) if node in replica.nodes]
