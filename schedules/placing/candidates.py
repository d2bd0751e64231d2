"""One way to start a model: which node runs which stage, from where its bytes come, and what that would take."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from math import inf
from typing import NamedTuple

from schedules.estimates import Speeds, StageTimeline, arrivals_s, computing_s, cost_byte_s, first_token_s, token_s
from schedules.facts import Node, Placement, StagePlan
from schedules.ledgers.links import Verdict, nic_link, out_link
from schedules.ledgers.shares import LATER, Transfer
from schedules.placing.decision import IN_DRAM, NETWORK, ON_SSD, Candidate, Prediction, Question
from schedules.placing.holders import TIERS
from schedules.placing.partition import Part, as_met
from schedules.placing.sources import peer_of
from schedules.placing.survey import Site, Survey
from schedules.rates import STORE

MOST_CORRECTED = 0.5
"""What was learned from other starts takes no more than this share of a prediction away."""
_Lines = Sequence[StageTimeline]


class Way(NamedTuple):
    """Units of a part, by their `places` in it, that come from one source first; the first token waits for them unless they
    are `later`."""

    later: bool
    source: str
    places: Sequence[int]
    sizes: Sequence[int]
    size_bytes: int


@dataclass(frozen=True)
class Ways:
    """Whence the units of a part come: `sources` of each of the `units`, which have those `sizes`. A way of `each` has all
    that come from one source first. The part may have the model's first unit, at the place `embedding`."""

    units: tuple[str, ...]
    sources: tuple[tuple[str, ...], ...]
    sizes: tuple[int, ...]
    later: tuple[str, ...]
    each: tuple[Way, ...]
    embedding: int | None

    @property
    def reads_ssd(self) -> bool:
        """Whether the first token waits for something that is on ssd."""
        return any(way.source == "ssd" and not way.later for way in self.each)


@dataclass(frozen=True)
class Stage:
    """A stage and where it would run. `part` is what of the model it runs; `ways` say which of its units come from which
    source first, those that the first token waits for apart from the others."""

    site: Site
    plan: StagePlan
    part: Part
    ways: Ways


def candidate(survey: Survey, degree: int, among: Sequence[Node] | None = None) -> Candidate:
    """The model over `degree` nodes, each stage on the node that is done with it soonest: of the short list, or `among`.

    Ruled out here if it does not fit into memory or would make a start that was admitted late.
    """
    stages = _assign(survey, degree, among)
    if isinstance(stages, str):
        return Candidate(degree, (), stages)
    question = survey.question
    reasons = _reasons(survey, stages)
    placement = Placement(
        question.model.name, tuple(stage.plan for stage in stages), question.objectives.kv_tokens, reasons
    )
    transfers = _transfers(survey, stages)
    verdict = question.links.consider(transfers, question.now_s)
    ruled_out = _makes_late(question, verdict) if verdict.broken else ""
    mean, bad = _timelines(survey, stages, verdict)
    prediction = _predict(question, stages, mean, bad, _slowest(stages, transfers))
    if prediction is not None and mean is not None and bad is not None:
        transfers = _promised(question, transfers, verdict, prediction, mean, bad)
    else:
        transfers = [_until(t, None) if _is_late(t, verdict) else t for t in transfers]
    nodes = tuple(stage.plan.node for stage in stages)
    return Candidate(degree, nodes, ruled_out, placement, prediction, (), tuple(transfers))


def _is_late(transfer: Transfer, verdict: Verdict) -> bool:
    """Whether it ends too late in any case: then nothing is promised."""
    return transfer.deadline_s is not None and verdict.finish_s[transfer.name] > transfer.deadline_s


def _makes_late(question: Question, verdict: Verdict) -> str:
    late = sorted({start for name in verdict.broken if (start := name.partition("/")[0]) != question.start})
    return f"it would make the start of {', '.join(late)} later than promised" if late else ""


def slower(prediction: Prediction, seconds: float) -> Prediction:
    """The same after a wait."""
    parts = {**prediction.parts, "make room": seconds}
    return replace(
        prediction, ttft_s=prediction.ttft_s + seconds, ttft_bad_s=prediction.ttft_bad_s + seconds, parts=parts
    )


