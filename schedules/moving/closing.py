"""When a move is over."""

from schedules.ledgers.books import Books
from schedules.moving.move import Move
from schedules.moving.plan import Kind, Step
from schedules.moving.sides import Replicas, Shifts
from schedules.moving.underway import Underway
from schedules.requests import Stand


class Closing:
    """See the module."""

    def __init__(self, books: Books, fleet: Replicas, shifts: Shifts, underway: Underway) -> None:
        self._books, self._fleet, self._shifts, self._underway = books, fleet, shifts, underway

    def end_if_over(self, move: Move) -> None:
        """DONE, if nothing is left to be moved."""
        if not move.switching:
            return
        if move.plan.request:
            self._end_request(move)
        elif not move.ways and not self._runs_there(move):
            self._underway.close(move, Step.DONE)

    def _end_request(self, move: Move) -> None:
        (way,) = move.ways
        request = self._shifts.request(move.plan.request)
        if request is not None and request.stand is not Stand.HELD and request.group == way.old.group:
            if way.stayed[request.name] > 1:
                self._underway.close(move, Step.GIVEN_UP, "the request could not go over, and stays where it is")
            return
        there = request is not None and request.group == way.heirs[0].group
        self._underway.close(
            move, Step.DONE if there else Step.GIVEN_UP, "" if there else "the request is over, or lost"
        )

    def _runs_there(self, move: Move) -> bool:
        """Whether anything runs on the node that is left."""
        if move.plan.kind is not Kind.DRAIN or not self._books.nodes.drained([move.plan.node]):
            return False
        return any(move.plan.node in replica.nodes for replica in self._fleet.replicas.values())
