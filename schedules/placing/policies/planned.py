"""Our rule: predict every candidate, take the cheapest that meets the model's service level, else the fastest."""

from collections.abc import Sequence
from dataclasses import replace

from schedules.facts import NoPlacement, Placement
from schedules.placing.candidates import candidate, slower
from schedules.placing.choices import cheapest_byte_s, dearer, further
from schedules.placing.decision import Candidate, Decision, Leaving, Listed, Move, Question, Running, Wait
from schedules.placing.going_on import goes_on_s
from schedules.placing.policies.fixed import no_room
from schedules.placing.survey import Survey

AS_FAST = 1.05
"""Candidates that are predicted to take no longer than this times the fastest are taken for equally fast: predictions are no
better than that."""


EXPECTED = 0.1
"""What others are expected to wait later counts so much of what somebody waits now, and others with him."""


class Planned:
    """Looks at every degree up to the model's largest, and beyond it only if the model does not fit else; of each on the
    nodes that are done soonest, and on all others that may be better, so that by its own predictions no rule is. Once
    somebody is in time a degree of which nobody can be cheaper is passed over.

    What would make an admitted start late is ruled out; if nothing else fits, the start waits. Where memory is short, or
    the node that holds the units is taken, idle replicas may go, or running ones be migrated, if that pays.
    """

    name = "planned"

    def decide(self, question: Question) -> Decision:
        """See the module."""
        survey = Survey(question)
        tried = _tried(question, survey, cheaper=True)
        tried += further(survey, tried)
        tried += _with_moves(question, survey, tried)
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


def _tried(question: Question, survey: Survey, *, cheaper: bool = False) -> list[Candidate]:
    """A candidate for each degree, or, if only the `cheaper` are wanted, why there is none; beyond the largest that is wanted
    only until one fits."""
    most = min(question.model.layers, survey.usable)
    wanted = min(question.objectives.max_degree, most)
    tried = list[Candidate]()
    for degree in range(1, wanted + 1):
        reason = dearer(survey, degree, cheapest_byte_s(survey, tried)) if cheaper and tried else None
        tried.append(candidate(survey, degree) if reason is None else Candidate(degree, (), reason))
    if all(c.placement is None for c in tried):
        for degree in filter(survey.could_hold, range(wanted + 1, most + 1)):
            tried.append(candidate(survey, degree))
            if tried[-1].placement is not None:
                break
    return tried


def _choose(question: Question, eligible: Sequence[Candidate]) -> tuple[Candidate, str]:
    known = [(c, c.prediction) for c in eligible if c.prediction is not None]
    if not known:
        largest = max(eligible, key=lambda c: (not c.moves, -c.lost_s, _computing(question, c), -c.degree))
        return largest, f"degree {largest.degree}: nothing is measured yet, so the largest that fits"
    goal = question.objectives
    meeting = [(c, p) for c, p in known if question.met_by(p)]
    if meeting and goal.ttft_s is not None:
        chosen, prediction = min(
            meeting, key=lambda cp: (bool(cp[0].moves), cp[0].lost_s, cp[1].cost_byte_s, cp[0].degree)
        )
        return chosen, (
            f"degree {chosen.degree}: the cheapest of {len(meeting)} that meet the service level, "
            f"{prediction.ttft_bad_s:.2f} s at the bad end of {goal.ttft_s:.2f} s"
        )
    within = meeting or known
    best_s, fastest_s = min((p.ttft_s + EXPECTED * c.lost_s, p.ttft_s) for c, p in within)
    enough_s = best_s + (AS_FAST - 1.0) * fastest_s
    as_fast = [(c, p) for c, p in within if p.ttft_s + EXPECTED * c.lost_s <= enough_s]
    chosen, prediction = min(as_fast, key=lambda cp: (bool(cp[0].moves), cp[1].cost_byte_s, cp[0].degree))
    unmet = "" if meeting else "nothing meets the service level; "
    return chosen, f"degree {chosen.degree}: {unmet}the fastest, {prediction.ttft_s:.2f} s to the first token"


def _computing(question: Question, candidate: Candidate) -> int:
    """On how many of what computes the candidate is: stages on one GPU take turns."""
    nodes = [node for name in candidate.nodes if (node := question.view.node(name)) is not None]
    return len({node.computes_on for node in nodes})


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


def _with_moves(question: Question, survey: Survey, without: Sequence[Candidate]) -> list[Candidate]:
    """What could be had if replicas made room, as far as the nodes differ then; what does not pay is ruled out."""
    eligible = [c for c in without if c.placement is not None and not c.ruled_out]
    best = _choose(question, eligible)[0] if eligible else None
    content = best is not None and best.prediction is not None and question.met_by(best.prediction)
    if content and question.objectives.ttft_s is not None:
        return []
    found: list[Candidate] = []
    idle = question.stoppable
    if idle.freed_bytes:
        for leaving in idle.by_worth():
            found += _after(survey, [*without, *found], best, leaving, stop=True)
    if question.may_migrate:
        up = [r for r in question.running if r.may_move and not r.may_stop]
        busy = [r for r in up if r.idle_since_s is None and len(r.reserved_bytes) == 1]
        if busy:
            found += _after(survey, without, best, Listed(busy), stop=False)
    return found


