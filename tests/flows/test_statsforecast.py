"""Models of another package behind our interface; what they need is said where they are not installed."""

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from flows.errors import Unclear
from flows.foreseeing.methods import METHODS
from flows.foreseeing.statsforecast import INTERMITTENT, StatsForecast
from schedules.foresight.forecasters import FORECASTERS
from tests.schedules.foresight.pasts import past

_KNOWN = past(
    {"often": [float(minute) for minute in range(600)], "now and then": [10.0, 200.0, 590.0], "never": []}, 600
)


def test_without_the_package_a_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "statsforecast", None)
    with pytest.raises(Unclear, match=r"^TSB needs the package statsforecast: pip install 'firsttoken\[forecast\]'$"):
        StatsForecast("TSB").forecast(_KNOWN, 900.0)


@pytest.mark.skipif(find_spec("statsforecast") is None, reason="the extra 'forecast' is not installed")
@pytest.mark.parametrize("name", INTERMITTENT)
def test_each_says_what_is_asked_for_more_often(name: str) -> None:
    forecast = INTERMITTENT[name].forecast(_KNOWN, 900.0)
    often, rarely, never = forecast.total.tolist()
    assert often == pytest.approx(15.0, rel=0.1)
    assert 0.0 < rarely < 1.0
    assert never == 0.0
    assert np.isfinite(forecast.by_then).all()
    assert forecast.methods == (name,) * 3


def test_all_methods_are_described_and_can_be_named() -> None:
    text = (Path(__file__).parents[2] / "docs" / "forecast.md").read_text()
    assert set(METHODS) == {*FORECASTERS, *INTERMITTENT}
    assert [name for name in METHODS if f"`{name}`" not in text] == []
