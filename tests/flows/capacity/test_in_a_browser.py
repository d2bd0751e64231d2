"""The page as Chromium lays it out, on a telephone and on a desk, with no network."""

from dataclasses import replace
from itertools import combinations
from pathlib import Path

from flows.capacity.page import page
from schedules.capacity.plan import Plan
from tests.browser import looked_at
from tests.flows.capacity.plans import large, plan

WIDTHS = (400, 1280)
LONG = "an-organisation-with-a-name/and-a-model-with-a-name-that-does-not-end-for-a-long-while-and-has-no-room"


def _looks(shown: Plan, folder: Path) -> None:
    seen, console = looked_at(page(shown, "2026-11-27"), WIDTHS, folder)
    assert console == ""
    assert [each["width"] for each in seen] == list(WIDTHS)
    for each in seen:
        assert each["needed"] <= each["room"]
        assert each["asked"] == []
        assert len(each["texts"]) >= 5
        for (one, *a), (other, *b) in combinations(each["texts"], 2):
            apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
            assert apart, f"{one!r} and {other!r} at {each['width']} pixels"


def test_a_page_fits_its_window_asks_for_nothing_and_its_labels_stand_apart(tmp_path: Path) -> None:
    _looks(plan(), tmp_path)


def test_so_does_one_of_many_models_with_long_names(tmp_path: Path) -> None:
    shown = large(models=300, trials=40)
    assert shown.chosen is not None
    by_model = {f"{LONG}-{i}": 0.5 for i in range(20)} | shown.chosen.by_model
    shown = replace(shown, chosen=replace(shown.chosen, by_model=by_model), currency="EUR", sentence=LONG * 3)
    _looks(shown, tmp_path)
