"""What whoever waits is told: what is done for it, when its first token is predicted, and that it will not be in time."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schedules import events
from schedules.actions import Why
from schedules.desk.patience import BACK_WITHIN_S
from schedules.facts import ModelKey
from schedules.limits import Limits
from schedules.outlook import Doing, Outlook
from schedules.requests import PROMPTS_ALONE
from tests.schedules.driven_brain import SIZE_BYTES, DrivenBrain, model_named, node_named, wanting
from tests.schedules.models import rates_of

FETCHED_S = 8.0
PREDICTED_S = FETCHED_S + 0.1
SLOW = rates_of(nic=SIZE_BYTES / FETCHED_S, formed=0.5, decode=1e9, prefill=1e9)


def _driven(takes_s: float = FETCHED_S, nodes: int = 1, **wish: float) -> tuple[DrivenBrain, ModelKey]:
    """A brain whose nodes bring a model in eight seconds by their rates, and in `takes_s` as it is."""
    driven = DrivenBrain([node_named(f"n{i}", rates=SLOW) for i in range(nodes)])
    driven.form_s = takes_s
    return driven, driven.know(model_named("m"), wanting(**wish))


def _outlook(driven: DrivenBrain, request: str) -> Outlook:
    found = driven.brain.outlook(request, driven.now_s)
    assert found is not None
    return found


def _left_s(driven: DrivenBrain, request: str) -> float:
    first_s = _outlook(driven, request).first_s
    assert first_s is not None
    return first_s - driven.now_s


def _ask(driven: DrivenBrain, key: ModelKey, patience_s: float) -> None:
    driven.ask(key, deadline_s=driven.now_s + patience_s)


# ---- how it stands


def test_what_is_predicted_for_a_cold_start_comes_nearer_and_says_when_it_is_late() -> None:
    driven, key = _driven(takes_s=12.0)
    request = driven.ask(key)
    outlook = _outlook(driven, request)
    assert (outlook.doing, outlook.cold, outlook.joins, outlook.degree) == (Doing.FORMING, True, False, 1)
    assert _left_s(driven, request) == pytest.approx(FETCHED_S, abs=0.5)
    driven.run(3.0)
    assert _left_s(driven, request) == pytest.approx(FETCHED_S - 3.0, abs=0.5)
    driven.run(8.0)
    assert _left_s(driven, request) == pytest.approx(FETCHED_S - 11.0, abs=0.5)


def test_who_comes_to_a_start_of_others_joins_it() -> None:
    driven, key = _driven()
    driven.ask(key)
    driven.run(2.0)
    later = driven.ask(key)
    assert _outlook(driven, later).joins
    assert _left_s(driven, later) == pytest.approx(FETCHED_S - 2.0, abs=0.5)


def test_bytes_count_as_nodes_say_that_they_are_there() -> None:
    driven, key = _driven(takes_s=1.0)
    driven.first_s = 50.0
    request = driven.ask(key)
    driven.run(1.5)
    outlook = _outlook(driven, request)
    assert (outlook.doing, outlook.there_bytes, outlook.all_bytes) == (Doing.FETCHING, 0, SIZE_BYTES)
    held = {"m/1/0": "dram", "m/1/1": "ssd", "m/1/2": "dram"}
    host = driven.hosts["n0"]
    host.node = replace(host.node, units=held)
    driven.tell(events.NodeReported(host.node, held))
    assert _outlook(driven, request).there_bytes == SIZE_BYTES // 2
    whole = {f"m/1/{i}": "dram" for i in range(4)}
    host.node = replace(host.node, units=whole)
    driven.tell(events.NodeReported(host.node, whole))
    assert _outlook(driven, request).doing is Doing.COMPUTING


def test_who_comes_to_a_replica_that_is_up_is_answered_and_beyond_its_room_waits_in_a_queue() -> None:
    driven, key = _driven(takes_s=1.0, kv_tokens=64)
    driven.ask(key)
    driven.run(5.0)
    driven.run_s = 20.0
    first = driven.ask(key, tokens=(40, 20))
    outlook = _outlook(driven, first)
    assert (outlook.doing, outlook.cold, outlook.degree) == (Doing.ANSWERING, False, 1)
    assert outlook.first_s is not None, "a step over its prompt is predicted"
    driven.ask(key, tokens=(40, 20))
    last = driven.ask(key, tokens=(40, 20))
    outlook = _outlook(driven, last)
    assert (outlook.doing, outlook.cold, outlook.waiting) == (Doing.QUEUED, False, 1)


def test_what_is_predicted_of_a_warm_one_is_for_its_prompt_and_all_that_came_with_it() -> None:
    driven, key = _driven(takes_s=1.0, kv_tokens=1 << 14)
    driven.ask(key)
    driven.run(5.0)
    driven.run_s = 20.0
    one = driven.ask(key, tokens=(1000, 20))
    assert _left_s(driven, one) == pytest.approx(1000 * SIZE_BYTES / 1e9)
    for _ in range(3):
        driven.ask(key, tokens=(1000, 20), more=True)
    assert _left_s(driven, one) == pytest.approx(PROMPTS_ALONE * SIZE_BYTES / 1e9), "as many as one step takes"
    driven.run(0.2)
    assert _outlook(driven, one).first_s is None, "it has its first token"


def test_who_waited_for_a_start_is_predicted_nothing_more_once_others_have_what_they_wanted() -> None:
    driven, key = _driven(takes_s=1.0)
    driven.run_s = 20.0
    still, soon = driven.ask(key, tokens=(24, 0)), driven.ask(key, tokens=(24, 0))
    driven.run(2.0)
    driven.tell(events.RequestProgressed(soon, "g1", 0))
    assert (_outlook(driven, still).doing, _outlook(driven, still).first_s) == (Doing.ANSWERING, None)


def test_beside_others_a_warm_one_is_predicted_nothing() -> None:
    """How long their prompts and tokens hold it up is not known; and who waited in the queue did not go there at once."""
    driven, key = _driven(takes_s=1.0, kv_tokens=64)
    driven.ask(key)
    driven.run(5.0)
    driven.ask(key, tokens=(20, 10))
    driven.run(0.5)
    beside, waits = driven.ask(key, tokens=(20, 10)), driven.ask(key, tokens=(40, 20))
    assert (_outlook(driven, beside).doing, _outlook(driven, beside).first_s) == (Doing.ANSWERING, None)
    while _outlook(driven, waits).doing is Doing.QUEUED:
        driven.run(0.05)
    assert (_outlook(driven, waits).doing, _outlook(driven, waits).first_s) == (Doing.ANSWERING, None)


def test_who_waits_for_room_is_told_why_and_is_promised_nothing() -> None:
    driven, key = _driven()
    other = driven.know(model_named("other"))
    driven.form_s, driven.run_s = 1.0, 100.0
    driven.ask(other)
    driven.run(2.0)
    request = driven.ask(key)
    outlook = _outlook(driven, request)
    assert (outlook.doing, outlook.first_s, outlook.degree) == (Doing.ROOM, None, None)
    assert outlook.why


def test_one_that_is_over_has_no_outlook() -> None:
    driven, key = _driven()
    request = driven.ask(key)
    driven.leave(request)
    assert driven.brain.outlook(request, driven.now_s) is None


# ---- who will not be in time


def test_who_will_not_be_served_in_time_is_told_at_once_and_the_start_goes_on() -> None:
    driven, key = _driven()
    late = driven.ask(key, deadline_s=2.0)
    assert driven.why(late) is Why.LATE
    assert driven.rejected[late].retry_after_s == pytest.approx(PREDICTED_S - 2.0, abs=1.0)
    assert len(driven.starts("m")) == 1
    driven.run(PREDICTED_S + 1.0)
    again = driven.ask(key, deadline_s=driven.now_s + 2.0)
    driven.run(2.0)
    assert again in driven.ended
    assert len(driven.starts("m")) == 1


def test_whoever_comes_to_a_start_that_is_too_far_from_its_end_is_told_so_too() -> None:
    driven, key = _driven()
    patient = driven.ask(key)
    late = driven.ask(key, deadline_s=2.0)
    driven.run(FETCHED_S - 1.5)
    in_time = driven.ask(key, deadline_s=driven.now_s + 2.0)
    assert driven.why(late) is Why.LATE
    driven.run(4.0)
    assert {patient, in_time} <= driven.ended.keys()


def test_nobody_is_refused_by_a_prediction_that_may_be_wrong_by_as_much() -> None:
    """The mean is beyond the deadline, and what the start hardly comes before is not."""
    driven, key = _driven()
    assert driven.ask(key, deadline_s=0.8 * PREDICTED_S) not in driven.rejected


def test_nobody_is_refused_where_nothing_was_measured() -> None:
    driven = DrivenBrain([node_named("n0")])
    key = driven.know(model_named("m"))
    assert driven.ask(key, deadline_s=0.01) not in driven.rejected


def test_nobody_is_refused_at_a_replica_that_has_given_tokens() -> None:
    driven, key = _driven(takes_s=1.0, kv_tokens=64)
    driven.ask(key)
    driven.run(5.0)
    driven.run_s = 20.0
    asked = [driven.ask(key, deadline_s=driven.now_s + 1.0, tokens=(40, 20)) for _ in range(3)]
    assert not driven.rejected.keys() & set(asked)


def test_who_waited_for_room_is_told_once_it_is_known_that_there_was_too_little_time() -> None:
    driven, key = _driven()
    other = driven.know(model_named("other"), wanting(keep_alive_s=0.0))
    driven.form_s, driven.run_s = 1.0, 5.0
    driven.ask(other)
    driven.run(2.0)
    driven.form_s = FETCHED_S
    late, patient = driven.ask(key, deadline_s=driven.now_s + 7.0), driven.ask(key)
    assert late not in driven.rejected
    driven.run(20.0)
    assert driven.why(late) is Why.LATE
    assert patient in driven.ended


def test_an_answer_that_has_begun_is_not_refused_for_the_start_that_it_goes_on_with() -> None:
    driven, key = _driven(takes_s=1.0, nodes=2)
    driven.run_s = 30.0
    begun = driven.ask(key, deadline_s=6.5)
    driven.run(2.0)
    assert driven.got_tokens[begun] == 1
    driven.lose(driven.assigned[begun][-1])
    assert len(driven.starts("m")) == 2
    assert begun not in driven.rejected


def test_the_start_of_one_who_was_refused_is_kept_until_it_may_have_come_back() -> None:
    """A model that is not kept alive at all would have been gone again, for ever and ever."""
    driven, key = _driven(takes_s=1.0, keep_alive_s=0.0)
    late = driven.ask(key, deadline_s=2.0)
    retry_after_s = driven.rejected[late].retry_after_s
    assert retry_after_s is not None
    driven.run(retry_after_s + BACK_WITHIN_S - 0.1)
    assert driven.states("m") == ["serving"]
    driven.run(2.0)
    assert driven.states("m") == []


def test_a_refusal_for_want_of_room_in_the_line_says_when_the_start_is_predicted_to_be_there() -> None:
    driven = DrivenBrain([node_named("n0", rates=SLOW)], limits=Limits(30.0, 1000, 1, consolidate=True))
    driven.form_s = FETCHED_S
    key = driven.know(model_named("m"))
    driven.ask(key)
    driven.run(3.0)
    refused = driven.ask(key)
    assert driven.why(refused) is Why.OVERLOADED
    assert driven.rejected[refused].retry_after_s == pytest.approx(PREDICTED_S - 3.0, abs=1.0)


@settings(max_examples=60, deadline=None)
@given(
    patience_s=st.floats(0.2, 5.9),
    keep_alive_s=st.sampled_from([0.0, 1.0, 60.0]),
    takes=st.floats(0.5, 0.95),
    late_by_s=st.floats(0.0, 9.0),
    others_s=st.lists(st.floats(0.0, 5.0), max_size=3),
)
def test_who_comes_back_when_told_is_served_by_the_start_that_it_caused(
    patience_s: float, keep_alive_s: float, takes: float, late_by_s: float, others_s: list[float]
) -> None:
    """However short its patience (it is less than three quarters of what is predicted), whoever comes besides, and whether or
    not the model is kept alive."""
    driven, key = _driven(takes_s=takes * FETCHED_S, keep_alive_s=keep_alive_s)
    request = driven.ask(key, deadline_s=patience_s)
    for after_s in others_s:
        driven.later(after_s, lambda: _ask(driven, key, patience_s))
    refused = driven.rejected[request]
    assert refused.why is Why.LATE
    assert refused.retry_after_s is not None
    driven.run(refused.retry_after_s + late_by_s)
    again = driven.ask(key, deadline_s=driven.now_s + patience_s)
    driven.run(2 * FETCHED_S)
    assert again in driven.ended
    assert len(driven.starts("m")) == 1