def _after(
    survey: Survey, without: Sequence[Candidate], best: Candidate | None, leaving: Leaving, *, stop: bool
) -> list[Candidate]:
    question = survey.question
    known, found = {c.nodes for c in without}, list[Candidate]()
    for after in _tried(question, survey.freed(leaving.freed_bytes)):
        if after.placement is None or after.nodes in known:
            continue
        moves = _needed_moves(survey, after.placement, leaving, stop=stop)
        if not moves:
            continue
        takes_s = max(move.takes_s for move in moves)
        if takes_s == float("inf"):
            found.append(Candidate(after.degree, after.nodes, "nothing is known of how long moving others would take"))
            continue
        prediction = None if after.prediction is None else slower(after.prediction, takes_s)
        lost_s = sum([replica.worth for replica in _ending(after.nodes, moves, leaving)])
        after = replace(after, moves=moves, prediction=prediction, lost_s=lost_s)
        found.append(after if after.ruled_out else replace(after, ruled_out=_not_worth(question, best, after, leaving)))
    return found


def _needed_moves(survey: Survey, placement: Placement, leaving: Leaving, *, stop: bool) -> tuple[Move, ...] | None:
    """Who must go of those that are `leaving` so that each stage fits: the least important first, then the one that is
    least worth its room, then the longest idle. None if one has nowhere to."""
    needed = {stage.node: stage.reserve_bytes for stage in placement.stages}
    short = [node for node in needed if survey.usable_free_bytes([node])[node] < needed[node]]
    in_the_way = {replica.group: replica for node in short for replica in leaving.there(node)}
    touched = {node for replica in in_the_way.values() for node in replica.reserved_bytes}
    free = survey.usable_free_bytes({*needed, *touched} if stop else None)
    for node, size_bytes in needed.items():
        free[node] -= size_bytes
    moves = []
    for replica in sorted(in_the_way.values(), key=_goes_first):
        if all(free.get(node, 0) >= 0 for node in replica.reserved_bytes):
            continue
        to, takes_s = "", 0.0
        if not stop:
            needed_bytes = sum(replica.reserved_bytes.values())
            roomy = [name for name in free if free[name] >= needed_bytes and name not in replica.reserved_bytes]
            if not roomy:
                continue
            to = min(roomy, key=lambda name: (-free[name], name))
            free[to] -= needed_bytes
            there = survey.question.view.node(to)
            assert there is not None
            takes_s = goes_on_s(Survey(replace(survey.question, model=replica.model)).site(there), replica)
        for node, size_bytes in replica.reserved_bytes.items():
            if node in free:
                free[node] += size_bytes
        moves.append(Move(replica.group, replica.model.name, to, takes_s))
    return tuple(moves) if all(free[node] >= 0 for node in short) else None


def _goes_first(replica: Running) -> tuple[int, bool, bool, float, float, str]:
    size_bytes = sum(replica.reserved_bytes.values()) or 1
    idle_s = replica.idle_since_s
    return replica.priority, idle_s is None, replica.kept, replica.worth / size_bytes, idle_s or 0.0, replica.group


def _not_worth(question: Question, best: Candidate | None, after: Candidate, leaving: Leaving) -> str:
    """Empty if ending or moving others pays: there is nothing without it, or it saves more than their next starts cost."""
    if best is None:
        return ""
    if best.prediction is None or after.prediction is None:
        return "nothing is known of what it would save"
    if not question.met_by(best.prediction) and question.met_by(after.prediction):
        return ""
    saved_s = best.prediction.ttft_s - after.prediction.ttft_s
    lost_s = sum([_restart_s(question, replica) for replica in _ending(after.nodes, after.moves, leaving)])
    return "" if saved_s > lost_s else f"it would save {saved_s:.2f} s and cost others {lost_s:.2f} s"


def _ending(nodes: Sequence[str], moves: Sequence[Move], leaving: Leaving) -> list[Running]:
    """Those that are stopped."""
    groups = {move.group for move in moves if not move.to}
    return list({r.group: r for node in nodes for r in leaving.there(node) if r.group in groups}.values())


def _restart_s(question: Question, replica: Running) -> float:
    """What the replica's next cold start will take on the nodes where it is now."""
    survey = Survey(replace(question, model=replica.model))
    nodes = [node for name in replica.reserved_bytes if (node := question.view.node(name)) is not None]
    sites = [site for site in map(survey.site, nodes) if site.mean is not None]
    degree, units = len(replica.reserved_bytes), [(0, len(replica.model.units))]
    forming_s = max((site.mean.formed(degree) for site in sites if site.mean is not None), default=float("inf"))
    return forming_s + max((site.fetch_s(units) for site in sites), default=0.0) / degree
