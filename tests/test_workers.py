"""How tests are spread: what takes longest begins first."""

from pathlib import Path

from tests.workers import LONGEST, TOGETHER, arrange


def test_the_longest_begin_first_and_the_others_stay_as_they_are() -> None:
    shared = TOGETHER[LONGEST[0]]
    nodeids = ["tests/docs/a.py::b", "tests/docs/a.py::a", f"{LONGEST[-1]}::c", f"{shared[0]}::d", "tests/docs/b.py::e",
               f"{shared[1]}::f"]  # fmt: skip
    assert [nodeids[index] for index in arrange(nodeids)] == [nodeids[index] for index in (3, 5, 2, 0, 1, 4)]


def test_what_is_named_is_there() -> None:
    """A file that was renamed would be begun last, or beside what it must not meet."""
    files = [unit for unit in LONGEST if unit not in TOGETHER] + [file for files in TOGETHER.values() for file in files]
    assert [file for file in files if not (Path(__file__).parents[1] / file).is_file()] == []
