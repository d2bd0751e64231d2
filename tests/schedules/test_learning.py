"""Learning from cold starts: medians, the latest only, by degree."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules.learning import KEPT, Learned, Lesson
from schedules.placing.decision import IN_DRAM, NETWORK, Corrections


def _learned(errors_s: list[float], degree: int = 1) -> Learned:
    learned = Learned()
    for error_s in errors_s:
        learned = learned.with_lesson(Lesson(degree, 10.0, 10.0 + error_s))
    return learned


def test_without_lessons_nothing_is_added() -> None:
    assert Learned().corrections.of(3, NETWORK) == (0.0, 0.0)
    assert Learned().corrections.hop_s == 0.0


def test_one_odd_start_teaches_nothing_but_the_bad_end() -> None:
    assert _learned([1.0, 1.0, 50.0]).corrections.of(1, NETWORK) == (1.0, 50.0)


def test_the_only_start_of_its_kind_is_believed_by_half() -> None:
    assert _learned([2.0]).corrections.of(1, NETWORK) == (1.0, 2.0)
    assert _learned([-2.0]).corrections.of(1, NETWORK) == (-1.0, 0.0)
    assert _learned([2.0, 3.0]).corrections.of(1, NETWORK) == (2.5, 3.0)


def test_the_bad_end_is_what_nine_of_ten_stayed_below() -> None:
    assert _learned([float(error) for error in range(11)]).corrections.of(1, NETWORK) == (5.0, 9.0)


def test_the_oldest_are_forgotten_and_only_those_of_their_degree() -> None:
    learned = _learned([100.0] * KEPT).with_lesson(Lesson(2, 1.0, 3.0))
    for _ in range(KEPT):
        learned = learned.with_lesson(Lesson(1, 10.0, 11.0))
    assert learned.corrections.of(1, NETWORK) == (1.0, 1.0)
    assert learned.corrections.of(2, NETWORK) == (1.0, 2.0)


def test_a_degree_that_was_never_started_is_taken_for_the_nearest_the_smaller_of_two() -> None:
    corrections = Corrections(
        {(1, NETWORK): (1.0, 1.5), (3, NETWORK): (3.0, 3.5), (8, NETWORK): (8.0, 8.5), (4, IN_DRAM): (0.1, 0.1)}
    )
    assert [corrections.of(degree, NETWORK)[0] for degree in (1, 2, 4, 5, 6, 20)] == [1.0, 1.0, 3.0, 3.0, 8.0, 8.0]


def test_a_hop_is_the_median_of_the_latest() -> None:
    learned = Learned()
    for hop_s in (9.0, *[0.1] * KEPT):
        learned = learned.with_hop(hop_s)
    assert learned.corrections.hop_s == 0.1
    assert len(learned.hops_s) == KEPT


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=40))
def test_a_correction_lies_within_what_was_seen_and_its_bad_end_is_no_better(errors_s: list[float]) -> None:
    mean_s, bad_s = _learned(errors_s).corrections.of(1, NETWORK)
    latest = errors_s[-KEPT:]
    assert min(0.0, *latest) - 1e-9 <= mean_s <= bad_s + 1e-9
    assert bad_s <= max(0.0, *latest) + 1e-9


def test_what_is_learned_is_a_value_of_its_own() -> None:
    before = Learned()
    before.with_lesson(Lesson(1, 1.0, 2.0))
    assert before == Learned()
    assert Lesson(1, 1.0, 2.5).error_s == pytest.approx(1.5)


def test_how_long_bytes_and_forming_took_teaches_nothing() -> None:
    """Predicted by a speed three times too low, measured by one that met traffic: the rest is as it was."""
    for ready_predicted_s, ready_measured_s in ((18.0, 6.0), (6.0, 18.0), (6.0, 6.0)):
        lesson = Lesson(
            2, ready_predicted_s + 0.1, ready_measured_s + 0.3, NETWORK, ready_predicted_s, ready_measured_s
        )
        assert Learned().with_lesson(lesson).corrections.of(2, NETWORK) == pytest.approx((0.1, 0.2))


def test_starts_that_fetched_nothing_teach_nothing_of_those_that_did() -> None:
    learned = Learned().with_lesson(Lesson(1, 10.0, 11.0)).with_lesson(Lesson(1, 0.1, 0.3, IN_DRAM))
    assert learned.corrections.of(1, NETWORK) == (0.5, 1.0)
    assert learned.corrections.of(2, IN_DRAM) == pytest.approx((0.1, 0.2))
