"""A front end looks for garbage seldom, and not in what it keeps."""

import gc
from collections.abc import Iterator

import pytest

from serving.collecting import MIDDLE, OLD, YOUNG, collect_seldom, keep_what_is_there


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


def test_it_is_looked_for_seldom() -> None:
    collect_seldom()
    assert gc.get_threshold() == (YOUNG, MIDDLE, OLD)


def test_what_is_there_is_not_looked_at_again_and_what_comes_is() -> None:
    kept = [[]]  # type: ignore[var-annotated]
    keep_what_is_there()
    new = [[]]  # type: ignore[var-annotated]
    looked_at = {id(each) for each in gc.get_objects()}
    assert id(kept) not in looked_at
    assert id(new) in looked_at
