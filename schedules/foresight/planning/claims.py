"""Who gets the room of a tier: the units that save most per byte, wherever they lie or come to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from schedules.facts import Model

HIDDEN_WORTH = 0.1
"""What comes while a group is formed saves nobody time, as long as nothing else is on the links: it counts so much."""
MOVING_WORTH = 0.8
"""What lies there already is taken for what saves so much, if that would have to be moved: forecasts are no better."""
FALLS_TO = 0.9
"""Of a part's units each is worth a little less than the one before it, the last so much of the first."""


class Piece(NamedTuple):
    """Units of a model, by their indices in order of use, that are to be at `place`; the first `needed` of them are worth
    `worth` per byte, and what comes behind them little."""

    model: int
    place: int
    units: Sequence[int]
    needed: int
    worth: float
    priority: int


class _Turn(NamedTuple):
    """Those of a piece that are there already, or are not, and are needed, or are not; in the order of turns."""

    less_worth: float
    less_important: int
    piece: int
    there: bool
    needed: bool


@dataclass
class Claims:
    """Of one tier. `room` is what each place has left, `there` the digests that lie in it at each place."""

    room: list[int]
    there: Sequence[Mapping[str, object]]
    claimed: list[dict[str, float]] = field(default_factory=list)
    """Worth per byte of the units that have room, by place."""
    comes: dict[tuple[int, int], list[int]] = field(default_factory=dict)
    """By model and place: units that are to come there."""
    short: set[int] = field(default_factory=set)
    """Models of which something needed has no room."""

    def __post_init__(self) -> None:
        self.claimed = [{} for _ in self.room]

    def settle(self, models: Sequence[Model], pieces: Sequence[Piece]) -> None:
        """All pieces in turn, what saves most first."""
        turns = list[_Turn]()
        for index, (_, _, units, needed, worth, priority) in enumerate(pieces):
            for some_needed in (True, False):
                if worth <= 0.0 or not (needed if some_needed else len(units) - needed):
                    continue
                of_them = worth if some_needed else HIDDEN_WORTH * worth
                turns.append(_Turn(-of_them, -priority, index, True, some_needed))
                turns.append(_Turn(-MOVING_WORTH * of_them, -priority, index, False, some_needed))
        turns.sort()
        for turn in turns:
            self._take(models, pieces[turn.piece], turn)

    def _take(self, models: Sequence[Model], piece: Piece, turn: _Turn) -> None:
        units = piece.units[: piece.needed] if turn.needed else piece.units[piece.needed :]
        there, claimed, room = self.there[piece.place], self.claimed[piece.place], self.room[piece.place]
        model, falls = models[piece.model], (1.0 - FALLS_TO) / len(piece.units)
        worth = piece.worth if turn.needed else HIDDEN_WORTH * piece.worth
        for place, unit in enumerate(units, 0 if turn.needed else piece.needed):
            _, digest, size_bytes = model.units[unit].name, model.units[unit].digest, model.units[unit].size_bytes
            if (digest in there) is not turn.there:
                continue
            of_it = worth * (1.0 - falls * place)
            if digest in claimed:
                claimed[digest] += of_it
                continue
            if size_bytes > room:
                if turn.needed:
                    self.short.add(piece.model)
                break
            room -= size_bytes
            claimed[digest] = of_it
            if not turn.there:
                self.comes.setdefault((piece.model, piece.place), []).append(unit)
        self.room[piece.place] = room
