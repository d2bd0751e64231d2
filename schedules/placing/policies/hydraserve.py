"""HydraServe's rule (NSDI'26), as its artifact has it: the smallest pipeline that meets the service level.

TTFT(s, w) = M / (s b) + t_p f(s, w) + waited + 2 s and TPOT(s, w) = t_d f(s, w) + 1 ms (s - 1), with
f(s, w) = (s - w) + w / s, b the least bandwidth that the chosen nodes offer, and w of the s stages on nodes with room for
the whole model. A node offers B / (N + 1) with N fetches on it, or nothing if that would make one of them late. Cached
units do not count but on a node that has them all in memory. Our rule is measured against it. Other than theirs, nodes
reserve what their stages need, for our groups grow when they are consolidated, and `max_degree` binds it too.

If it is `sliced`, for clusters whose accelerators are, it is theirs in that as well: the w stages reserve all that the whole
model will need there. A fetch has to end 2 s before the first token is wanted, and counts for 1 / 0.9 of its bytes (with them
only one of several stages does); a card where one would be late, or a replica becomes whole, gets no other, and without any
other card it waits.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from schedules.estimates import step_s
from schedules.facts import Node, NoPlacement, Placement
from schedules.ledgers.shares import Transfer
from schedules.placing.candidates import candidate
from schedules.placing.decision import Candidate, Decision, Question, Wait
from schedules.placing.policies.fixed import no_room
from schedules.placing.survey import MOST_SPREAD, Site, Survey

AFTER_FETCH_S, HOP_S = 2.0, 1e-3
"""Their constants: from the last byte to the first token, and for a hop between stages."""
UNEVEN = 0.9
"""The largest stage has no more than its even share of the bytes over this."""


class HydraServe:
    """See the module. Pure; `prediction`s of its candidates are ours, so that the two can be compared."""

    name = "hydraserve"

    def __init__(self, *, sliced: bool = False) -> None:
        self._sliced = sliced

    def decide(self, question: Question) -> Decision:
        """The first (stages, then nodes with room for all) that meets both objectives, else one stage."""
        survey = Survey(question)
        offer = offered_bytes_per_s if self._sliced else Survey.spare_bytes_per_s
        nodes, whole_workers, why, tried = chosen_nodes(survey, offer)
        if not nodes or (self._sliced and len(nodes) == 1 and not _free(survey, nodes[0])):
            return Decision(self.name, _not_now(survey, nodes, tried), tuple(tried))
        found = candidate(survey, len(nodes), nodes)
        if found.placement is None:  # its stages are not of equal bytes, as the rule assumes
            return Decision(self.name, NoPlacement(found.ruled_out), (*tried, found))
        placement, transfers = replace(found.placement, reasons=(why,)), found.transfers
        if self._sliced:
            placement = _grown(survey, placement, nodes[:whole_workers])
            transfers = tuple([_due(question, transfer) for transfer in transfers])
        found = replace(found, placement=placement, transfers=transfers, ruled_out="")
        return Decision(self.name, placement, (*tried, found))


def chosen_nodes(
    survey: Survey, offer: Callable[[Survey, Site], float]
) -> tuple[list[Node], int, str, list[Candidate]]:
    """The nodes that the rule takes, none if nothing fits, those that are to have room for all first, and how many these are;
    why; and what it tried before. A node's card has what is on `offer`."""
    question, model, tried = survey.question, survey.question.model, list[Candidate]()
    whole_bytes = survey.whole_bytes
    most = min(MOST_SPREAD, question.objectives.max_degree, model.layers, survey.usable)
    offers = sorted(((offer(survey, s), s) for s in survey.pool), key=lambda o: (-o[0], o[1].node.name))
    roomy = [(b, s) for b, s in offers if s.free_bytes >= whole_bytes]
    cached = [s.node for _, s in roomy if s.far[-1] == s.near[-1] == 0]
    if cached:
        return cached[:1], 1, "one stage where the whole model is cached", tried
    for stages in range(1, most + 1):
        needed = -(-whole_bytes // stages)
        usable = _apart([(b, s) for b, s in offers if b > 0 and s.free_bytes >= needed])
        full = _apart([(b, s) for b, s in roomy if b > 0])
        if len(usable) < stages or not full:
            missing = f"{stages} nodes with room and bandwidth, one for all of it, are not there"
            tried.append(Candidate(stages, (), missing))
            continue
        for whole_workers in range(1, min(stages, len(full)) + 1):
            chosen = _best(full, usable, stages, whole_workers)
            refused = _refused(question, chosen, stages, whole_workers)
            if not refused:
                why = f"{stages} stage(s), {whole_workers} with room for all: the smallest that meets the service level"
                return [s.node for _, s in chosen], whole_workers, why, tried
            tried.append(Candidate(stages, tuple(s.node.name for _, s in chosen), refused))
    return [s.node for _, s in roomy[:1]], 1, "nothing meets the service level: one stage, as well as can be", tried


def _apart(offers: Sequence[tuple[float, Site]]) -> list[tuple[float, Site]]:
    """One node of each card: that with the least room, of those that have enough."""
    fitting: dict[str, tuple[float, Site]] = {}
    for bandwidth, site in offers:
        known = fitting.get(site.node.card)
        if known is None or site.free_bytes < known[1].free_bytes:
            fitting[site.node.card] = bandwidth, site
    return list(fitting.values())


def shared(stages: int, whole_workers: int) -> float:
    """f(s, w): a stage with the memory of a share has a share of the compute as well."""
    return (stages - whole_workers) + whole_workers / stages


def _best(
    full: Sequence[tuple[float, Site]], usable: Sequence[tuple[float, Site]], stages: int, whole_workers: int
) -> list[tuple[float, Site]]:
    chosen = list(full[:whole_workers])
    cards = {site.node.card for _, site in chosen}
    return chosen + [(b, s) for b, s in usable if s.node.card not in cards][: stages - whole_workers]


def _refused(question: Question, chosen: Sequence[tuple[float, Site]], stages: int, whole_workers: int) -> str:
    goal, model = question.objectives, question.model
    speeds = chosen[0][1].mean
    assert speeds is not None
    factor = shared(stages, whole_workers)
    tpot_s = step_s(model.size_bytes, 1, speeds) * factor + HOP_S * (stages - 1)
    if goal.tpot_s is not None and tpot_s > goal.tpot_s:
        return f"{tpot_s * 1e3:.0f} ms a token by the rule, {goal.tpot_s * 1e3:.0f} ms wanted"
    bandwidth = min(b for b, _ in chosen)
    prefill_s = step_s(model.size_bytes, question.prompt_tokens, speeds) * factor
    ttft_s = model.size_bytes / (stages * bandwidth) + prefill_s + question.waited_s + AFTER_FETCH_S
    if goal.ttft_s is None or ttft_s >= goal.ttft_s:
        wanted = "as soon as possible" if goal.ttft_s is None else f"{goal.ttft_s:.2f} s"
        return f"first token after {ttft_s:.2f} s by the rule, {wanted} wanted"
    return ""


# ---- as on sliced accelerators


def offered_bytes_per_s(survey: Survey, site: Site) -> float:
    """An equal share of the node's card, as long as nobody there is late with it, or is becoming whole."""
    if site.mean is None:
        return 0.0
    there, now_s = survey.on_card(site.node), survey.question.now_s
    share = site.mean.nic_bytes_per_s / (len(there) + 1)
    for transfer in there:
        left_s = transfer.deadline_s - now_s if transfer.deadline_s is not None else float("inf")
        if transfer.priority > 0 or transfer.remaining_bytes / UNEVEN > max(0.0, left_s) * share:
            return 0.0
    return share


def _free(survey: Survey, node: Node) -> bool:
    """Whether it can be started there now: nothing is to be fetched, or its card has something to offer."""
    site = survey.site(node)
    return site.far[-1] == 0 or offered_bytes_per_s(survey, site) > 0


def _not_now(survey: Survey, nodes: Sequence[Node], tried: Sequence[Candidate]) -> NoPlacement | Wait:
    """No node has room, or none of those that do may fetch more now."""
    question = survey.question
    if not nodes:
        return NoPlacement(no_room(question, survey, [*tried]))
    ends = [s for s in question.links.forecast(question.now_s).values() if s > question.now_s]
    return Wait(min(ends, default=question.now_s), "it would make others late on each node that has room")


def _grown(survey: Survey, placement: Placement, whole: Sequence[Node]) -> Placement:
    """The stages on these nodes reserve what all of the model will."""
    contexts = {node.name: node.context_bytes if node.gpu else 0 for node in whole}
    stages = [
        replace(
            stage, outside_bytes=stage.outside_bytes + survey.whole_bytes + contexts[stage.node] - stage.reserve_bytes
        )
        if stage.node in contexts
        else stage
        for stage in placement.stages
    ]
    return replace(placement, stages=tuple(stages))


def _due(question: Question, transfer: Transfer) -> Transfer:
    goal_s = question.objectives.ttft_s
    return transfer.until(None if goal_s is None else question.now_s + goal_s - question.waited_s - AFTER_FETCH_S)
