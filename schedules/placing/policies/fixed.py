"""Always the largest degree that fits: what one rehearses and measures degrees with."""

from collections.abc import Sequence
from dataclasses import replace

from schedules.facts import Model, NoPlacement, Placement, View
from schedules.ledgers.links import Links
from schedules.objectives import Objectives
from schedules.placing.candidates import candidate
from schedules.placing.decision import Candidate, Decision, Question, Wait
from schedules.placing.survey import Survey


class Fixed:
    """`objectives.max_degree` stages, fewer where there are fewer layers, nodes or room. Promises are not looked at."""

    name = "fixed"

    def decide(self, question: Question) -> Decision:
        """The first degree that fits, from the largest down."""
        survey, tried = Survey(question), list[Candidate]()
        for degree in range(min(question.objectives.max_degree, question.model.layers, survey.usable), 0, -1):
            found = candidate(survey, degree)
            if found.placement is not None:
                placement = replace(
                    found.placement, reasons=(*_why(question, survey, tried, degree), *found.placement.reasons)
                )
                return Decision(self.name, placement, (*tried, replace(found, placement=placement, ruled_out="")))
            tried.append(found)
        return Decision(self.name, NoPlacement(no_room(question, survey, tried)), tuple(tried))


def _why(question: Question, survey: Survey, tried: Sequence[Candidate], degree: int) -> tuple[str, ...]:
    wanted = question.objectives.max_degree
    ruled_out = [f"degree {c.degree} ruled out: {c.ruled_out}" for c in tried]
    if degree == wanted or ruled_out:
        return (*ruled_out, f"degree {degree}, the largest that fits")
    nodes, layers = survey.usable, question.model.layers
    return (f"degree {degree} of {wanted} wanted: {nodes} nodes connected, {layers} layers to split",)


def no_room(question: Question, survey: Survey, tried: list[Candidate]) -> str:
    """Why no candidate fits, in one sentence."""
    if not survey.usable:
        return "no node is connected: start one with 'firsttoken node' or wait until one has joined"
    reasons = "; ".join(f"degree {c.degree}: {c.ruled_out}" for c in tried)
    return f"no room for {question.model.name} on the connected nodes now: {reasons}"


def place(model: Model, view: View, degree: int, kv_tokens: int) -> Placement | NoPlacement:
    """A group of up to `degree` stages with room for `kv_tokens` tokens in all, whatever else is under way."""
    objectives = Objectives(
        ttft_s=None,
        tpot_s=None,
        min_replicas=0,
        max_replicas=1,
        keep_alive_s=0.0,
        priority=0,
        max_degree=degree,
        kv_tokens=kv_tokens,
    )
    outcome = Fixed().decide(Question("place", model, objectives, view, Links({}, 0.0), 0.0)).outcome
    assert not isinstance(outcome, Wait)
    return outcome
