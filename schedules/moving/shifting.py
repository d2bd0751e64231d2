"""The requests of those that make way: which are on their way, and to whom."""

from schedules.ledgers.books import Books
from schedules.lifecycle import State
from schedules.limits import SHIFT_AGAIN_S, SHIFTS_AT_ONCE
from schedules.moving.closing import Closing
from schedules.moving.migration import copies
from schedules.moving.move import Move, Way
from schedules.moving.sides import Shifts
from schedules.moving.underway import Underway
from schedules.requests import Stand
from schedules.service import Replica
from schedules.wakes import Wakes


class Shifting:
    """See the module. Each heir takes a few in at once."""

    def __init__(self, books: Books, wakes: Wakes, shifts: Shifts, underway: Underway, closing: Closing) -> None:
        self._books, self._wakes, self._shifts = books, wakes, shifts
        self._underway, self._closing = underway, closing

    def shift(self, move: Move, way: Way) -> None:
        """As many of its requests as the heirs take in now are on their way."""
        names = [move.plan.request] if move.plan.request else list(way.old.requests)
        for name in names:
            request = self._shifts.request(name)
            if request is None or request.stand is not Stand.RUNNING or request.group != way.old.group:
                continue
            if way.stayed[name] > 1 or name in way.later:
                continue
            heir = self._taker(way, request.room)
            if heir is not None and heir.placement is not None:
                speeds = [self._books.speeds(node) for node in heir.nodes]
                copy = copies(heir.service.model, heir.placement, request.tokens, speeds)
                self._shifts.shift(name, heir, copy=copy)

    def _taker(self, way: Way, room: int) -> Replica | None:
        """The heir with least to do that has the room, and takes one more in."""
        most = way.old.service.objectives.kv_tokens
        able = [
            heir
            for heir in way.heirs
            if heir.state is State.SERVING
            and len(heir.arriving) < SHIFTS_AT_ONCE
            and heir.used_tokens + room <= most
            and not self._books.nodes.drained(heir.nodes)
        ]
        return min(able, key=lambda heir: heir.used_tokens, default=None)

    def released(self, replica: Replica) -> None:
        """A request that it had is not there any more: there may be room for others."""
        if not self._underway.moves:
            return
        for move in self._underway.switching_with(replica):
            for way in list(move.ways):
                self.shift(move, way)
            if move.plan.request:
                self._closing.end_if_over(move)

    def stayed(self, request: str, group: str, now_s: float) -> None:
        """The request could not go over; it is tried once more."""
        for move in list(self._underway.moves.values()):
            for way in move.ways:
                if (
                    move.switching
                    and way.old.group == group
                    and (not move.plan.request or move.plan.request == request)
                ):
                    self._try_again(move, way, request, now_s)

    def _try_again(self, move: Move, way: Way, request: str, now_s: float) -> None:
        way.stayed[request] += 1
        if way.stayed[request] > 1:
            self._closing.end_if_over(move)
            return
        way.later.add(request)

        def look(_then_s: float) -> None:
            way.later.discard(request)
            if way in move.ways and move.switching:
                self.shift(move, way)

        self._wakes.at(now_s + SHIFT_AGAIN_S, look)
