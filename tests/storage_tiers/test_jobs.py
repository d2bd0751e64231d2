"""Who begins when: better classes first, and the patient only while nothing better runs."""

import threading

import pytest

from storage_tiers.jobs import Jobs

DEADLINE_S = 20.0
URGENT, LATER, BEHIND = 0, 5, 20


def test_better_classes_begin_first_and_each_in_its_order() -> None:
    jobs, done = Jobs(patient=()), list[str]()
    for priority, name in ((BEHIND, "c"), (URGENT, "a1"), (LATER, "b"), (URGENT, "a2")):
        jobs.put(priority, lambda name=name: done.append(name))  # type: ignore[misc]
    for _ in range(4):
        assert jobs.run_next()
    assert done == ["a1", "a2", "b", "c"]


def test_the_patient_wait_while_better_ones_run_and_others_do_not() -> None:
    jobs, done, began, go_on = Jobs(patient=(LATER,)), list[str](), threading.Event(), threading.Event()

    def urgent() -> None:
        began.set()
        assert go_on.wait(DEADLINE_S)
        done.append("urgent")

    jobs.put(URGENT, urgent)
    threads = [threading.Thread(target=jobs.run_next) for _ in range(2)]
    threads[0].start()
    assert began.wait(DEADLINE_S)
    jobs.put(LATER, lambda: done.append("later"))
    jobs.put(BEHIND, lambda: done.append("behind"))
    assert jobs.run_next()
    assert done == ["behind"]
    threads[1].start()
    go_on.set()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert done == ["behind", "urgent", "later"]


def test_a_job_that_fails_holds_nobody_up() -> None:
    jobs, done = Jobs(patient=(LATER,)), list[str]()

    def fail() -> None:
        raise RuntimeError("it failed")

    jobs.put(URGENT, fail)
    jobs.put(LATER, lambda: done.append("later"))
    with pytest.raises(RuntimeError, match="it failed"):
        jobs.run_next()
    assert jobs.run_next()
    assert done == ["later"]


def test_after_the_end_nothing_begins_and_what_is_left_is_told() -> None:
    jobs, done = Jobs(patient=()), list[str]()
    jobs.put(URGENT, lambda: done.append("never run here"))
    jobs.close()
    assert not jobs.run_next()
    assert (len(jobs.left()), done) == (1, [])
