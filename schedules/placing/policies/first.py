"""One stage on the first machine that has room, there on the node where it fits best: so HydraServe's artifact has vLLM
placed that it compares itself with."""

from schedules.placing.alone import alone_on, nowhere, with_room
from schedules.placing.decision import Decision, Question
from schedules.placing.survey import Survey


class First:
    """See the module. Machines are in the order of their nodes' names."""

    name = "first"

    def decide(self, question: Question) -> Decision:
        """The first with room."""
        survey = Survey(question)
        nodes = with_room(survey)
        if not nodes:
            return nowhere(self.name, survey)
        there = [node for node in nodes if node.shared_with == nodes[0].shared_with]
        best = min(there, key=lambda node: (survey.stage_free_bytes(node), node.name))
        return alone_on(self.name, survey, best, "the first that has room")
