"""All of a model on one node, for rules that know no pipelines."""

from dataclasses import replace

from schedules.facts import Node, NoPlacement
from schedules.placing.candidates import candidate
from schedules.placing.decision import Candidate, Decision
from schedules.placing.policies.fixed import no_room
from schedules.placing.survey import Survey


def with_room(survey: Survey) -> list[Node]:
    """The nodes that have room for all of the model, by name. Looks at each."""
    view, needed = survey.question.view, survey.whole_bytes
    nodes = [node for name in survey.usable_free_bytes(None) if (node := view.node(name)) is not None]
    return sorted((n for n in nodes if survey.stage_free_bytes(n) >= needed), key=lambda node: node.name)


def alone_on(policy: str, survey: Survey, node: Node, why: str) -> Decision:
    """One stage on this node, which has room for it, whatever speaks against it."""
    found = candidate(survey, 1, [node])
    assert found.placement is not None
    placement = replace(found.placement, reasons=(why,))
    return Decision(policy, placement, (replace(found, placement=placement, ruled_out=""),))


def nowhere(policy: str, survey: Survey) -> Decision:
    """No node has room for all of the model."""
    tried = [Candidate(1, (), f"{survey.whole_bytes / 1e9:.2f} GB are free on no node")]
    return Decision(policy, NoPlacement(no_room(survey.question, survey, tried)), tuple(tried))
