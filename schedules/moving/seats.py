"""Where a replica that follows another can run. What is taken whoever looks next sees."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from schedules.estimates import whole_s
from schedules.facts import Node
from schedules.ledgers.books import Books
from schedules.ledgers.shares import LATER, Transfer
from schedules.placing.candidates import candidate
from schedules.placing.decision import Candidate, Decision, Question
from schedules.placing.partition import parts_of
from schedules.placing.survey import Site, Survey
from schedules.service import Replica, Service

LOOKED_AT = 4
"""Of the nodes that seem to be whole first so many are looked at closely."""


@dataclass(frozen=True)
class Seat:
    """Where an heir is to run, under this group's name. It is whole after `ready_s`, None if its nodes' speeds are not known.
    One that is `in_place` has what the one that it follows reserved there."""

    group: str
    decision: Decision
    ready_s: float | None
    in_place: bool = False


class Seats:
    """See the module. `name` gives names of groups that were never used."""

    def __init__(self, books: Books, name: Callable[[], str]) -> None:
        self._books, self._name, self._next = books, name, ""

    def whole(
        self, service: Service, own: Iterable[str], now_s: float, *, only: str = "", but: Iterable[str] = ()
    ) -> Seat | None:
        """As `find_whole`, and taken."""
        found = self.find_whole(service, own, now_s, only=only, but=but)
        return None if found is None else self.take(found, now_s)

    def find_whole(
        self, service: Service, own: Iterable[str], now_s: float, *, only: str = "", but: Iterable[str] = ()
    ) -> Seat | None:
        """One stage with all of the model, on a node that has it whole soonest, of equals one of its `own`; on the `only` one
        that is named, and on none of `but`. None if no node has room. It is good until anything is taken."""
        survey = Survey(self._question(service, now_s))
        sites = _sites(survey, own if not only else (), [only] if only else None, frozenset(but))
        tried = [seat for site in sites[:LOOKED_AT] if (seat := self._seat(survey, [site.node])) is not None]
        if not tried:
            return None
        ours = frozenset(own)
        return min(tried, key=lambda seat: (_or_late(seat.ready_s), _nodes(seat)[0] not in ours, _nodes(seat)))

    def anywhere(self, service: Service, own: Iterable[str], now_s: float) -> Seat | None:
        """Whole if there is room for that, else over as many nodes as a start would be."""
        found = self.whole(service, own, now_s)
        if found is not None:
            return found
        question = self._question(service, now_s)
        decision = self._books.policy.decide(question)
        chosen = decision.chosen
        if chosen is None or chosen.moves:
            return None
        return self.take(_behind(Survey(question), chosen), now_s)

    def in_place(self, old: Replica, most: int, now_s: float) -> list[Seat]:
        """All of the model on those of the replica's nodes where that has reserved enough for it from its start on, the first
        `most` of them, taken. None if it has on each, for then it is not meant to become whole."""
        question, needed = self._question(old.service, now_s), self.whole_bytes(old.service)
        stages = old.placement.stages if old.placement is not None else ()
        roomy = [
            (node, stage.reserve_bytes)
            for stage in stages
            if (node := question.view.node(stage.node)) is not None
            and stage.reserve_bytes >= needed + (node.context_bytes if node.gpu else 0)
        ]
        found = list[Seat]()
        for node, reserved_bytes in roomy[:most] if len(roomy) < len(stages) else ():
            survey = Survey(self._question(old.service, now_s), {node.name: reserved_bytes})
            seat = self._seat(survey, [node])
            if seat is not None:
                found.append(self.take(replace(seat, in_place=True), now_s))
        return found

    def whole_bytes(self, service: Service) -> int:
        """What all of the model takes in one stage, without its process's context."""
        gpus = self._books.nodes.gpus
        return parts_of(service.model, 1, service.objectives.kv_tokens, gpus=gpus)[0].reserve_bytes

    def needed(self, service: Service, node: str, now_s: float) -> tuple[int, int]:
        """Bytes that all of the model takes in one stage on the node, and what is free there."""
        survey = Survey(self._question(service, now_s))
        there = self._books.nodes.view().node(node)
        free_bytes = survey.stage_free_bytes(there) if there is not None else 0
        return survey.parts(1)[0].reserve_bytes, max(0, free_bytes)

    def _question(self, service: Service, now_s: float) -> Question:
        """As of a start that nobody waits for."""
        objectives = replace(service.objectives, ttft_s=None)
        self._next = self._next or self._name()
        return self._books.question(self._next, service.model, objectives, now_s)

    def _seat(self, survey: Survey, nodes: Sequence[Node]) -> Seat | None:
        found = candidate(survey, len(nodes), nodes)
        return _behind(survey, found) if found.placement is not None else None

    def take(self, seat: Seat, now_s: float) -> Seat:
        """Its memory is promised, and its bytes are under way."""
        self._books.order(seat.group, seat.decision, now_s)
        self._next = ""
        return seat


