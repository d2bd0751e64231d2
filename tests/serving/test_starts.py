"""What a cold start was predicted to take, when its request was made into tokens beside it."""

from dataclasses import replace

import pytest

from schedules.facts import View
from schedules.policies import POLICIES
from serving.service import Start
from serving.starts import predicted_of
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