def _assign(survey: Survey, degree: int, among: Sequence[Node] | None) -> tuple[Stage, ...] | str:
    """One node per stage, the one that needs most choosing first; or why it does not fit.

    What fits one stage then fits all that choose after it, so a node is found for each whenever that is possible.
    """
    parts = survey.parts(degree)
    needed = [part.reserve_bytes for part in parts]
    order = sorted(range(degree), key=needed.__getitem__, reverse=True)
    if among is None:
        for index, free_bytes in zip_longest(order, survey.roomiest(degree), fillvalue=0):
            if free_bytes < needed[index]:
                return _too_large(parts[index])
    sites = survey.shortlist(min(needed), degree) if among is None else [survey.site(node) for node in among]
    left, found = {site.node.name: site for site in sites}, dict[int, Site]()
    there, on_card = dict[str, int](), dict[str, int]()  # stages by what computes them, and by the card of their box
    for index in order:
        site = _soonest(left.values(), parts[index], there, on_card)
        if site is None:
            return _too_large(parts[index])
        del left[site.node.name]
        found[index] = site
        computes_on = site.node.computes_on
        there[computes_on] = there.get(computes_on, 0) + 1
        if site.node.box:
            on_card[site.node.box] = on_card.get(site.node.box, 0) + 1
    return tuple([_stage(survey, parts[index], found[index], degree) for index in range(degree)])


def _soonest(sites: Iterable[Site], part: Part, there: Mapping[str, int], on_card: Mapping[str, int]) -> Site | None:
    """Where the part is computed soonest; of equals where fewest stages of the group are, then where most memory is free."""
    runs, weight_bytes, needed = part.runs, part.weight_bytes, part.reserve_bytes
    best, best_s, best_key = None, inf, None
    for site in sites:
        if site.free_bytes < needed:
            continue
        beside = there.get(site.node.computes_on, 0) if there else 0
        fetching = 1 + on_card.get(site.node.box, 0) if on_card else 1
        done_s = site.done_s(runs, weight_bytes, 1 + beside, fetching)
        if best is None or done_s < best_s:
            best, best_s, best_key = site, done_s, None
        elif done_s == best_s:
            key = beside, -site.free_bytes, site.node.name
            if best_key is None:
                best_key = there.get(best.node.computes_on, 0), -best.free_bytes, best.node.name
            if key < best_key:
                best, best_key = site, key
    return best


def _too_large(part: Part) -> str:
    size = f"{part.reserve_bytes / 1e9:.2f} GB"
    return f"layers {part.first_layer}-{part.end_layer - 1} need {size} and no node left has that much free"


def _stage(survey: Survey, part: Part, site: Site, degree: int) -> Stage:
    ways = _ways(survey, part, survey.sources.of(site.node))
    held_back = ways.later if ways.later and degree > 1 and _may_wait(survey, part, site) else ()
    plan = StagePlan(
        site.node.name, part.first_layer, part.end_layer, ways.units, part.weight_bytes, part.kv_bytes, ways.later,
        ways.sources, held_back, *_beside(part, site.node),
    )  # fmt: skip
    return Stage(site, plan, part, ways)


def _ways(survey: Survey, part: Part, of_all: Sequence[tuple[str, ...]]) -> Ways:
    """Found once for each list of sources, which is the same for all nodes that have nothing of the model."""
    known = survey.ways.get((id(part), id(of_all)))
    if known is not None:
        return known[-1]  # type: ignore[no-any-return]
    sizes, first = [survey.sizes[i] for i in part.units], dict[tuple[bool, str], list[int]]()
    for place, index in enumerate(part.units):
        first.setdefault((index in part.later, of_all[index][0]), []).append(place)
    each = [
        Way(later, source, places, of_way := [sizes[place] for place in places], sum(of_way))
        for (later, source), places in first.items()
    ]
    found = Ways(
        tuple([survey.names[i] for i in part.units]), tuple([of_all[i] for i in part.units]), tuple(sizes),
        tuple([survey.names[i] for i in part.later]), tuple(each), part.units.index(0) if 0 in part.units else None,
    )  # fmt: skip
    survey.ways[id(part), id(of_all)] = part, of_all, found  # which keeps both, and so their ids
    return found


def _beside(part: Part, node: Node) -> tuple[int, int]:
    """What a stage reserves on this node beside weights and KV cache: inside of its allocator, and outside."""
    if not node.gpu:
        return 0, 0
    return part.workspace.inside_bytes, part.workspace.outside_bytes + node.context_bytes


