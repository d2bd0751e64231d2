"""The plainest rule: one stage on the node with most free memory, of equals on the one with the fastest network card."""

from dataclasses import replace

from schedules.facts import Node, NoPlacement
from schedules.placing.candidates import candidate
from schedules.placing.decision import Candidate, Decision, Question
from schedules.placing.policies.fixed import no_room
from schedules.placing.survey import Survey
from schedules.rates import NIC


class Roomiest:
    """See the module. Where units lie is not looked at, nor what else the node fetches."""

    name = "roomiest"

    def decide(self, question: Question) -> Decision:
        """The node with most free memory."""
        survey = Survey(question)
        nodes = with_room(survey)
        if not nodes:
            return nowhere(self.name, survey)
        return alone_on(self.name, survey, min(nodes, key=lambda node: _key(survey, node)), "most memory is free there")


def with_room(survey: Survey) -> list[Node]:
    """The nodes that have room for all of the model, by name."""
    view, needed = survey.question.view, survey.whole_bytes
    nodes = [node for name in survey.usable_free_bytes(None) if (node := view.node(name)) is not None]
    return sorted((n for n in nodes if survey.stage_free_bytes(n) >= needed), key=lambda node: node.name)


def alone_on(policy: str, survey: Survey, node: Node, why: str) -> Decision:
    """One stage on this node, which has room for it."""
    found = candidate(survey, 1, [node])
    assert found.placement is not None
    return chosen(policy, found, why)


def chosen(policy: str, found: Candidate, why: str, others: tuple[Candidate, ...] = ()) -> Decision:
    """This one, which can be placed, whatever speaks against it."""
    assert found.placement is not None
    placement = replace(found.placement, reasons=(why,))
    return Decision(policy, placement, (*others, replace(found, placement=placement, ruled_out="")))


def nowhere(policy: str, survey: Survey) -> Decision:
    """No node has room for all of the model."""
    tried = [Candidate(1, (), f"{survey.whole_bytes / 1e9:.2f} GB are free on no node")]
    return Decision(policy, NoPlacement(no_room(survey.question, survey, tried)), tuple(tried))


def _key(survey: Survey, node: Node) -> tuple[int, float, str]:
    nic = node.rates.get(NIC)
    return -survey.stage_free_bytes(node), -nic.mean if nic is not None else 0.0, node.name
