"""What any rule should beat: one stage on a node that lots are drawn for."""

from zlib import crc32

import numpy as np

from schedules.placing.alone import alone_on, nowhere, with_room
from schedules.placing.decision import Decision, Question
from schedules.placing.survey import Survey


class Anywhere:
    """Any of the nodes with room is as likely as another. Lots are drawn by `seed` and by the start's name: the same question
    gets the same answer."""

    name = "anywhere"

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def decide(self, question: Question) -> Decision:
        """One of the nodes that have room."""
        survey = Survey(question)
        nodes = with_room(survey)
        if not nodes:
            return nowhere(self.name, survey)
        lots = np.random.default_rng([self._seed, crc32(question.start.encode())])
        return alone_on(self.name, survey, nodes[lots.integers(len(nodes))], "the lot fell on it")
