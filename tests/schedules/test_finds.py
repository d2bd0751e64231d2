"""What was found of a model's units is kept until something becomes of one of them."""

from schedules.ledgers.finds import MOST_KEPT, Finds

ONE, TUNED, OTHER = ("embed", "a", "head"), ("embed", "b", "head"), ("c", "c")


def _finds() -> Finds:
    finds = Finds()
    for digests in (ONE, TUNED, OTHER):
        finds.keep(digests, f"of {digests[1]}")
    return finds


def test_a_unit_is_forgotten_for_every_model_that_has_it_and_for_no_other() -> None:
    finds = _finds()
    finds.forget(["embed", "unknown"])
    assert [finds.get(digests) for digests in (ONE, TUNED, OTHER)] == [None, None, "of c"]
    finds.forget(["c"])
    assert finds.get(OTHER) is None


def test_what_is_found_anew_is_kept_again() -> None:
    finds = _finds()
    finds.forget(["a"])
    assert (finds.get(ONE), finds.get(TUNED)) == (None, "of b")
    finds.keep(ONE, "anew")
    finds.forget(["b"])
    assert (finds.get(ONE), finds.get(TUNED)) == ("anew", None)


def test_no_more_is_kept_than_so_many_models() -> None:
    finds = Finds()
    for model in range(MOST_KEPT + 1):
        finds.keep((f"{model}",), model)
    assert finds.get(("0",)) is None
    assert finds.get((f"{MOST_KEPT}",)) == MOST_KEPT
    finds.forget(["0"])
