"""Our rule: predict every candidate, take the cheapest that meets the model's service level, else the fastest."""

from collections.abc import Sequence
from dataclasses import replace

from schedules.candidates import candidate, slower
from schedules.decision import Candidate, Decision, Move, Prediction, Question, Running, Wait
from schedules.estimates import migration_s
from schedules.facts import NoPlacement, Placement
from schedules.policies.fixed import no_room
from schedules.survey import Survey

AS_FAST = 1.02
"""Candidates that are predicted to take no longer than this times the fastest are taken for equally fast."""


class Planned:
    """Looks at every degree up to the model's largest, and beyond it only if the model does not fit else.

    What would make an admitted start late is ruled out; if nothing else fits, the start waits. Where memory is short, or
    the node that holds the units is taken, idle replicas may go, or running ones be migrated, if that pays.
    """

    name = "planned"

    def decide(self, question: Question) -> Decision:
        """See the module."""
        survey = Survey(question)
        tried = _tried(question, survey)
        tried += _with_moves(question, tried)
        eligible = [c for c in tried if c.placement is not None and not c.ruled_out]
        if not eligible:
            return Decision(self.name, _not_now(question, survey, tried), tuple(tried))
        chosen, why = _choose(question, eligible)
        assert chosen.placement is not None
        placement = replace(chosen.placement, reasons=(why, *chosen.placement.reasons))
        told = tuple(
            replace(c, placement=placement)
            if c is chosen
            else c
            if c.ruled_out
            else replace(c, ruled_out=_beaten(question, c, chosen))
            for c in tried
        )
        return Decision(self.name, placement, told)


def _tried(question: Question, survey: Survey) -> list[Candidate]:
    """A candidate for each degree; beyond the largest that is wanted only until one fits."""
    most = min(question.model.layers, len(survey.usable))
    wanted = min(question.objectives.max_degree, most)
    tried = [candidate(survey, degree) for degree in range(1, wanted + 1)]
    degree = wanted + 1
    while degree <= most and all(c.placement is None for c in tried):
        tried.append(candidate(survey, degree))
        degree += 1
    return tried


def _choose(question: Question, eligible: Sequence[Candidate]) -> tuple[Candidate, str]:
    known = [(c, c.prediction) for c in eligible if c.prediction is not None]
    if not known:
        return eligible[-1], f"degree {eligible[-1].degree}: nothing is measured yet, so the largest that fits"
    goal = question.objectives
    meeting = [(c, p) for c, p in known if _meets(question, p)]
    if meeting and goal.ttft_s is not None:
        chosen, prediction = min(meeting, key=lambda cp: (bool(cp[0].moves), cp[1].cost_byte_s, cp[0].degree))
        return chosen, (
            f"degree {chosen.degree}: the cheapest of {len(meeting)} that meet the service level, "
            f"{prediction.ttft_bad_s:.2f} s at the bad end of {goal.ttft_s:.2f} s"
        )
    within = meeting or known
    fastest_s = min(p.ttft_s for _, p in within)
    as_fast = [(c, p) for c, p in within if p.ttft_s <= fastest_s * AS_FAST]
    chosen, prediction = min(as_fast, key=lambda cp: (bool(cp[0].moves), cp[1].cost_byte_s, cp[0].degree))
    unmet = "" if meeting else "nothing meets the service level; "
    return chosen, f"degree {chosen.degree}: {unmet}the fastest, {prediction.ttft_s:.2f} s to the first token"


def _meets(question: Question, prediction: Prediction) -> bool:
    goal = question.objectives
    in_time = goal.ttft_s is None or prediction.ttft_bad_s <= goal.ttft_s
    return in_time and (goal.tpot_s is None or prediction.tpot_bad_s <= goal.tpot_s)


def _beaten(question: Question, loser: Candidate, chosen: Candidate) -> str:
    """Why a candidate that could have been taken was not."""
    mine, best, goal = loser.prediction, chosen.prediction, question.objectives
    if mine is None or best is None:
        return "nothing is known of how long it would take"
    if goal.ttft_s is not None and mine.ttft_bad_s > goal.ttft_s:
        return f"first token after {mine.ttft_bad_s:.2f} s at the bad end, {goal.ttft_s:.2f} s wanted"
    if goal.tpot_s is not None and mine.tpot_bad_s > goal.tpot_s:
        return f"{mine.tpot_bad_s * 1e3:.0f} ms a token at the bad end, {goal.tpot_s * 1e3:.0f} ms wanted"
    if goal.ttft_s is None and mine.ttft_s > best.ttft_s * AS_FAST:
        return f"slower: {mine.ttft_s:.2f} s to the first token against {best.ttft_s:.2f} s"
    if loser.moves and not chosen.moves:
        return "it would end or move another replica for nothing"
    return f"dearer: {mine.cost_byte_s / 1e9:.2f} GB s against {best.cost_byte_s / 1e9:.2f} GB s"


