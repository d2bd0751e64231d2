"""Who gets the room of a tier: the units that save most per byte, wherever they lie or come to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from schedules.facts import Model

HIDDEN_WORTH = 0.1
"""What comes while a group is formed saves nobody time, as long as nothing else is on the links: it counts so much."""
MOVING_WORTH = 0.8
"""What would have to be moved is taken for saving so much of what it does, for forecasts are no better: what lies there
already stays."""
FALLS_TO = 0.9
"""Of a part's units each is worth a little less than the one before it, the last so much of the first."""


class Piece(NamedTuple):
    """Units of a model, by their indices in order of use, that are to be at `place`; the first `needed` of them are worth
    `worth` per byte, and what comes behind them little. If it is `idle` they are there, and are to be nowhere."""

    model: int
    place: int
    units: Sequence[int]
    needed: int
    worth: float
    priority: int
    idle: bool = False


@dataclass
class _Want:
    """A unit at a place: what it is worth there to all models that have it, the same as those that are with it (`of_all`),
    and for whom it would come, as their `turn`-th."""

    size_bytes: int
    worth: float
    of_all: float
    priority: int
    model: int
    turn: int
    unit: int
    may_come: bool


@dataclass
class Claims:
    """Of one tier. `room` is what each place has left, `there` the digests that lie in it at each place, `unknown` the bytes
    of those that nobody here knows; those that are `pinned` have their room. `sizes` are of all that are known."""

    room: list[int]
    there: Sequence[Mapping[str, object]]
    unknown: Sequence[int]
    pinned: Sequence[Mapping[str, int]]
    sizes: Mapping[str, int]
    worth: list[dict[str, float]] = field(default_factory=list)
    """Per byte, by place, of the units that are wanted there, whether or not they have room."""
    comes: dict[tuple[int, int], list[int]] = field(default_factory=dict)
    """By model and place: units that are to come there, in order of use."""
    short: set[int] = field(default_factory=set)
    """Models of which something has no room."""

    def settle(self, models: Sequence[Model], pieces: Sequence[Piece]) -> None:
        """All units in turn, what saves most per byte first, and of equals what is of the highest priority."""
        wants: list[dict[str, _Want]] = [{} for _ in self.room]
        for piece in pieces:
            if piece.worth > 0.0:
                _want(wants[piece.place], models[piece.model], piece)
        self.worth = [{} for _ in self.room]
        for place, each in enumerate(wants):
            self._settle_at(place, each)

    def _settle_at(self, place: int, wants: Mapping[str, _Want]) -> None:
        """What lies there and finds no room would be driven out by what comes after it in turn: nothing may then."""
        there, pinned, worth = self.there[place], self.pinned[place], self.worth[place]
        room, full = self.room[place], False
        turns = [
            (-want.of_all * (1.0 if digest in there else MOVING_WORTH), -want.priority, want.model, want.turn, digest)
            for digest, want in wants.items()
        ]
        turns.sort()
        for *_, digest in turns:
            want = wants[digest]
            worth[digest] = want.worth
            if digest in pinned:
                continue
            if digest in there:
                full = full or want.size_bytes > room
                room -= 0 if full else want.size_bytes
            elif want.may_come and (full or want.size_bytes > room):
                self.short.add(want.model)
            elif want.may_come:
                room -= want.size_bytes
                self.comes.setdefault((want.model, place), []).append(want.unit)
        self.room[place] = room


def _want(wants: dict[str, _Want], model: Model, piece: Piece) -> None:
    falls = (1.0 - FALLS_TO) / len(piece.units)
    for turn, unit in enumerate(piece.units):
        of_all = piece.worth if turn < piece.needed else HIDDEN_WORTH * piece.worth
        worth, digest = of_all * (1.0 - falls * turn), model.digests[unit]
        known = wants.get(digest)
        if known is None:
            size_bytes, may_come = model.sizes[unit], not piece.idle
            wants[digest] = _Want(size_bytes, worth, of_all, piece.priority, piece.model, turn, unit, may_come)
            continue
        known.worth += worth
        known.of_all += of_all
        known.priority = max(known.priority, piece.priority)
        if not known.may_come and not piece.idle:
            known.model, known.turn, known.unit, known.may_come = piece.model, turn, unit, True
