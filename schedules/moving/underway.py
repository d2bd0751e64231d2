"""The moves that are not over, and who has to do with which."""

from collections.abc import Callable
from itertools import count

from schedules.actions import Action, MoveAt
from schedules.moving.move import Move
from schedules.moving.plan import Kind, Step
from schedules.moving.steps import step
from schedules.service import Replica


class Underway:
    """`moves`, by name, are to be read by others. `prefix` begins their names, `out` takes actions in their order."""

    def __init__(self, prefix: str, out: Callable[[Action], None]) -> None:
        self._names, self._out = (f"{prefix}{n}" for n in count(1)), out
        self.moves: dict[str, Move] = {}
        self._of: dict[Replica, Move] = {}
        self._alone: set[str] = set()  # moves of one request, which `of` does not know

    def name(self) -> str:
        """One that was never used."""
        return next(self._names)

    def of(self, replica: Replica) -> Move | None:
        """The move that the replica makes way or follows in."""
        return self._of.get(replica)

    def draining(self, node: str) -> Move | None:
        """The move that frees the node for an operator, or since it said so itself."""
        return next((m for m in self.moves.values() if m.plan.kind is Kind.DRAIN and m.plan.node == node), None)

    def shifting(self, request: str) -> bool:
        """Whether an operator has the request moved."""
        return any(move.plan.request == request for move in self.moves.values())

    @property
    def ahead_of_time(self) -> list[Replica]:
        """Those that follow others which serve on as if they were not there."""
        return [heir for move in self.moves.values() for heir in move.heirs if heir.ahead_of_time]

    def switching_with(self, replica: Replica) -> list[Move]:
        """The moves that are switching and have to do with the replica."""
        if not self._alone:
            move = self._of.get(replica)
            return [move] if move is not None and move.switching else []
        return [m for m in self.moves.values() if m.switching and any(replica in (w.old, *w.heirs) for w in m.ways)]

    # ---- changes

    def open(self, move: Move) -> None:
        """It stands at its first step. Its replicas are in no other, unless a request moves alone."""
        self.moves[move.plan.move] = move
        if move.plan.request:
            self._alone.add(move.plan.move)
        else:
            self._of |= {way.old: move for way in move.ways} | dict.fromkeys(move.heirs, move)
        self._out(MoveAt(move.plan, move.step))

    def part(self, replica: Replica) -> None:
        """The replica is in no move any more."""
        self._of.pop(replica, None)

    def to(self, move: Move, to: Step, reason: str = "") -> None:
        """It stands there from now on."""
        move.step = step(move.step, to)
        self._out(MoveAt(move.plan, to, reason))

    def close(self, move: Move, to: Step, reason: str = "") -> None:
        """It is over."""
        del self.moves[move.plan.move]
        self._alone.discard(move.plan.move)
        for replica in [replica for replica, of in self._of.items() if of is move]:
            del self._of[replica]
        self.to(move, to, reason)
