"""Trials on disk: whole lines are found again, whatever became of the last one."""

import json
import os
import time
from pathlib import Path

import pytest

from flows.planning import kept as kept_module
from flows.planning.kept import FORGOTTEN_AFTER_S, Kept
from schedules.capacity.clusters import Cluster
from schedules.capacity.search import Job
from tests.flows.planning_double import job, opened, trial


def test_what_was_kept_is_found_again(tmp_path: Path) -> None:
    first = opened(tmp_path)
    assert first.trial(job(1)) is None
    first.add(job(1), trial(job(1), 40))
    first.add(job(2), trial(job(2), 40))
    again = opened(tmp_path)
    assert [again.trial(job(number)) for number in (1, 2, 3)] == [trial(job(1), 40), trial(job(2), 40), None]


def test_a_job_of_the_same_name_with_another_cluster_is_another(tmp_path: Path) -> None:
    opened(tmp_path).add(job(1), trial(job(1), 40))
    assert opened(tmp_path).trial(Job(job(1).name, Cluster({"small": 1}, network=2.0))) is None


@pytest.mark.parametrize(
    "tail", [b'{"job": "3 sm', b"\x00\xff\n", b"[]\n", b'{"job": "3 small"}\n', b'{"job": "3 small", "trial": {}}\n']
)
def test_what_is_no_whole_line_is_passed_over_and_what_comes_later_is_not(tmp_path: Path, tail: bytes) -> None:
    first = opened(tmp_path)
    first.add(job(1), trial(job(1), 40))
    assert first.path is not None
    with first.path.open("ab") as file:
        file.write(tail)
    again = opened(tmp_path)
    assert len(again) == 1
    again.add(job(2), trial(job(2), 40))
    assert len(opened(tmp_path)) == 2


def test_two_sweeps_of_one_question_add_to_one_file(tmp_path: Path) -> None:
    one, other = opened(tmp_path), opened(tmp_path)
    for number, sweep in enumerate((one, other, one, other)):
        sweep.add(job(number), trial(job(number), 40))
    assert one.path is not None
    assert [json.loads(line)["job"]["name"] for line in one.path.read_text().splitlines()] == [
        job(n).name for n in range(4)
    ]
    assert len(opened(tmp_path)) == 4


def test_what_other_code_has_found_out_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(tmp_path).add(job(1), trial(job(1), 40))
    monkeypatch.setattr(kept_module, "brain_digest", lambda: "other")
    assert len(opened(tmp_path)) == 0


def test_what_nobody_has_added_to_for_a_month_goes(tmp_path: Path) -> None:
    old = opened(tmp_path)
    old.add(job(1), trial(job(1), 40))
    assert old.path is not None
    at_s = time.time() - FORGOTTEN_AFTER_S - 60
    os.utime(old.path, (at_s, at_s))
    opened(tmp_path, "another")
    assert list(tmp_path.iterdir()) == []


def test_who_does_not_want_to_resume_begins_anew(tmp_path: Path) -> None:
    opened(tmp_path).add(job(1), trial(job(1), 40))
    anew = Kept.open(tmp_path, "q", resume=False)
    assert len(anew) == 0
    anew.add(job(2), trial(job(2), 40))
    assert len(opened(tmp_path)) == 1


def test_in_memory_nothing_is_written() -> None:
    kept = Kept(None)
    kept.add(job(1), trial(job(1), 40))
    assert kept.trial(job(1)) is not None