def _sites(survey: Survey, own: Iterable[str], among: Sequence[str] | None, but: frozenset[str]) -> list[Site]:
    """Those with room for the whole model, those that seem to have it first before others."""
    needed, view = survey.parts(1)[0].reserve_bytes, survey.question.view
    names = among if among is not None else [*own, *[site.node.name for site in survey.shortlist(needed, 1)]]
    nodes = [node for name in dict.fromkeys(names) if name not in but and (node := view.node(name)) is not None]
    sites = [survey.site(node) for node in nodes if not node.draining]
    roomy = [site for site in sites if site.free_bytes >= needed]
    return sorted(roomy, key=lambda site: site.whole_s(survey.size_bytes))


def _behind(survey: Survey, found: Candidate) -> Seat:
    """The candidate as it is behind everything that anybody waits for: its bytes come when nothing else does."""
    question = survey.question
    found = replace(_makes_way(found), ruled_out="")
    finish_s = question.links.consider(found.transfers, question.now_s).finish_s
    fetched_s = max([finish_s[transfer.name] - question.now_s for transfer in found.transfers], default=0.0)
    ready_s = _ready_s(survey, found, fetched_s)
    assert found.placement is not None
    return Seat(question.start, Decision("behind", found.placement, (found,)), ready_s)


def behind(decision: Decision) -> Decision:
    """The same, but for its bytes coming when nothing comes that anybody waits for."""
    chosen = decision.chosen
    assert chosen is not None
    found = _makes_way(chosen)
    assert found.placement is not None
    others = tuple([found if each is chosen else each for each in decision.candidates])
    return Decision(decision.policy, found.placement, others)


def _makes_way(found: Candidate) -> Candidate:
    assert found.placement is not None
    transfers = tuple([_later(transfer) for transfer in found.transfers])
    stages = tuple([replace(stage, held_back=()) for stage in found.placement.stages])
    return replace(found, placement=replace(found.placement, stages=stages), transfers=transfers)


def _later(transfer: Transfer) -> Transfer:
    return transfer._replace(priority=LATER, deadline_s=None)


def _ready_s(survey: Survey, found: Candidate, fetched_s: float) -> float | None:
    assert found.placement is not None
    sites = [survey.site(node) for name in found.nodes if (node := survey.question.view.node(name)) is not None]
    ready_s = 0.0
    for site, stage in zip(sites, found.placement.stages, strict=True):
        if site.mean is None:
            return None
        near_bytes = site.near[-1] if found.degree == 1 else min(site.near[-1], stage.weight_bytes)
        ready_s = max(ready_s, whole_s(site.mean, found.degree, fetched_s, near_bytes, stage.weight_bytes))
    return ready_s


def _or_late(ready_s: float | None) -> float:
    return float("inf") if ready_s is None else ready_s


def _nodes(seat: Seat) -> tuple[str, ...]:
    chosen = seat.decision.chosen
    assert chosen is not None
    return chosen.nodes
