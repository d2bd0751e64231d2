"""A plan in the making: what is known, looked up once, and the steps from there to the plan."""

from collections.abc import Mapping, Sequence
from statistics import median

from schedules.foresight.past import MINUTE_S
from schedules.foresight.plan import Budgets, Kept, LeftOut, Plan, Staging
from schedules.foresight.planning import sentences
from schedules.foresight.planning.bringing import Bringing
from schedules.foresight.planning.case import Case
from schedules.foresight.planning.claims import Claims, Piece
from schedules.foresight.planning.demand import GOES_EARLY, NONE, Demand, demands_of
from schedules.foresight.planning.ground import Ground, Wanted
from schedules.foresight.planning.keeping import Candidate, devices_of, keep
from schedules.foresight.planning.layouts import Layouts
from schedules.foresight.planning.places import Held, places_of
from schedules.foresight.planning.starts import Starts
from schedules.foresight.planning.wires import Wires, links_of
from schedules.foresight.retention import Retention
from schedules.ledgers.nodes import ranks_of

AGAIN_WORTH = 0.1
"""Of what a unit saves on one node so much is saved by having it on another one, too."""
SOON_PLANS = 2.0
"""A start so many plans from now counts half of one that comes at once."""
LIKELY = 0.5
"""A replica is kept for at least so many starts that it spares, sooner ones counting more: room has other uses, and to keep
what is not up yet takes a start of its own."""
_GIB, _HOUR_S = 1 << 30, 3600.0


