"""ServerlessLLM's rule (OSDI'24): one stage on the node whose own tiers give the model soonest.

T = waiting + M / ssd for a node that has it on ssd, M / bus for one that has it in dram; nodes that have neither are
passed over, for they cannot tell how long a download takes. Where no node has it, the one with the most spare network
takes it, as their deployment does beforehand. The least time wins, then the name. Our rule is measured against it.

If it `migrates`, where that is allowed, a node that has the model and lacks room is one more option: T, and the time until
enough of what runs there goes on elsewhere, by measured rates and not by their constants for a token.
"""

from dataclasses import replace

from schedules.facts import NoPlacement
from schedules.placing.candidates import candidate, slower
from schedules.placing.covers import Movable, Way, cheapest_cover
from schedules.placing.decision import Candidate, Decision, Move, Question, Running
from schedules.placing.going_on import goes_on_s
from schedules.placing.policies.fixed import no_room
from schedules.placing.survey import Site, Survey


class ServerlessLlm:
    """See the module. Pure; `prediction`s of its candidates are ours, so that the two can be compared."""

    name = "serverlessllm"

    def __init__(self, *, migrates: bool = False) -> None:
        self._migrates = migrates

    def decide(self, question: Question) -> Decision:
        """The local node of the least loading time, else the one with the most spare network."""
        survey = Survey(question)
        sites, local = _sites(survey)
        free_s = sites[0].whole_s(survey.size_bytes) if sites else float("inf")
        moved = _with_moves(survey, free_s) if self._migrates and question.may_migrate else None
        if moved is not None:
            others = tuple(Candidate(1, (s.node.name,), "slower to load") for s in sites)
            return Decision(self.name, moved.placement, (*others, moved))  # type: ignore[arg-type]
        if not sites:
            tried = [Candidate(1, (), f"{survey.whole_bytes / 1e9:.2f} GB are free on no node")]
            return Decision(self.name, NoPlacement(no_room(question, survey, tried)), tuple(tried))
        found = candidate(survey, 1, [sites[0].node])
        assert found.placement is not None
        far = "no node has it: the one with the most spare network"
        placement = replace(found.placement, reasons=("the node whose own tiers give it soonest" if local else far,))
        others = tuple(
            Candidate(
                1, (s.node.name,), "slower to load" if not local or s.far[-1] == 0 else "it does not have the model"
            )
            for s in sites[1:]
        )
        return Decision(self.name, placement, (*others, replace(found, placement=placement, ruled_out="")))


def _sites(survey: Survey) -> tuple[list[Site], bool]:
    """The nodes with room, best first, and whether the best has the model."""
    sites = survey.shortlist(survey.whole_bytes, 1)
    ordered = sorted(sites, key=lambda s: (s.far[-1] > 0, s.whole_s(survey.size_bytes), s.node.name))
    return ordered, bool(ordered) and ordered[0].far[-1] == 0


# ---- room that others hold


def _with_moves(survey: Survey, free_s: float) -> Candidate | None:
    """The node that has the model and would give it soonest if what runs there went on elsewhere; None if a node with room
    gives it in `free_s`, and that is no later."""
    question, best = survey.question, None
    for site in _full_holders(survey):
        option = _vacated(survey, site)
        if option is None:
            continue
        takes_s, moves = option
        ready_s = takes_s + site.whole_s(survey.size_bytes)
        if ready_s < free_s and (best is None or (ready_s, site.node.name) < best[:2]):
            best = ready_s, site.node.name, site, takes_s, moves
    if best is None:
        return None
    _, name, site, takes_s, moves = best
    freed = {name: sum(r.reserved_bytes[name] for r in question.running if r.group in {m.group for m in moves})}
    found = candidate(survey.freed(freed), 1, [site.node])
    if found.placement is None:
        return None
    placement = replace(found.placement, reasons=("what runs on the node that has it goes on elsewhere",))
    prediction = None if found.prediction is None else slower(found.prediction, takes_s)
    return replace(found, placement=placement, prediction=prediction, moves=moves, ruled_out="")


def _full_holders(survey: Survey) -> list[Site]:
    """Nodes that have all of the model in their own tiers, and no room for it."""
    view = survey.question.view
    names = set(view.holding(survey.digests[0])).intersection(*map(view.holding, survey.digests[1:]))
    nodes = [node for name in sorted(names) if (node := view.node(name)) is not None and not node.draining]
    return [site for node in nodes if (site := survey.site(node)).free_bytes < survey.whole_bytes]


def _vacated(survey: Survey, site: Site) -> tuple[float, tuple[Move, ...]] | None:
    """In how many seconds there is room on the node, and who goes where."""
    question, name = survey.question, site.node.name
    free_bytes, movable = dict[str, int](), list[Movable]()
    for replica in question.running:
        busy = replica.may_move and not replica.may_stop and replica.idle_since_s is None
        if busy and [*replica.reserved_bytes] == [name]:
            movable.append((replica, _ways(question, replica, free_bytes)))
    return cheapest_cover(survey.whole_bytes - site.free_bytes, movable, name, free_bytes)


def _ways(question: Question, replica: Running, free_bytes: dict[str, int]) -> list[Way]:
    """Where it could go on. What is free there is noted."""
    theirs = Survey(replace(question, model=replica.model))
    (needed_bytes,) = replica.reserved_bytes.values()
    sites = [site for site in theirs.shortlist(needed_bytes, 1) if site.node.name not in replica.reserved_bytes]
    free_bytes |= {site.node.name: site.free_bytes for site in sites}
    return [Way(site.node.name, needed_bytes, goes_on_s(site, replica)) for site in sites]