def _may_wait(survey: Survey, part: Part, site: Site) -> bool:
    """Whether bytes that no first token waits for are not even asked for before the group has answered: where the store
    limits all nodes together they are taken from the group's other stages.

    Only where memory for all of the stage is certain to be there then: else it is better taken at once.
    """
    if not survey.store_limits:
        return False
    node = site.node
    missing = sum(survey.sizes[i] for i in part.units if node.units.get(survey.digests[i]) != "dram")
    coming = sum(transfer.remaining_bytes for transfer in survey.queues.get(node.name, ()))
    on_node = all(survey.digests[i] in node.units for i in part.later)
    return not on_node and missing + coming <= node.dram_bytes - node.dram_used_bytes


def _transfers(survey: Survey, stages: Sequence[Stage]) -> list[Transfer]:
    """What must cross which links; what is on a node already crosses none."""
    question, found = survey.question, list[Transfer]()
    slo_s = question.objectives.ttft_s
    in_time = slo_s is not None and slo_s > question.waited_s  # what is late already is promised nothing
    deadline_s = question.now_s + slo_s - question.waited_s if slo_s is not None and in_time else None
    for rank, stage in enumerate(stages):
        node = stage.plan.node
        for later, source, _, _, size_bytes in stage.ways.each:
            if source in TIERS:
                continue
            peer = peer_of(source)
            links = (STORE if peer is None else out_link(survey.card(peer)), nic_link(stage.site.node.card))
            name = f"{question.start}/{rank}/{source}"
            if later:
                found.append(Transfer(f"{name}/later", links, size_bytes, LATER, None, node))
            else:
                found.append(Transfer(name, links, size_bytes, 0, deadline_s, node))
    return found


def _slowest(stages: Sequence[Stage], transfers: Sequence[Transfer]) -> str:
    """Where the slowest of what the first token needs comes from."""
    if any(transfer.priority != LATER for transfer in transfers):
        return NETWORK
    return ON_SSD if any(way.source == "ssd" for stage in stages for way in stage.ways.each) else IN_DRAM


def _predict(
    question: Question, stages: Sequence[Stage], mean: _Lines | None, bad: _Lines | None, slowest: str
) -> Prediction | None:
    """What the candidate would take; None as long as nobody has measured what that needs."""
    if mean is None or bad is None:
        return None
    forming_s = first_token_s(mean, question.prompt_tokens)
    correction_s, correction_bad_s = question.corrections.of(len(stages), slowest)
    correction_s = max(correction_s, -MOST_CORRECTED * forming_s)
    ttft_s = question.waited_s + forming_s + correction_s
    ttft_bad_s = question.waited_s + max(0.0, first_token_s(bad, question.prompt_tokens) + correction_bad_s)
    weights = [stage.plan.weight_bytes for stage in stages]
    tpot_s, tpot_bad_s = (
        token_s([(w, t.speeds) for w, t in zip(weights, lines, strict=True)], question.corrections.hop_s)
        for lines in (mean, bad)
    )
    parts = {
        "waited": question.waited_s,
        "form group": max(line.formed_s for line in mean),
        "fetch": max((at_s for line in mean for at_s, _ in line.units), default=0.0),
        "compute": computing_s(mean, question.prompt_tokens),
        "correction": correction_s,
    }
    reserved = [stage.plan.reserve_bytes for stage in stages]
    cost = cost_byte_s(reserved, ttft_s - question.waited_s + question.objectives.keep_alive_s)
    return Prediction(ttft_s, max(ttft_s, ttft_bad_s), tpot_s, max(tpot_s, tpot_bad_s), cost, parts, slowest)


def _promised(
    question: Question,
    transfers: Sequence[Transfer],
    verdict: Verdict,
    prediction: Prediction,
    mean: _Lines,
    bad: _Lines,
) -> list[Transfer]:
    """The transfers, each with the time until which it may last without the first token being later than it shall be.

    As long as nothing else is held up, a token is late by no more than its latest bytes; and whatever held them up, once
    all bytes are there only computing is left. What is late anyway is promised nothing.
    """
    goal_s = question.objectives.ttft_s
    if goal_s is None:
        return list(transfers)
    kept = prediction.ttft_bad_s <= goal_s
    spare_s = goal_s - (prediction.ttft_bad_s if kept else prediction.ttft_s)
    if spare_s < 0:
        return [_until(transfer, None) for transfer in transfers]
    stretch = max(m.speeds.nic_bytes_per_s / b.speeds.nic_bytes_per_s for m, b in zip(mean, bad, strict=True))
    stretch = max(1.0, stretch) if kept else 1.0
    correction_s = max(0.0, question.corrections.of(len(mean), prediction.slowest)[1 if kept else 0])
    after_s = computing_s(bad if kept else mean, question.prompt_tokens) + correction_s
    latest_s = question.now_s + (goal_s - question.waited_s - after_s) / stretch
    return [
        transfer
        if transfer.priority == LATER
        else _until(transfer, max(latest_s, verdict.finish_s[transfer.name] + spare_s / stretch))
        for transfer in transfers
    ]


