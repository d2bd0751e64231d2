"""One stage on the node with most free memory, of equals on the one with the fastest network card."""

from schedules.facts import Node
from schedules.placing.alone import alone_on, nowhere, with_room
from schedules.placing.decision import Decision, Question
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


def _key(survey: Survey, node: Node) -> tuple[int, float, str]:
    nic = node.rates.get(NIC)
    return -survey.stage_free_bytes(node), -nic.mean if nic is not None else 0.0, node.name