class Making:
    """See the module. One plan comes of it."""

    def __init__(self, ground: Ground, budgets: Budgets, now_s: float, every_s: float) -> None:
        self._ground, self._budgets, self._now_s, self._every_s = ground, budgets, now_s, every_s
        self._left_out = list[LeftOut]()
        self._places, unmeasured = places_of(ground.view)
        self._left_out += [LeftOut(name, why) for name, why in unmeasured.items()]
        self._models = [wanted.model for wanted in ground.models]
        self._sizes = {unit.digest: unit.size_bytes for model in self._models for unit in model.units}
        self._place_of = {node.name: at for at, place in enumerate(self._places) for node in place.nodes}
        ranks = ranks_of(ground.view)
        self._starts = Starts(ranks.gpus, ranks.store_bytes_per_s)
        self._wires = Wires(
            links_of(self._places, ranks.store_bytes_per_s), budgets.link_share, every_s, budgets.moved_bytes
        )
        self._until_s = max(now_s + every_s, ground.forecast.at_s + ground.forecast.horizon_s)

    def plan(self) -> Plan:
        """From step to step."""
        cases = self._cases()
        kept = self._keep(cases)
        pinned = self._pinned(cases, kept)
        self._value(cases, kept)
        otherwise = median([case.worth for case in cases if case.worth > 0.0] or [0.0])
        ssd_otherwise = median([case.ssd_worth for case in cases if case.ssd_worth > 0.0] or [0.0])
        self._put(cases)
        dram = self._claims(pinned, "dram", self._budgets.dram_share)
        dram.settle(self._models, self._pieces(cases, "dram"))
        ssd = self._claims([{} for _ in self._places], "ssd", self._budgets.ssd_share)
        ssd.settle(self._models, self._pieces(cases, "ssd"))
        kept_in_dram, kept_on_ssd = self._retention(dram, otherwise), self._retention(ssd, ssd_otherwise)
        bringing = Bringing(
            self._models, self._places, self._held, self._placed, self._wires, self._now_s, self._every_s
        )
        stagings = bringing.stagings(cases, dram, ssd, kept_in_dram)
        self._explain(cases, kept, dram, stagings)
        worth = {
            case.wanted.model.key: case.demand.waited_s(case.layout.now_s, case.demand.gone_soon) for case in cases
        }
        return Plan(
            self._now_s,
            self._until_s,
            tuple(stagings),
            kept_in_dram,
            kept_on_ssd,
            tuple(kept.values()),
            worth,
            tuple(self._left_out),
        )

    # ---- whom it is about

    def _cases(self) -> list[Case]:
        ground = self._ground
        wanted_by_name = {wanted.model.name: wanted for wanted in ground.models}
        keep_alive_s = {name: wanted.objectives.keep_alive_s for name, wanted in wanted_by_name.items()}
        running = [
            name in wanted_by_name and bool(ground.running.get(wanted_by_name[name].model.key))
            for name in ground.forecast.models
        ]
        soon_s = SOON_PLANS * max(self._every_s, MINUTE_S)
        demands = demands_of(ground.forecast, keep_alive_s, running, self._now_s, soon_s)
        called = list[tuple[int, Wanted, Demand]]()
        for index, wanted in enumerate(ground.models):
            demand = demands.get(wanted.model.name, NONE)
            if not self._places:
                self._leave_out(wanted, sentences.NOWHERE)
            elif wanted.objectives.min_replicas:
                self._leave_out(wanted, sentences.ALWAYS_UP)
            elif demand.gone <= 0.0:
                self._leave_out(wanted, sentences.NEVER)
            else:
                called.append((index, wanted, demand))
        self._held = Held(self._places, [digest for _, wanted, _ in called for digest in wanted.model.digests])
        if not called:
            return []
        layouts, found = Layouts(self._places, self._starts), list[Case]()
        for index, wanted, demand in called:
            held = self._held.by_place(wanted.model.digests)
            layout = layouts.of(wanted.model, wanted.objectives, held)
            if layout is None:
                self._leave_out(wanted, sentences.FITS_NOWHERE)
            else:
                up = [
                    names
                    for names in ground.running.get(wanted.model.key, ())
                    if names and all(name in self._place_of for name in names)
                ]
                found.append(Case(index, wanted, demand, layout, held, up, bool(up)))
        return found

    def _per_byte(self, saved_s: float) -> float:
        """What so much for a GiB and an hour is for a byte, and as long as the plan holds."""
        return saved_s / _GIB * (self._until_s - self._now_s) / _HOUR_S

    def _leave_out(self, wanted: Wanted, why: str) -> None:
        self._left_out.append(LeftOut(wanted.model.name, why))

    # ---- replicas that are there all the time

    def _keep(self, cases: Sequence[Case]) -> dict[int, Kept]:
        """By the model's index."""
        nodes = [node for place in self._places for node in place.nodes]
        devices = devices_of(nodes, self._budgets.device_share)
        if not self._budgets.device_share:
            return {}
        candidates, holds = list[Candidate](), dict[int, Mapping[str, int]]()
        least = self._per_byte(self._budgets.least_saved_device_s)
        for case in cases:
            whole_bytes = self._starts.parts(case.layout.shape, 1)[0].reserve_bytes
            demand, start_s = case.demand, case.layout.now_s
            if demand.gone_soon < LIKELY or demand.waited_s(start_s, demand.gone) < least * whole_bytes:
                continue
            saved_s = demand.waited_s(start_s, demand.gone_soon)
            priority = case.wanted.objectives.priority
            candidates.append(Candidate(case.index, whole_bytes, case.running, saved_s, priority))
            holds[case.index] = self._holds(case) if not case.running else {}
        keep(devices, candidates, holds)
        kept = dict[int, Kept]()
        for case in cases:
            node = devices.kept.get(case.index)
            if node is None or (node and not self._comes_whole(case, node)):
                continue
            start_s, saved_s = case.layout.now_s, case.demand.waited_s(case.layout.now_s, case.demand.gone_soon)
            reason = sentences.kept(case.wanted.model.name, case.demand, node, start_s)
            kept[case.index] = Kept(case.wanted.model.key, 1, saved_s, reason)
            if node:
                case.running = [(node,)]
        return kept

    def _holds(self, case: Case) -> dict[str, int]:
        """Bytes of the model by node."""
        found = dict[str, int]()
        for place, tiers in case.held.items():
            size_bytes = sum([size for size, tier in zip(case.wanted.model.sizes, tiers, strict=True) if tier])
            found |= {node.name: size_bytes for node in self._places[place].nodes}
        return found

    def _comes_whole(self, case: Case, node: str) -> bool:
        """Whether what the node lacks of the model comes over the links before the next plan."""
        place = self._place_of[node]
        missing = [unit for unit in case.wanted.model.units if unit.digest not in self._places[place].units]
        size_bytes, ways = sum([unit.size_bytes for unit in missing]), self._wires.ways(self._places[place], "remote")
        return not size_bytes or self._wires.take(ways, size_bytes, self._every_s, network=True)

    def _pinned(self, cases: Sequence[Case], kept: Mapping[int, Kept]) -> list[dict[str, int]]:
        """What is in dram as long as somebody runs on it, by place: the room that it has is nobody's."""
        found: list[dict[str, int]] = [{} for _ in self._places]
        by_key = {wanted.model.key: wanted.model for wanted in self._ground.models}
        for key, replicas in self._ground.running.items():
            if (model := by_key.get(key)) is None:
                continue
            for at in {self._place_of[name] for names in replicas for name in names if name in self._place_of}:
                units = self._places[at].units
                found[at] |= {u.digest: u.size_bytes for u in model.units if units.get(u.digest) == "dram"}
        for case in cases:
            if case.index in kept:
                for name in {name for names in case.running for name in names}:
                    if len(case.running[0]) == 1:
                        found[self._place_of[name]] |= {u.digest: u.size_bytes for u in case.wanted.model.units}
        return found

    # ---- what is in which tier

    def _value(self, cases: Sequence[Case], kept: Mapping[int, Kept]) -> None:
        """What is kept up may be made to go all the same, and is to come back fast then."""
        least = self._per_byte(self._budgets.least_saved_s)
        for case in cases:
            demand, layout = case.demand, case.layout
            starts, soon = demand.starts, demand.soon
            if case.index in kept:
                if not case.was_up:
                    continue
                starts, soon = GOES_EARLY * demand.gone, GOES_EARLY * demand.gone_soon
            gain_s = layout.bare_s - layout.staged_s
            if gain_s > 0.0 and layout.needed_bytes:
                case.saved_s = demand.waited_s(gain_s, starts)
                if case.saved_s / layout.needed_bytes >= least:
                    case.worth = demand.waited_s(gain_s, soon) / layout.needed_bytes
                else:
                    case.reason = sentences.CAPPED
            if layout.far_s > layout.near_s:
                case.ssd_worth = demand.waited_s(layout.far_s - layout.near_s, soon) / case.wanted.model.size_bytes

    def _put(self, cases: Sequence[Case]) -> None:
        """Each piece that lies nowhere finds a place: what saves most first, where most room is left; of those the first
        layers come to the node with most free device memory."""
        share = self._budgets.dram_share
        room = [int(share * place.first.dram_bytes) for place in self._places]
        self._placed = dict[int, list[int]]()
        for case in sorted(cases, key=lambda case: (-case.worth, case.index)):
            pieces = case.layout.pieces
            taken = {piece.place for piece in pieces if piece.place is not None}
            lacking = sum(piece.place is None for piece in pieces)
            free = list[int]()
            if lacking:
                order = sorted([at for at in range(len(room)) if at not in taken], key=lambda at: (-room[at], at))[
                    :lacking
                ]
                free = sorted(order, key=lambda at: (self._places[at].first.stage_free_bytes, -at))
            chosen = [piece.place if piece.place is not None else free.pop() for piece in pieces]
            for piece, at in zip(pieces, chosen, strict=True):
                room[at] -= sum([case.wanted.model.sizes[unit] for unit in piece.part.units[: piece.needed]])
            self._placed[case.index] = chosen

    def _claims(self, pinned: Sequence[Mapping[str, int]], tier: str, share: float) -> Claims:
        """The room of what is pinned, and of what nobody here knows, is taken."""
        room, there, unknown = list[int](), list[Mapping[str, object]](), list[int]()
        for place, held in zip(self._places, pinned, strict=True):
            first, units = place.first, place.units
            budget, used = (
                (first.dram_bytes, first.dram_used_bytes) if tier == "dram" else (first.ssd_bytes, first.ssd_used_bytes)
            )
            mine = [digest for digest, where in units.items() if where == tier or tier == "ssd"]
            unknown.append(max(0, used - sum([self._sizes.get(digest, 0) for digest in mine])))
            room.append(max(0, int(share * budget) - sum(held.values()) - unknown[-1]))
            there.append(dict.fromkeys(mine))
        return Claims(room, there, unknown, pinned, self._sizes)

    def _pieces(self, cases: Sequence[Case], tier: str) -> list[Piece]:
        """Where they are to be, and of what lies elsewhere what little it is worth there."""
        found = list[Piece]()
        for case in cases:
            worth, priority = case.worth if tier == "dram" else case.ssd_worth, case.wanted.objectives.priority
            if worth <= 0.0:
                continue
            placed = dict[int, set[int]]()
            for piece, at in zip(case.layout.pieces, self._placed[case.index], strict=True):
                units = piece.part.units
                needed = piece.needed if tier == "dram" else len(units)
                found.append(Piece(case.index, at, units, needed, worth, priority))
                placed.setdefault(at, set()).update(units)
            for at, tiers in case.held.items():
                home = placed.get(at, set())
                others = [unit for unit, where in enumerate(tiers) if where and unit not in home]
                if others:
                    again = AGAIN_WORTH * worth
                    found.append(Piece(case.index, at, others, len(others), again, priority, idle=True))
        return found

    # ---- what is kept

    def _retention(self, claims: Claims, otherwise: float) -> dict[str, Retention]:
        """What is known and nobody wants there is worth nothing."""
        found = dict[str, Retention]()
        for at, place in enumerate(self._places):
            worth = {digest: 0.0 for digest in claims.there[at] if digest in self._sizes} | claims.worth[at]
            found |= dict.fromkeys([node.name for node in place.nodes], Retention(worth, otherwise))
        return found

    # ---- what it is not about

    def _explain(
        self, cases: Sequence[Case], kept: Mapping[int, Kept], dram: Claims, stagings: Sequence[Staging]
    ) -> None:
        """Why nothing is done for a model."""
        done = {staging.key for staging in stagings}
        for case in cases:
            if case.index in kept or case.wanted.model.key in done:
                continue
            why = case.reason
            if not why and case.index in dram.short:
                why = sentences.NO_ROOM
            elif not why and not case.worth and not case.ssd_worth:
                why = sentences.NO_GAIN
            self._leave_out(case.wanted, why or sentences.THERE)
