"""Which budgets and horizon a run goes by."""

import re

import pytest

from flows.errors import Unclear
from flows.prewarming.chosen import BUDGETS, HORIZON, chosen
from flows.prewarming.foresight import Foresight
from tests.told import budgets_of

FORESIGHT = Foresight(300.0, 900.0, 86_400.0, "chosen", budgets_of(dram_share=0.8))


def test_without_anything_said_the_settings_hold() -> None:
    found = chosen(FORESIGHT, "", {})
    assert (found.budgets, found.horizon_s) == (budgets_of(dram_share=0.8), 900.0)
    assert found.said[0].endswith("by the settings [prewarm].")
    assert found.said[1] == "Horizon: 15 min, by the settings [prewarm]."


@pytest.mark.parametrize(
    "told", [{"ssd_share": 0.5, "moved_bytes": "80GB"}, '{"ssd_share": 0.5, "moved_bytes": 80000000000}']
)
def test_a_variable_goes_before_the_settings_in_what_it_names_as_an_object_or_as_text(told: object) -> None:
    found = chosen(FORESIGHT, "", {BUDGETS: told})
    assert found.budgets == budgets_of(dram_share=0.8, ssd_share=0.5, moved_bytes=80 * 10**9)
    assert f"ssd_share, moved_bytes by the Prefect variable {BUDGETS}, all others by the settings" in found.said[0]


@pytest.mark.parametrize("nothing", [None, 0])
def test_no_bound_of_bytes_is_as_many_as_fit(nothing: object) -> None:
    assert chosen(FORESIGHT, "", {BUDGETS: {"moved_bytes": nothing}}).budgets.moved_bytes is None


def test_what_is_typed_for_a_run_goes_before_the_variable_and_is_whole_minutes() -> None:
    assert chosen(FORESIGHT, "", {HORIZON: 1200}).horizon_s == 1200.0
    assert chosen(FORESIGHT, "", {HORIZON: "20min"}).said[1] == f"Horizon: 20 min, by the Prefect variable {HORIZON}."
    assert chosen(FORESIGHT, "90s", {HORIZON: 1200}).horizon_s == 120.0


@pytest.mark.parametrize(
    ("horizon", "variables", "sentence"),
    [
        ("soon", {}, "the horizon: 'soon' is no time"),
        ("2d", {}, "the horizon: 172800 s is not from a minute to a day"),
        ("", {HORIZON: "soon"}, f"the Prefect variable {HORIZON}: 'soon' is no time"),
        ("", {HORIZON: True}, f"the Prefect variable {HORIZON}: True is no time"),
        ("", {HORIZON: [900]}, f"the Prefect variable {HORIZON}: [900] is no time"),
        ("", {HORIZON: 1e9}, f"the Prefect variable {HORIZON}: 1e+09 s is not from a minute"),
        ("", {HORIZON: float("nan")}, "nan s is not from a minute"),
        ("", {BUDGETS: "{"}, f"the Prefect variable {BUDGETS}: '{{' is no JSON"),
        ("", {BUDGETS: [1]}, "[1] is no object"),
        ("", {BUDGETS: {"dram": 0.5}}, "there is no budget 'dram': those are dram_share, ssd_share"),
        ("", {BUDGETS: {"dram_share": 1.5}}, "dram_share is a share from 0 to 1, not 1.5"),
        ("", {BUDGETS: {"dram_share": "much"}}, "dram_share is a number, not 'much'"),
        ("", {BUDGETS: {"dram_share": True}}, "dram_share is a number, not True"),
        ("", {BUDGETS: {"moved_bytes": "lots"}}, "'lots' is no size"),
        ("", {BUDGETS: {"moved_bytes": -1}}, "-1 bytes cannot be moved"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(horizon: str, variables: dict[str, object], sentence: str) -> None:
    with pytest.raises(Unclear, match=re.escape(sentence)):
        chosen(FORESIGHT, horizon, variables)
