"""What a cold start was predicted to take, and what it took."""

from dataclasses import replace

import pytest
from serving.service import Start
from serving.starts import predicted_of

from cluster.wire.reports import Phase
from schedules.facts import View
from schedules.placing.policies import POLICIES
from serving.cold_start import ColdStart
from tests.schedules.models import model_of, node_of, question_of, rates_of


@pytest.mark.parametrize(("text_s", "waits"), [(0.0, False), (0.1, False), (60.0, True)])
def test_a_first_token_is_not_predicted_before_its_prompt_is_known(text_s: float, waits: bool) -> None:
    node = replace(node_of("a", 1000), rates=rates_of())
    decision = POLICIES["planned"].decide(question_of(model_of([10] * 4), View((node,))))
    start = Start("s", 1.0, decision=decision, text_s=text_s)
    found = predicted_of(start)
    chosen = decision.chosen
    assert found is not None
    assert chosen is not None
    assert chosen.prediction is not None
    assert ("tokenise" in found["parts"]) == waits
    least_s = text_s + chosen.prediction.parts["compute"]
    assert found["ttft_s"] == pytest.approx(least_s if waits else chosen.prediction.ttft_s)
    assert found["ttft_bad_s"] >= found["ttft_s"]


def test_how_long_a_group_took_to_be_ready_is_read_from_its_phases() -> None:
    phases = (
        Phase("take process", "node-0", 100.2, 100.3),
        Phase("take process", "node-1", 100.1, 100.3),
        Phase("fetch head", "node-1 from ssd", 100.2, 100.7),
        Phase("fetch embed", "node-0 from dram", 102.0, 103.0),
        Phase("build skeleton", "stage 0", 100.4, 100.5),
        Phase("build skeleton", "stage 1", 100.4, 100.6),
    )
    start = ColdStart("m", "g", ("node-0", "node-1"), 100.0, 1.0, phases)
    assert start.formed_s == pytest.approx(0.5)
    assert start.fetched_s == pytest.approx(0.7), "what came after the first token was not waited for"
    assert replace(start, phases=()).formed_s == 0.0
