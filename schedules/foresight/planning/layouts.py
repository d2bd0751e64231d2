"""How a model would best lie in the memory of nodes: over how many of them, and which of its units where."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from schedules.estimates import Speeds
from schedules.facts import Model
from schedules.foresight.planning.places import Place
from schedules.foresight.planning.starts import Shape, Starts, Tiers
from schedules.objectives import Objectives
from schedules.placing.partition import Part

AS_FAST = 1.02
"""Layouts whose starts take no longer than this times the fastest's are equally good: that which moves and takes least is
taken."""
_SSD_COUNTS = 0.25
"""What is on a node's ssd makes it the place for a part so much less than what is in its dram."""


@dataclass(frozen=True)
class Piece:
    """A part of the model and the `place` where it lies already, or None: anywhere. The first token waits for nothing of it
    once its first `needed` units are in dram; `lie` is where they are at that place."""

    part: Part
    place: int | None
    needed: int
    lie: Tiers


@dataclass(frozen=True)
class Layout:
    """Cold starts take `now_s` as things are, `bare_s` if nothing of the model were in any dram, and `staged_s` with all
    `needed_bytes` of it there as laid out, of which `missing_bytes` are not yet. From the store alone they would take
    `far_s`, and with all of it on ssd as laid out `near_s`. `speeds` are those of the pieces' places."""

    shape: Shape
    pieces: tuple[Piece, ...]
    speeds: tuple[Speeds, ...]
    now_s: float
    bare_s: float
    staged_s: float
    needed_bytes: int
    missing_bytes: int
    far_s: float = 0.0
    near_s: float = 0.0

    @property
    def parts(self) -> tuple[Part, ...]:
        """What each stage has."""
        return tuple([piece.part for piece in self.pieces])

    @property
    def degree(self) -> int:
        return len(self.pieces)


class Layouts:
    """Of models, over places. Nodes that hold nothing of a model are taken for `usual` ones."""

    def __init__(self, places: Sequence[Place], starts: Starts) -> None:
        self._places, self._starts = places, starts
        by_nic = sorted(places, key=lambda place: (place.speeds.nic_bytes_per_s, place.first.name))
        self._usual = by_nic[len(by_nic) // 2].speeds
        self._device_bytes = sorted(
            [max(node.device_bytes - node.context_bytes for node in place.nodes) for place in places], reverse=True
        )
        self._bare: dict[tuple[int, int], Layout | None] = {}

    def of(self, model: Model, objectives: Objectives, held: Mapping[int, Sequence[str]]) -> Layout | None:
        """None if the model fits the nodes in no way. `held` is as of Held.by_place."""
        shape, most = self._starts.shape(model, objectives.kv_tokens), objectives.max_degree
        if held:
            return self._found(shape, most, held)
        if (id(shape), most) not in self._bare:
            self._bare[id(shape), most] = self._found(shape, most, held)
        return self._bare[id(shape), most]

    def _found(self, shape: Shape, most: int, held: Mapping[int, Sequence[str]]) -> Layout | None:
        tried = [self._try(shape, degree, held) for degree in self._degrees(shape, most)]
        if not tried:
            return None
        fastest_s = min(each.staged_s for each in tried)
        as_fast = [each for each in tried if each.staged_s <= fastest_s * AS_FAST]
        best = min(as_fast, key=lambda each: (each.missing_bytes + each.needed_bytes, each.degree))
        now_s, bare_s = min(each.now_s for each in tried), min(each.bare_s for each in tried)
        seconds = self._starts.seconds
        far_s = min(seconds(shape, each.speeds, _all(each.parts, "")) for each in tried)
        near_s = seconds(shape, best.speeds, _all(best.parts, "ssd"))
        return replace(best, now_s=now_s, bare_s=bare_s, far_s=far_s, near_s=near_s)

    def _degrees(self, shape: Shape, most: int) -> list[int]:
        """Those that fit the nodes empty; beyond the largest that is wanted the first that does."""
        largest = min(shape.model.layers, len(self._places))
        found = [degree for degree in range(1, min(most, largest) + 1) if self._fits(shape, degree)]
        beyond = range(min(most, largest) + 1, largest + 1)
        return found or [degree for degree in beyond if self._fits(shape, degree)][:1]

    def _fits(self, shape: Shape, degree: int) -> bool:
        needed = sorted([part.reserve_bytes for part in self._starts.parts(shape, degree)], reverse=True)
        return all(size <= there for size, there in zip(needed, self._device_bytes, strict=False))

    def _try(self, shape: Shape, degree: int, held: Mapping[int, Sequence[str]]) -> Layout:
        parts = self._starts.parts(shape, degree)
        places = self._assigned(shape, parts, held)
        speeds = [self._usual if place is None else self._places[place].speeds for place in places]
        lie = [
            tuple([held[place][unit] for unit in part.units]) if place is not None else ("",) * len(part.units)
            for part, place in zip(parts, places, strict=True)
        ]
        behind = [tuple(["ssd" if tier == "dram" else tier for tier in each]) for each in lie]
        pieces, needed_bytes, missing_bytes = list[Piece](), 0, 0
        for part, place, each, there, after in zip(parts, places, speeds, lie, behind, strict=True):
            needed = self._starts.needed(shape, part, each, degree, after)
            pieces.append(Piece(part, place, needed, there))
            for unit, tier in zip(part.units[:needed], there, strict=False):
                size = shape.model.sizes[unit]
                needed_bytes += size
                missing_bytes += 0 if tier == "dram" else size
        seconds = self._starts.seconds
        bare_s, staged_s = seconds(shape, speeds, behind), seconds(shape, speeds, _all(parts, "dram"))
        now_s = bare_s if behind == lie else seconds(shape, speeds, lie)
        return Layout(shape, tuple(pieces), tuple(speeds), now_s, bare_s, staged_s, needed_bytes, missing_bytes)

    def _assigned(self, shape: Shape, parts: Sequence[Part], held: Mapping[int, Sequence[str]]) -> list[int | None]:
        """The places that hold most of each part, each once; None for a part of which nobody who is left holds any."""
        found: list[int | None] = [None] * len(parts)
        pairs = list[tuple[float, int, int]]()
        for place, tiers in held.items():
            counts = [
                size if tier == "dram" else _SSD_COUNTS * size if tier else 0.0
                for size, tier in zip(shape.model.sizes, tiers, strict=True)
            ]
            sums = (0.0, *accumulate(counts))
            for rank, part in enumerate(parts):
                there = sum([sums[end] - sums[first] for first, end in part.runs])
                if there > 0.0:
                    pairs.append((-there, rank, place))
        taken = set[int]()
        for _, rank, place in sorted(pairs):
            if found[rank] is None and place not in taken:
                found[rank] = place
                taken.add(place)
        return found


def _all(parts: Sequence[Part], tier: str) -> list[Tiers]:
    return [(tier,) * len(part.units) for part in parts]
