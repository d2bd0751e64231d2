"""What is brought ahead, of all that is to come: as much as the links have time for."""

from collections.abc import Mapping, Sequence

from schedules.facts import Model
from schedules.foresight.past import MINUTE_S
from schedules.foresight.plan import Staging
from schedules.foresight.planning import sentences
from schedules.foresight.planning.case import Case
from schedules.foresight.planning.claims import HIDDEN_WORTH, Claims
from schedules.foresight.planning.places import Held, Place
from schedules.foresight.planning.wires import Wires


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

    def stagings(self, cases: Sequence[Case], dram: Claims, ssd: Claims) -> list[Staging]:
        """What saves most per byte is given its time on the links first; what is needed first begins first."""
        by_index = {case.index: case for case in cases}
        turns = list[tuple[float, int, int, str]]()
        for tier, claims in (("dram", dram), ("ssd", ssd)):
            for index, at in claims.comes:
                case = by_index[index]
                turns.append((-(case.worth if tier == "dram" else case.ssd_worth), index, at, tier))
        found = list[tuple[float, float, Staging]]()
        comes_to_dram = {(at, self._models[i].digests[u]) for (i, at), units in dram.comes.items() for u in units}
        for less_worth, index, at, tier in sorted(turns):
            claims, case = (dram if tier == "dram" else ssd), by_index[index]
            staging = self._staging(case, at, tier, claims, comes_to_dram)
            if staging is not None:
                found.append((staging.before_s, less_worth, staging))
        return [staging for *_, staging in sorted(found, key=lambda each: each[:2])]

    def _staging(
        self, case: Case, at: int, tier: str, claims: Claims, comes_to_dram: set[tuple[int, str]]
    ) -> Staging | None:
        """As much of it, from the first unit on, as the links have time for; the rest has no claim any more."""
        model, demand, layout = case.wanted.model, case.demand, case.layout
        units, by_source, fits = list[int](), dict[str, int](), True
        for unit in claims.comes[case.index, at]:
            digest, size_bytes = model.digests[unit], model.sizes[unit]
            if tier == "ssd" and (at, digest) in comes_to_dram:
                continue
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
        before_s = self._now_s + max(demand.due_s, min(self._every_s, MINUTE_S))
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
