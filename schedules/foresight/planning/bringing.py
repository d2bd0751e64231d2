"""What is brought ahead, of all that is to come: as much as the links have time for."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from schedules.facts import Model
from schedules.foresight.past import MINUTE_S
from schedules.foresight.plan import Staging
from schedules.foresight.planning import sentences
from schedules.foresight.planning.case import Case
from schedules.foresight.planning.claims import HIDDEN_WORTH, Claims
from schedules.foresight.planning.passage import Passage
from schedules.foresight.planning.places import Held, Place
from schedules.foresight.planning.wires import Wires
from schedules.foresight.retention import Retention


class _Turn(NamedTuple):
    """Units of a model that are to come to a tier of a place. Those of less worth per byte come later."""

    less_worth: float
    model: int
    place: int
    tier: str
    units: Sequence[int]


class Bringing:
    """To `places`, of which `held` knows the units and `placed` which piece of a case's layout is to be at which. The next
    plan is made `every_s` after `now_s`."""

    def __init__(
        self,
        models: Sequence[Model],
        places: Sequence[Place],
        held: Held,
        placed: Mapping[int, Sequence[int]],
        wires: Wires,
        now_s: float,
        every_s: float,
    ) -> None:
        self._models, self._places, self._held, self._placed = models, places, held, placed
        self._wires, self._now_s, self._every_s = wires, now_s, every_s

    def stagings(
        self, cases: Sequence[Case], dram: Claims, ssd: Claims, kept_in_dram: Mapping[str, Retention]
    ) -> list[Staging]:
        """What saves most per byte is given its time on the links first; what is needed first begins first. What goes to ssd
        comes through dram, of which `kept_in_dram` says by nodes' names what they keep."""
        by_index = {case.index: case for case in cases}
        turns = [_Turn(-by_index[i].worth, i, at, "dram", units) for (i, at), units in dram.comes.items()]
        turns += [_Turn(-by_index[i].ssd_worth, i, at, "ssd", units) for (i, at), units in ssd.comes.items()]
        turns.sort()

        def begins(turn: _Turn) -> tuple[float, float]:
            return self._before_s(by_index[turn.model]), turn.less_worth

        gets_there = self._through_dram(sorted(turns, key=begins), by_index, dram, kept_in_dram)
        found = list[tuple[tuple[float, float], Staging]]()
        for turn in turns:
            staging = self._staging(by_index[turn.model], turn, gets_there[turn.model, turn.place, turn.tier])
            if staging is not None:
                found.append((begins(turn), staging))
        return [staging for _, staging in sorted(found, key=lambda each: each[0])]

    def _before_s(self, case: Case) -> float:
        return self._now_s + max(case.demand.due_s, min(self._every_s, MINUTE_S))

    def _through_dram(
        self, turns: Iterable[_Turn], cases: Mapping[int, Case], dram: Claims, kept: Mapping[str, Retention]
    ) -> dict[tuple[int, int, str], Sequence[int]]:
        """Of each of these, which begin one after the other, the units that get there: also what is only on its way takes no
        room in dram of what is worth more."""
        passages, found = dict[int, Passage](), dict[tuple[int, int, str], Sequence[int]]()
        with_dram = {(at, self._models[i].digests[unit]) for (i, at), units in dram.comes.items() for unit in units}
        for _, index, at, tier, units in turns:
            model, first = self._models[index], self._places[at].first
            if at not in passages:
                passages[at] = Passage(at, first, dram, kept[first.name])
            passage = passages[at]
            if tier == "dram":
                for unit in units:
                    passage.add(model.digests[unit], model.sizes[unit])
                found[index, at, tier] = units
                continue
            alone = [unit for unit in units if (at, model.digests[unit]) not in with_dram]
            found[index, at, tier] = [unit for unit in alone if passage.lets(model.digests[unit], model.sizes[unit])]
            if alone and not found[index, at, tier]:
                cases[index].reason = cases[index].reason or sentences.NO_PASSAGE
        return found

    def _staging(self, case: Case, turn: _Turn, to_come: Sequence[int]) -> Staging | None:
        """As much of it, from the first unit on, as the links have time for; the rest has no claim any more."""
        model, demand, layout, at, tier = case.wanted.model, case.demand, case.layout, turn.place, turn.tier
        units, by_source, fits = list[int](), dict[str, int](), True
        for unit in to_come:
            digest, size_bytes = model.digests[unit], model.sizes[unit]
            source = self._source(at, digest)
            fits = fits and self._wires.take(
                self._wires.ways(self._places[at], source), size_bytes, demand.due_s, network=source != "ssd"
            )
            if not fits:
                continue
            units.append(unit)
            by_source[source] = by_source.get(source, 0) + size_bytes
        if not units:
            case.reason = case.reason or ("" if fits else sentences.NO_TIME)
            return None
        size_bytes, node = sum(by_source.values()), self._places[at].first.name
        source = max(by_source, key=lambda name: (by_source[name], name))
        before_s = self._before_s(case)
        if tier == "dram":
            saved_s = self._saved_s(case, at, units)
            reason = sentences.staged(
                model.name, demand, tier, node, source, max(layout.now_s, layout.staged_s), layout.staged_s
            )
        else:
            saved_s = demand.waited_s(layout.far_s - layout.near_s) * size_bytes / model.size_bytes
            reason = sentences.staged(model.name, demand, tier, node, source, layout.far_s, layout.near_s)
        names = tuple([model.units[unit].name for unit in units])
        return Staging(node, model.key, names, tier, size_bytes, source, before_s, saved_s, reason)

    def _saved_s(self, case: Case, at: int, units: Sequence[int]) -> float:
        """Each byte that is needed saves as much."""
        needed = {
            unit
            for piece, place in zip(case.layout.pieces, self._placed[case.index], strict=True)
            if place == at
            for unit in piece.part.units[: piece.needed]
        }
        sizes = case.wanted.model.sizes
        counts = sum([sizes[unit] * (1.0 if unit in needed else HIDDEN_WORTH) for unit in units])
        return case.saved_s * min(1.0, counts / case.layout.needed_bytes)

    def _source(self, at: int, digest: str) -> str:
        if digest in self._places[at].units:
            return "ssd"
        if self._places[at].first.peer_port and any(
            other != at and self._places[other].first.peer_port for other, _ in self._held.at(digest)
        ):
            return "peer"
        return "remote"
