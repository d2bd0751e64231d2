"""What methods are judged by."""

import numpy as np
import pytest

from flows.backtesting.judging import UNKNOWN_START_S, methods_of, priced, window_of
from flows.errors import Unclear
from schedules.facts import Model, Unit
from schedules.foresight.forecasters import FORECASTERS
from schedules.foresight.past import past_of

MODELS = [Model(name, name, (Unit("embed", name, size),), False, 1) for name, size in (("a", 100), ("b", 300))]
PAST = past_of(["a", "b", "c"], np.array([0, 1]), np.array([70.0, 3500.0]), 0.0, 3610.0)


def test_a_models_cold_start_lasts_as_its_own_did_and_one_that_had_none_as_those_of_others() -> None:
    starts = [{"model": "a", "ttft_s": 2.0}, {"model": "a", "ttft_s": 4.0}, {"model": "gone", "ttft_s": 90.0}]
    found = priced(PAST, MODELS, starts)
    assert found.prices.cold_start_s.tolist() == [3.0, 3.0, 3.0]
    assert found.prices.size_bytes.tolist() == [100.0, 300.0, 0.0]
    assert "as the latest 2 did: 3 s" in found.said
    nothing = priced(PAST, MODELS, [])
    assert nothing.prices.cold_start_s.tolist() == [UNKNOWN_START_S] * 3
    assert nothing.said.startswith("No cold start is known")


def test_the_window_is_whole_minutes_of_what_is_known() -> None:
    assert window_of(PAST, 600.0) == (3000.0, 3600.0)
    assert window_of(PAST, 86_400.0) == (0.0, 3600.0)


def test_methods_are_named_or_all_and_one_that_is_none_says_which_there_are() -> None:
    assert [method.name for method in methods_of("tsb, keep-alive,tsb")] == ["tsb", "keep-alive"]
    assert [method.name for method in methods_of("")] == list(FORECASTERS)
    with pytest.raises(Unclear, match="there is no method 'oracle': there are chosen, daily"):
        methods_of("oracle")
