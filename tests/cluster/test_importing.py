"""While much is imported nothing looks for garbage; before and after Python does as it did."""

import gc

import pytest

from cluster.importing import uncollected


def test_nothing_looks_for_garbage_in_the_block_and_in_one_within_it() -> None:
    assert gc.isenabled()
    with uncollected():
        with uncollected():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_an_import_that_fails_leaves_python_as_it_was() -> None:
    with pytest.raises(ImportError), uncollected():
        raise ImportError
    assert gc.isenabled()
