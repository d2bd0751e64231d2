"""Splitting layers: complete, in order, and as even as can be."""

from dataclasses import replace
from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules.facts import Model
from schedules.placing.partition import critical_bytes, split_layers, stage_bytes, stage_units
from tests.schedules.models import model_of, models


def _heaviest(model: Model, bounds: tuple[int, ...]) -> int:
    return max(critical_bytes(model, first, end) for first, end in pairwise(bounds))


@st.composite
def _splits(draw: st.DrawFn) -> tuple[Model, int]:
    model = draw(models())
    return model, draw(st.integers(1, model.layers))


@given(_splits())
def test_every_layer_is_in_one_stage_and_no_stage_is_empty(case: tuple[Model, int]) -> None:
    model, degree = case
    bounds = split_layers(model, degree)
    assert len(bounds) == degree + 1
    assert (bounds[0], bounds[-1]) == (0, model.layers)
    assert all(first < end for first, end in pairwise(bounds))


@given(_splits())
def test_no_other_split_has_a_lighter_heaviest_stage(case: tuple[Model, int]) -> None:
    model, degree = case
    others = [(0, *cuts, model.layers) for cuts in combinations(range(1, model.layers), degree - 1)]
    assert _heaviest(model, split_layers(model, degree)) == min(_heaviest(model, bounds) for bounds in others)


@given(_splits())
def test_the_stages_hold_every_unit_once_and_a_tied_embedding_at_both_ends(case: tuple[Model, int]) -> None:
    model, degree = case
    held = [index for first, end in pairwise(split_layers(model, degree)) for index in stage_units(model, first, end)]
    twice = [0] if model.tied_embeddings and degree > 1 else []
    assert sorted(held) == sorted([*range(len(model.units)), *twice])


@given(_splits())
def test_the_first_token_waits_for_all_but_an_embedding_that_is_read_by_rows(case: tuple[Model, int]) -> None:
    model, degree = case
    spans = list(pairwise(split_layers(model, degree)))
    spared = [stage_bytes(model, *span) - critical_bytes(model, *span) for span in spans]
    as_matrix = model.tied_embeddings and degree == 1
    embedding = model.units[0].size_bytes if model.rows_first and not as_matrix else 0
    assert spared == [embedding, *[0] * (degree - 1)]


@given(_splits())
def test_a_stage_needs_the_same_units_however_its_embedding_is_read(case: tuple[Model, int]) -> None:
    model, degree = case
    for span in pairwise(split_layers(model, degree)):
        whole, by_rows = (stage_units(replace(model, rows_first=rows_first), *span) for rows_first in (False, True))
        assert sorted(whole) == sorted(by_rows)
        assert [unit for unit in whole if unit] == [unit for unit in by_rows if unit]


def test_an_embedding_that_is_read_by_rows_comes_whole_at_last() -> None:
    for tied in (False, True):
        model = model_of([1] * 6, tied=tied, rows_first=True)
        assert stage_units(model, 0, 2) == (1, 2, 0)
        assert stage_units(model, 0, 4) == (1, 2, 3, 4, 5, 0)
    assert stage_units(model, 2, 4) == (3, 4, 5, 0)


def test_an_embedding_that_is_read_by_rows_does_not_weigh_on_the_first_stage() -> None:
    assert split_layers(model_of([30, 10, 10, 10, 10, 10, 0], rows_first=True), 2) == (0, 2, 5)
    assert split_layers(model_of([20, 10, 10, 10, 10, 0], tied=True, rows_first=True), 2) == (0, 3, 4)


def test_units_come_in_the_order_in_which_they_are_used() -> None:
    model = model_of([1] * 6, tied=True)
    assert stage_units(model, 0, 2) == (0, 1, 2)
    assert stage_units(model, 2, 3) == (3,)
    assert stage_units(model, 2, 4) == (3, 4, 5, 0)
    assert stage_units(model, 0, 4) == (0, 1, 2, 3, 4, 5)


def test_a_heavy_embedding_leaves_the_first_stage_fewer_layers() -> None:
    assert split_layers(model_of([30, 10, 10, 10, 10, 10, 0]), 2) == (0, 1, 5)


def test_a_tied_embedding_weighs_on_the_last_stage_too() -> None:
    assert split_layers(model_of([20, 10, 10, 10, 10, 0], tied=True), 2) == (0, 2, 4)


@pytest.mark.parametrize("degree", [-1, 0, 4])
def test_a_degree_that_does_not_fit_is_refused(degree: int) -> None:
    with pytest.raises(ValueError, match=f"degree {degree} does not fit a model of 3 layers"):
        split_layers(model_of([1] * 5), degree)


def test_a_model_of_a_hundred_layers_is_split_evenly() -> None:
    assert split_layers(model_of([0, *[7] * 100, 0]), 4) == (0, 25, 50, 75, 100)
