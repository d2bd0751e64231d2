"""What a person sees of a decision: outcomes, candidates, and which part of a prediction was wrong."""

import io
import re
from collections.abc import Mapping
from typing import Any

import pytest
from rich.console import Console, RenderableType

from firsttoken.frontend import ColdStart, Expected, PhaseOfStart
from firsttoken.views.explanation import blame, candidate_table, explanation, sentence, start_table, wishes
from tests.firsttoken.stub_frontend import EXPLAINED

EXPECTED = Expected(1.0, 1.5, {"form group": 0.3, "fetch": 0.6, "compute": 0.2, "correction": 0.1})


def drawn(part: RenderableType) -> str:
    """What it leaves on a console."""
    console = Console(file=io.StringIO(), width=200)
    console.print(part)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def start(ttft_s: float | None, *, fetched_s: float, expected: Expected | None = EXPECTED) -> ColdStart:
    """Formed 0.3 s after the decision at 0.1 s, and computed for 0.2 s beside a wait of 0.1 s."""
    phases = (
        PhaseOfStart("decide", "front end", 0.05, 0.1, 0),
        PhaseOfStart("form group", "front end", 0.1, 0.4, 0),
        PhaseOfStart("fetch layer.0000", "node-1 from remote", 0.1, 0.3, 100),
        PhaseOfStart("fetch head", "node-1 from remote", 0.1, fetched_s, 100),
        PhaseOfStart("fetch embed", "node-1 from remote", 0.1, 99.0, 100),
        PhaseOfStart("first step", "stage 0", 0.4, 0.7, 0),
        PhaseOfStart("wait for head", "stage 0", 0.5, 0.6, 0),
    )
    error = None if expected is None or ttft_s is None else ttft_s / expected.ttft_s - 1
    return ColdStart("tiny", 1, ("node-1",), ttft_s, phases, expected, error)


def decision(outcome: str, reason: str, *candidates: Mapping[str, Any]) -> dict[str, Any]:
    """As the front end tells it."""
    return {"policy": "planned", "outcome": outcome, "reason": reason, "candidates": list(candidates)}


def test_a_model_that_cannot_start_and_one_that_would_wait_say_so() -> None:
    assert (
        sentence("tiny", decision("none", "no node has room"))
        == "tiny could not start now (planned): no node has room."
    )
    assert sentence("tiny", decision("wait", "others would be late")) == (
        "tiny would wait now (planned): others would be late."
    )


def test_a_candidate_without_a_prediction_has_none_shown() -> None:
    unknown = {"degree": 1, "nodes": [], "chosen": False, "ruled_out": "no room", "moves": [], "prediction": None}
    text = drawn(candidate_table(decision("none", "no room", unknown)))
    assert re.search(r"1 +\? +\? +\? +\? +no room", text)


def test_who_would_have_to_move_is_told_with_the_time() -> None:
    move = {"group": "g", "model": "other", "to": "node-3", "takes_s": 2.5}
    moved = {"degree": 1, "nodes": ["n"], "chosen": True, "ruled_out": "", "moves": [move], "prediction": None}
    assert "chosen; other would move to node-3 in 2.50 s" in drawn(candidate_table(decision("start", "", moved)))


def test_without_a_service_level_the_wish_is_speed() -> None:
    objectives = {**EXPLAINED["objectives"], "ttft_s": None, "tpot_s": 0.05}
    assert wishes(objectives).startswith("Wanted: the first token as soon as possible, 50 ms a token; 0 to 2 replicas")


def test_a_model_that_was_never_started_has_no_table_of_starts() -> None:
    assert "tiny was not started yet." in drawn(explanation(EXPLAINED, []))


def test_a_start_without_prediction_shows_what_was_measured() -> None:
    text = drawn(start_table([start(1.25, fetched_s=0.3, expected=None)]))
    assert "1.25 s" in text
    assert "%" not in text


@pytest.mark.parametrize(
    ("ttft_s", "fetched_s", "named"),
    [
        (1.5, 1.2, "fetch: 1.10 s, predicted 0.60 s"),
        (0.6, 0.3, "fetch: 0.20 s, predicted 0.60 s"),
        (1.01, 1.2, ""),  # right but for a hundredth
        (1.5, 0.3, ""),  # the whole was slower, no part was
        (9.0, 1.2, ""),  # what a part was slower by is little of it
        (None, 0.3, ""),
    ],
)
def test_the_part_that_was_most_wrong_is_named_if_it_explains_the_error(
    ttft_s: float | None, fetched_s: float, named: str
) -> None:
    assert blame(start(ttft_s, fetched_s=fetched_s)) == named
