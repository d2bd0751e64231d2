"""A trace of what a front end kept."""

import numpy as np
import pytest

from schedules.traces.errors import BadTrace
from schedules.traces.happened import Asked, trace_of

ASKED = [
    Asked("b", 1010.0, 5, 64, 20),
    Asked("a", 1005.0, 3, 16, 7),
    Asked("b", 1020.0, 0, 8, 0),
    Asked("b", 1015.0, 5, 64, 0, refused=True),
    Asked("c", 1016.0, 5, 32, 0, refused=True),
    Asked("a", 1030.0, 3, 16, 7),
]


def test_it_has_what_came_in_time_by_time() -> None:
    trace = trace_of(ASKED, 1005.0, 1030.0, "history")
    assert (trace.models, trace.duration_s, trace.provenance.source) == (("a", "b", "c"), 25.0, "history")
    assert trace.at_s.tolist() == [0.0, 5.0, 10.0, 11.0, 15.0]
    assert trace.model.tolist() == [0, 1, 1, 2, 1]
    assert trace.max_tokens.tolist() == [16, 64, 64, 32, 8]


def test_who_was_refused_is_given_what_others_got_and_nobody_less_than_a_token() -> None:
    trace = trace_of(ASKED, 1000.0, 1030.0, "history")
    assert trace.answer_tokens.tolist() == [7, 20, 10, 32, 1]
    assert trace.prompt_tokens.tolist() == [3, 5, 5, 5, 1]


def test_an_answer_may_be_longer_than_was_asked_for_and_nothing_breaks() -> None:
    """Tokens that came after a stop text was found are counted as generated."""
    trace = trace_of([Asked("a", 0.0, 1, 4, 5)], 0.0, 1.0, "history")
    assert np.array_equal(trace.max_tokens, [5])


def test_nothing_in_that_time_is_said() -> None:
    with pytest.raises(BadTrace, match="no request came in those 5 s"):
        trace_of(ASKED, 0.0, 5.0, "history")