def _not_now(question: Question, survey: Survey, tried: list[Candidate]) -> NoPlacement | Wait:
    """Memory is short, or promises keep it off the links: then it waits for the first of those to end."""
    held_off = [c for c in tried if c.placement is not None]
    if not held_off:
        return NoPlacement(no_room(question, survey, tried))
    forecast = question.links.forecast(question.now_s)
    soonest_s = min((s for s in forecast.values() if s > question.now_s), default=question.now_s)
    return Wait(soonest_s, held_off[0].ruled_out)


# ---- room that others hold


def _with_moves(question: Question, without: Sequence[Candidate]) -> list[Candidate]:
    """The same degrees where replicas have made room, if the nodes differ then; one that does not pay is ruled out."""
    found: list[Candidate] = []
    idle = [r for r in question.running if r.idle_since_s is not None and r.priority <= question.objectives.priority]
    if idle:
        found += _after(question, without, idle, stop=True)
    busy = [r for r in question.running if r.idle_since_s is None and len(r.reserved_bytes) == 1]
    if busy and question.may_migrate:
        found += _after(question, without, busy, stop=False)
    return found


def _after(
    question: Question, without: Sequence[Candidate], leaving: Sequence[Running], *, stop: bool
) -> list[Candidate]:
    freed: dict[str, int] = {}
    for replica in leaving:
        for node, size_bytes in replica.reserved_bytes.items():
            freed[node] = freed.get(node, 0) + size_bytes
    survey, found = Survey(question, freed), []
    for before in without:
        after = candidate(survey, before.degree)
        if after.placement is None or after.nodes == before.nodes:
            continue
        moves = _needed_moves(question, after.placement, leaving, stop=stop)
        if moves is None or not moves:
            continue
        after = replace(after, moves=moves)
        if after.prediction is not None:
            after = replace(after, prediction=slower(after.prediction, max(m.takes_s for m in moves)))
        found.append(after if after.ruled_out else replace(after, ruled_out=_not_worth(question, before, after)))
    return found


def _needed_moves(
    question: Question, placement: Placement, leaving: Sequence[Running], *, stop: bool
) -> tuple[Move, ...] | None:
    """Who must go so that each stage fits: the least important first, then the longest idle. None if one has nowhere to."""
    nodes = {node.name: node for node in question.view.nodes}
    free = {name: node.device_free_bytes for name, node in nodes.items()}
    for stage in placement.stages:
        free[stage.node] -= stage.reserve_bytes
    moves = []
    for replica in sorted(leaving, key=lambda r: (r.priority, r.idle_since_s or 0.0, r.group)):
        if all(free[node] >= 0 for node in replica.reserved_bytes if node in free):
            continue
        needed_bytes = sum(replica.reserved_bytes.values())
        to, takes_s = "", 0.0
        if not stop:
            roomy = [name for name in free if free[name] >= needed_bytes and name not in replica.reserved_bytes]
            if not roomy:
                return None
            to = min(roomy, key=lambda name: (-free[name], name))
            free[to] -= needed_bytes
            takes_s = _migration_s(question, replica, to)
        for node, size_bytes in replica.reserved_bytes.items():
            if node in free:
                free[node] += size_bytes
        moves.append(Move(replica.group, replica.model.name, to, takes_s))
    return tuple(moves) if all(free[stage.node] >= 0 for stage in placement.stages) else None


def _migration_s(question: Question, replica: Running, to: str) -> float:
    """Seconds until the replica goes on at `to`; infinite if nothing is known of the node's speeds."""
    survey = Survey(replace(question, model=replica.model))
    site = next((s for s in survey.shortlist(0, len(survey.usable)) if s.node.name == to), None)
    if site is None or site.mean is None:
        return float("inf")
    load_s = site.fetch_s([(0, len(replica.model.units))])
    size_bytes = replica.model.size_bytes
    prefill, decode = site.mean.prefill_bytes_per_s / size_bytes, site.mean.decode_bytes_per_s / size_bytes
    return migration_s(load_s, replica.tokens, prefill, decode)


def _not_worth(question: Question, before: Candidate, after: Candidate) -> str:
    """Empty if ending or moving others pays: nothing fits without it, or it saves more than the others' next start."""
    if before.placement is None or before.ruled_out:
        return ""
    if before.prediction is None or after.prediction is None:
        return "nothing is known of what it would save"
    if not _meets(question, before.prediction) and _meets(question, after.prediction):
        return ""
    saved_s = before.prediction.ttft_s - after.prediction.ttft_s
    groups = {move.group for move in after.moves if not move.to}
    lost_s = sum(_restart_s(question, r) for r in question.running if r.group in groups)
    return "" if saved_s > lost_s else f"it would save {saved_s:.2f} s and cost others {lost_s:.2f} s"


def _restart_s(question: Question, replica: Running) -> float:
    """What the replica's next cold start will take on the nodes where it is now."""
    survey = Survey(replace(question, model=replica.model))
    sites = [s for s in survey.shortlist(0, len(replica.reserved_bytes)) if s.node.name in replica.reserved_bytes]
    speeds = [s.mean for s in sites if s.mean is not None]
    if not speeds:
        return float("inf")
    degree = len(replica.reserved_bytes)
    fetch_s = max(s.fetch_s([(0, len(replica.model.units))]) for s in sites) / degree
    return max(s.formed(degree) for s in speeds) + fetch_s
