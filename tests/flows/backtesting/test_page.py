"""A backtest as people read it."""

from xml.etree import ElementTree

import numpy as np
import pytest

from flows.backtesting.page import Told, page_of, rows_of, sentence
from flows.backtesting.picture import costs, over_time
from flows.backtesting.playing import KNOWING, PREWARMED, REACTIVE, Played
from schedules.foresight.backtest import Backtest, backtest
from schedules.foresight.forecasters import FORECASTERS
from schedules.foresight.past import past_of
from schedules.foresight.prices import same_prices

_AT = np.concatenate([np.arange(0.0, 14_400.0, 600.0), np.array([7_230.0])])
PAST = past_of(["often", "once|"], np.r_[np.zeros(24), 1.0].astype(np.int64), _AT, 0.0, 14_400.0)
PLAYED = [
    Played(name, 25, 3, 0.1, 0.2, 0.3, waited_s, 1_000_000)
    for name, waited_s in ((REACTIVE, 6.0), (PREWARMED, 3.0), (KNOWING, 2.0))
]


@pytest.fixture(scope="module")
def found() -> Backtest:
    methods = [FORECASTERS[name] for name in ("tsb", "keep-alive", "timer")]
    return backtest(PAST, methods, same_prices(2, 5.0, 1e9), 3600.0, 14_400.0, 300.0, 900.0)


def test_the_page_has_methods_what_was_played_and_the_choice_by_model(found: Backtest) -> None:
    page = page_of(Told(PAST, found, "tsb", PLAYED, ("said *so*",)))
    assert "prewarming spares 75% of what an oracle would spare" in page
    for said in (
        "| keep-alive |",
        "| oracle |",
        f"| {REACTIVE} | 3 |",
        "| often | ",
        "| once\\| | ",
        "- said \\*so\\*",
    ):
        assert said in page
    assert page.count("data:image/svg+xml;base64,") == 2


def test_the_sentence_says_what_the_method_in_use_costs_more(found: Backtest) -> None:
    dearest = max(found.judged, key=lambda each: float(each.cost_s.sum())).method
    assert f"; {dearest}, which is in use, costs " in sentence(Told(PAST, found, dearest, (), ()))
    assert "in use" not in sentence(Told(PAST, found, found.best(), (), ()))


def test_where_nothing_came_that_is_all_that_is_said() -> None:
    quiet = past_of(["a"], np.array([0]), np.array([10.0]), 0.0, 14_400.0)
    nothing = backtest(quiet, [FORECASTERS["tsb"]], same_prices(1, 5.0, 1e9), 7200.0, 14_400.0, 300.0, 900.0)
    assert sentence(Told(quiet, nothing, "tsb", (), ())) == "Nobody asked for anything in the time that was judged"


def test_a_line_for_each_model_and_method_those_that_were_called_most_first(found: Backtest) -> None:
    rows = rows_of(found)
    assert [row["model"] for row in rows] == ["often"] * 3 + ["once|"] * 3
    assert [row["cost_s"] for row in rows[:3]] == sorted(row["cost_s"] for row in rows[:3])  # type: ignore[type-var]


def test_the_pictures_are_drawn_of_what_was_found(found: Backtest) -> None:
    bars = ElementTree.fromstring(costs(found))
    kinds = [part.get("class") for part in bars.iter()]
    assert kinds.count("cold") == kinds.count("held") == 1 + len(found.table())
    lines = [part.get("class") for part in ElementTree.fromstring(over_time(found, "tsb")).iter()]
    assert (lines.count("came"), lines.count("said"), lines.count("band")) == (1, 1, 1)
