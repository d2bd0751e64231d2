"""Which nodes are worth a prediction beside those that are done soonest: those that rules look for which know one thing.

A candidate's cost and its time go together as long as its degree stays, and what its processes take on GPUs beside what
they load, so of one degree only who may be sooner, or has less beside, or is in time where nobody is yet, is looked at; and
once anybody is in time, only who may be cheaper. That is known by bounds, which cost little: nothing is faster than its links
alone.

One stage may run on the node whose own tiers give the model soonest, on the one that forms a group soonest, or on the one
with most of its card to spare. Several run on those with most of their cards to spare, any number of them on nodes that have
room for the whole model, into which the group may be merged later. Where nodes differ in what a process takes of their GPUs
the same are looked for among those alone that take less.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf

from schedules.estimates import Speeds, cost_byte_s, step_s, token_s
from schedules.ledgers.links import nic_link
from schedules.placing.candidates import MOST_CORRECTED, candidate
from schedules.placing.decision import IN_DRAM, NETWORK, ON_SSD, Candidate
from schedules.placing.survey import MOST_SPREAD, Site, Survey

MOST_BESIDE = 3
"""Of nodes that differ in what a process takes of their GPUs so many kinds are looked at by themselves."""
ALIKE = 0.01
"""They differ if it is more than this share of what the whole model takes: it is measured, and no two measure the same."""


@dataclass(frozen=True)
class _Bound:
    """What a prediction cannot be below, in seconds, in the mean and at the bad end: of the first token, of each further."""

    ttft_s: float
    ttft_bad_s: float
    tpot_bad_s: float


def further(survey: Survey, tried: Sequence[Candidate]) -> list[Candidate]:
    """Candidates of the degrees that were tried that may be better than those; none as long as nothing is known."""
    found = list[Candidate]()
    if all(c.prediction is None for c in tried):
        return found
    cheapest = cheapest_byte_s(survey, tried)
    for degree in range(1, min(MOST_SPREAD, survey.question.objectives.max_degree, len(survey.sizes) - 2) + 1):
        if dearer(survey, degree, cheapest) is not None:
            continue
        seen = {frozenset(c.nodes) for c in tried if c.degree == degree}
        best = _best(survey, [c for c in tried if c.degree == degree])
        for sites in _worth_a_look(survey, degree):
            names = frozenset([site.node.name for site in sites])
            if names not in seen:
                bound, lighter = _bound(survey, degree, sites), _lighter(survey, sites, best)
                if _may_be_better(survey, bound, best, lighter=lighter) and _may_be_cheaper(
                    survey, degree, sites, bound, cheapest
                ):
                    found.append(candidate(survey, degree, [site.node for site in sites]))
                    best = _best(survey, [*([best] if best is not None else []), found[-1]])
                    cheapest = min(cheapest, cheapest_byte_s(survey, found[-1:]))
            seen.add(names)
    return found


def dearer(survey: Survey, degree: int, cheapest: float) -> str | None:
    """Why nobody of so many stages, wherever they are, is cheaper than that; None if somebody may be."""
    if cheapest == inf:
        return None
    at_least = cost_byte_s([survey.least_bytes(degree)], survey.question.objectives.keep_alive_s)
    if at_least <= cheapest:
        return None
    return f"dearer wherever it starts: at least {at_least / 1e9:.2f} GB s against {cheapest / 1e9:.2f} GB s"


def cheapest_byte_s(survey: Survey, among: Sequence[Candidate]) -> float:
    """What the cheapest costs of those that are in time as they shall be; infinite if none is, or nothing was said of it."""
    question = survey.question
    if question.objectives.ttft_s is None:
        return inf
    known = [c.prediction for c in among if c.prediction is not None and not c.ruled_out]
    return min([prediction.cost_byte_s for prediction in known if question.met_by(prediction)], default=inf)


def _may_be_cheaper(survey: Survey, degree: int, sites: Sequence[Site], bound: _Bound, cheapest: float) -> bool:
    if cheapest == inf:
        return True
    question = survey.question
    lasts_s = bound.ttft_s - question.waited_s + question.objectives.keep_alive_s
    return cost_byte_s([survey.least_bytes(degree), sum(map(_beside_bytes, sites))], lasts_s) <= cheapest


def _beside_bytes(site: Site) -> int:
    """What a process of its own takes there of a GPU."""
    return site.node.context_bytes if site.node.gpu else 0


def _lighter(survey: Survey, sites: Sequence[Site], best: Candidate | None) -> bool:
    """Whether less is taken beside what is loaded than by the best that was found."""
    if best is None:
        return False
    there = [node for name in best.nodes if (node := survey.question.view.node(name)) is not None]
    least_bytes = sum([node.context_bytes for node in there if node.gpu]) - ALIKE * survey.whole_bytes
    return sum(map(_beside_bytes, sites)) < least_bytes


def _best(survey: Survey, among: Sequence[Candidate]) -> Candidate | None:
    """The soonest of those that are in time, else of all; None if none may be taken."""
    known = [(c.prediction, c) for c in among if c.prediction is not None and not c.ruled_out]
    if not known:
        return None
    return min(known, key=lambda pc: (not survey.question.met_by(pc[0]), pc[0].ttft_s))[1]


def _may_be_better(survey: Survey, bound: _Bound, best: Candidate | None, *, lighter: bool) -> bool:
    if best is None or best.prediction is None:
        return True
    question, goal = survey.question, survey.question.objectives
    if bound.ttft_s < best.prediction.ttft_s:
        return True
    late = goal.ttft_s is not None and bound.ttft_bad_s > goal.ttft_s
    slow = goal.tpot_s is not None and bound.tpot_bad_s > goal.tpot_s
    cheaper = lighter and goal.ttft_s is not None
    return not (late or slow) and (cheaper or not question.met_by(best.prediction))


def _worth_a_look(survey: Survey, degree: int) -> Iterator[list[Site]]:
    """Of all nodes, and then of those that take less beside what is loaded."""
    found = _single if degree == 1 else partial(_several, degree=degree)
    kinds = list[int]()
    for each in sorted({_beside_bytes(site) for site in survey.pool}, reverse=True):
        if not kinds or each < kinds[-1] - ALIKE * survey.whole_bytes:
            kinds.append(each)
    for most_bytes in [*kinds[:1], *kinds[:0:-1][:MOST_BESIDE]]:
        yield from found(survey, most_bytes)


def _single(survey: Survey, most_bytes: int) -> Iterator[list[Site]]:
    """Of the nodes that can run all of the model, and take no more than `most_bytes` beside it, the one whose own tiers give
    it soonest, the one that is formed and done soonest, and of all and of those that have it in memory the one with most of
    its card to spare."""
    whole_bytes = survey.whole_bytes
    light = [site for site in survey.pool if _beside_bytes(site) <= most_bytes and site.mean is not None]
    listed = survey.shortlist(whole_bytes, 1)
    sites = [site for site in listed if _beside_bytes(site) <= most_bytes and site.mean is not None] or light
    sites = [site for site in sites if site.free_bytes >= whole_bytes]
    roomy = [site for site in light if site.free_bytes >= whole_bytes]
    cached = [site for site in roomy if site.far[-1] == site.near[-1] == 0]
    found = [
        min(some, key=lambda site: (-survey.spare_bytes_per_s(site), site.node.name))
        for some in (cached, roomy)
        if some
    ]
    if sites:
        everything, bytes_ = [(0, len(survey.sizes))], survey.size_bytes
        found.append(min(sites, key=lambda site: (site.far[-1] > 0, site.whole_s(bytes_), site.node.name)))
        found.append(
            min(sites, key=lambda site: (max(site.done_s(everything, bytes_), _formed_s(site)), site.node.name))
        )
    yield from ([site] for site in found)


def _formed_s(site: Site) -> float:
    return site.mean.formed(1) if site.mean is not None else float("inf")


def _several(survey: Survey, most_bytes: int, degree: int) -> Iterator[list[Site]]:
    """Those with most of their cards to spare, of which more and more have room for the whole model."""
    least_bytes = -(-survey.whole_bytes // degree)
    usable = [s for s in survey.sparing if s.free_bytes >= least_bytes and _beside_bytes(s) <= most_bytes]
    whole = [site for site in usable if site.free_bytes >= survey.whole_bytes]
    for workers in range(min(degree, len(whole)) + 1):
        names = {site.node.name for site in whole[:workers]}
        chosen = [*whole[:workers], *[site for site in usable if site.node.name not in names][: degree - workers]]
        if len(chosen) == degree:
            yield chosen


def _bound(survey: Survey, degree: int, sites: Sequence[Site]) -> _Bound:
    question, sizes = survey.question, survey.sizes
    computed_bytes, total_bytes = survey.size_bytes - sizes[0], survey.size_bytes
    late_bytes = sizes[0] if question.model.rows_first else 0
    held_bytes = sum([total_bytes - site.far[-1] for site in sites])
    fetched_bytes = max(0, total_bytes - late_bytes - held_bytes)
    rates = [max(site.mean.nic_bytes_per_s, question.links.rate(nic_link(site.node.card)) or float("inf"))
             for site in sites if site.mean is not None]  # fmt: skip
    fetched_s = fetched_bytes / sum(rates)
    if fetched_bytes and all(site.node.peer_port for site in sites):
        given_bytes, cards_bytes_per_s = survey.given
        fetched_s = max(fetched_s, (given_bytes - late_bytes - held_bytes) / cards_bytes_per_s)
    near_bytes = 0
    if degree == 1:
        fetched_s += sites[0].busy_s if fetched_bytes else 0.0
        near_bytes = sites[0].near[-1] - (sites[0].near[1] if late_bytes else 0)
    ends = []
    for speeds in ([site.mean for site in sites], [site.bad for site in sites]):
        known = [speed for speed in speeds if speed is not None]
        formed_s = max([speed.formed(degree) for speed in known])
        steps_s = computed_bytes * min([step_s(1, question.prompt_tokens, speed) for speed in known])
        ends.append(max(formed_s + steps_s, near_bytes / known[0].ssd_bytes_per_s))
    longer = min([_longer(site.mean, site.bad) for site in sites])
    return _corrected(survey, degree, max(ends[0], fetched_s), max(ends[1], fetched_s * longer), sites)


def _longer(mean: Speeds | None, bad: Speeds | None) -> float:
    return mean.nic_bytes_per_s / bad.nic_bytes_per_s if mean is not None and bad is not None else 1.0


def _corrected(survey: Survey, degree: int, mean_s: float, bad_s: float, sites: Sequence[Site]) -> _Bound:
    question = survey.question
    kinds = [question.corrections.of(degree, kind) for kind in (NETWORK, ON_SSD, IN_DRAM)]
    more_s, more_bad_s = min([kind[0] for kind in kinds]), min([kind[1] for kind in kinds])
    ttft_s = question.waited_s + mean_s + max(more_s, -MOST_CORRECTED * mean_s)
    token = min([token_s([(survey.size_bytes, site.bad)], 0.0) for site in sites if site.bad is not None])
    return _Bound(ttft_s, max(ttft_s, question.waited_s + bad_s + more_bad_s), token)
