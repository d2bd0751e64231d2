"""How many replicas: by what is asked for, within the model's bounds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules.scaling import wanted_replicas
from tests.told import objectives_of


@pytest.mark.parametrize(("tokens", "wanted"), [(0, 0), (1, 1), (100, 1), (101, 2), (250, 3), (10_000, 4)])
def test_as_many_as_have_cache_for_all_tokens_up_to_the_most(tokens: int, wanted: int) -> None:
    assert wanted_replicas(objectives_of(max_replicas=4, kv_tokens=100), tokens) == wanted


def test_the_least_number_is_kept_although_nobody_calls() -> None:
    assert wanted_replicas(objectives_of(min_replicas=2, max_replicas=3), 0) == 2


@given(st.integers(0, 5), st.integers(1, 9), st.integers(1, 100), st.integers(0, 1000), st.integers(0, 1000))
def test_more_is_never_answered_with_fewer(least: int, most: int, kv_tokens: int, tokens: int, more: int) -> None:
    objectives = objectives_of(min_replicas=min(least, most), max_replicas=most, kv_tokens=kv_tokens)
    fewer = wanted_replicas(objectives, tokens)
    assert objectives.min_replicas <= fewer <= wanted_replicas(objectives, tokens + more) <= most
    assert fewer == most or fewer * kv_tokens >= tokens


@pytest.mark.parametrize(
    "wrong", [{"min_replicas": 2}, {"max_replicas": 0}, {"min_replicas": -1}, {"max_degree": 0}, {"kv_tokens": 0}]
)
def test_what_cannot_be_wanted_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"replicas|stages"):
        objectives_of(**wrong)  # type: ignore[arg-type]