def _until(transfer: Transfer, deadline_s: float | None) -> Transfer:
    return Transfer(
        transfer.name, transfer.links, transfer.remaining_bytes, transfer.priority, deadline_s, transfer.queue
    )


def _timelines(survey: Survey, stages: Sequence[Stage], verdict: Verdict) -> tuple[_Lines, _Lines] | tuple[None, None]:
    """In the mean and at the bad end; None if a node's speeds are not known."""
    found, found_bad, degree = list[StageTimeline](), list[StageTimeline](), len(stages)
    readers = Counter(stage.site.node.shared_with for stage in stages if stage.ways.reads_ssd)
    sharing = Counter(stage.site.node.computes_on for stage in stages)
    for rank, stage in enumerate(stages):
        mean, bad = stage.site.mean, stage.site.bad
        if mean is None or bad is None:
            return None, None
        ssd_bytes_per_s = mean.ssd_bytes_per_s / max(1, readers[stage.site.node.shared_with])
        if (beside := sharing[stage.site.node.computes_on]) > 1:  # what is on one GPU came over one bus
            mean, bad = (replace(each, bus_bytes_per_s=each.bus_bytes_per_s / beside) for each in (mean, bad))
        there_s, there_bad_s = _there_s(survey, stage, rank, verdict, ssd_bytes_per_s, mean, bad)
        model, part, ways = survey.question.model, stage.part, stage.ways
        in_order = as_met(model, part, ways.sizes, ways.embedding, there_s, mean.reach_s)
        in_order_bad = as_met(model, part, ways.sizes, ways.embedding, there_bad_s, bad.reach_s)
        found.append(StageTimeline(mean, mean.formed(degree), in_order))
        found_bad.append(StageTimeline(bad, bad.formed(degree), in_order_bad))
    return found, found_bad


def _there_s(
    survey: Survey, stage: Stage, rank: int, verdict: Verdict, ssd_bytes_per_s: float, mean: Speeds, bad: Speeds
) -> tuple[list[float], list[float]]:
    """When each of the stage's units is there, from the decision on, in the mean and at the bad end: 0 for those that are in
    memory, or that nobody waits for."""
    question, there_s = survey.question, [0.0] * len(stage.part.units)
    there_bad_s, begin_s = there_s.copy(), stage.site.busy_s
    for later, source, places, sizes, size_bytes in stage.ways.each:
        if source == "ssd":
            longer = mean.ssd_bytes_per_s / bad.ssd_bytes_per_s
            come_s = arrivals_s(0.0, size_bytes / ssd_bytes_per_s, sizes)
        elif source in TIERS or later:
            continue
        else:
            longer = mean.nic_bytes_per_s / bad.nic_bytes_per_s
            ends_s = max(begin_s, verdict.finish_s[f"{question.start}/{rank}/{source}"] - question.now_s)
            come_s, begin_s = arrivals_s(begin_s, ends_s, sizes), ends_s
        for place, at_s in zip(places, come_s, strict=True):
            there_s[place], there_bad_s[place] = at_s, at_s * longer
    return there_s, there_bad_s


def _reasons(survey: Survey, stages: Sequence[Stage]) -> tuple[str, ...]:
    from_store = here = 0
    for stage in stages:
        for way in stage.ways.each:
            if way.source == STORE:
                from_store += way.size_bytes
            elif way.source in TIERS:
                here += way.size_bytes
    total = sum(stage.part.weight_bytes for stage in stages)
    found = [f"{len(stages)} stage(s) of equal bytes, each on the node that is done with it soonest"]
    if here:
        found.append(f"{here / total:.0%} of the bytes are on their nodes already")
    if total > from_store + here:
        found.append(f"{(total - from_store - here) / total:.0%} come from other nodes and not from the store")
    return tuple(found)
