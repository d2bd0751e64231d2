"""Who begins when: better classes first, and the patient only while nothing better runs."""

import threading
import time

import pytest

from storage_tiers.tiers.jobs import Jobs, Rank

DEADLINE_S = 20.0
URGENT, LATER, BEHIND = Rank(0), Rank(5, patient=True), Rank(20)


def test_better_classes_begin_first_and_each_in_its_order() -> None:
    jobs, done = Jobs(), list[str]()
    for rank, name in ((BEHIND, "c"), (URGENT, "a1"), (LATER, "b"), (URGENT, "a2")):
        jobs.put(rank, lambda name=name: done.append(name))  # type: ignore[misc]
    for _ in range(4):
        assert jobs.run_next()
    assert done == ["a1", "a2", "b", "c"]


@pytest.mark.parametrize(
    ("running", "waits", "goes", "lanes"),
    [
        (URGENT, LATER, BEHIND, None),
        (Rank(0, 1, wire=True), Rank(0, 2, wire=True), Rank(0, 2), None),
        (Rank(0, 1, wire=True), Rank(5, 1, wire=True, patient=True), Rank(0, 1, wire=True), None),
        (Rank(0, 2, wire=True), Rank(5, 1, patient=True), Rank(0, 1, wire=True), None),
        (Rank(0, 1, wire=True), Rank(0, 1, wire=True), Rank(0, 1), 1),
        (Rank(5, 1, wire=True), Rank(5, 1, wire=True), Rank(0, 1, wire=True), 1),
    ],
    ids=[
        "a better class",
        "an earlier turn on the wire",
        "an earlier turn's better class",
        "a later turn's better class",
        "no lane",
        "no lane but for who is more urgent",
    ],
)
def test_who_must_be_patient_waits_and_others_do_not(running: Rank, waits: Rank, goes: Rank, lanes: int | None) -> None:
    jobs, done, began, go_on = Jobs(), list[str](), threading.Event(), threading.Event()
    jobs.lanes = lanes

    def urgent() -> None:
        began.set()
        assert go_on.wait(DEADLINE_S)
        done.append("urgent")

    jobs.put(running, urgent)
    threads = [threading.Thread(target=jobs.run_next) for _ in range(2)]
    threads[0].start()
    assert began.wait(DEADLINE_S)
    jobs.put(waits, lambda: done.append("patient"))
    jobs.put(goes, lambda: done.append("other"))
    assert jobs.run_next()
    assert done == ["other"]
    threads[1].start()
    go_on.set()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert done == ["other", "urgent", "patient"]


def test_a_job_that_fails_holds_nobody_up() -> None:
    jobs, done = Jobs(), list[str]()

    def fail() -> None:
        raise RuntimeError("it failed")

    jobs.put(URGENT, fail)
    jobs.put(LATER, lambda: done.append("later"))
    with pytest.raises(RuntimeError, match="it failed"):
        jobs.run_next()
    assert jobs.run_next()
    assert done == ["later"]


def test_after_the_end_nothing_begins_and_what_is_left_is_told() -> None:
    jobs, done = Jobs(), list[str]()
    jobs.put(URGENT, lambda: done.append("never run here"))
    jobs.close()
    assert not jobs.run_next()
    assert (len(jobs.left()), done) == (1, [])


def test_a_job_that_hangs_holds_nobody_up_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage_tiers.tiers.jobs.PATIENCE_S", 0.1)
    jobs, done, began, go_on = Jobs(), list[str](), threading.Event(), threading.Event()

    def hang() -> None:
        began.set()
        assert go_on.wait(DEADLINE_S)

    jobs.put(Rank(0, 1, wire=True), hang)
    thread = threading.Thread(target=jobs.run_next)
    thread.start()
    assert began.wait(DEADLINE_S)
    jobs.put(Rank(0, 2, wire=True), lambda: done.append("next"))
    assert jobs.run_next()
    assert done == ["next"]
    go_on.set()
    thread.join(DEADLINE_S)


def test_a_job_for_later_begins_then_and_holds_nobody_up() -> None:
    jobs, done = Jobs(), list[tuple[str, float]]()
    since_s = time.monotonic()
    for name, after_s in (("last", 0.2), ("second", 0.1), ("first", 0.0)):
        jobs.put(URGENT, lambda name=name: done.append((name, time.monotonic() - since_s)), after_s)  # type: ignore[misc]
    for _ in range(3):
        assert jobs.run_next()
    assert [name for name, _ in done] == ["first", "second", "last"]
    assert done[1][1] >= 0.1
    assert done[2][1] >= 0.2


def test_jobs_for_later_are_left_too() -> None:
    jobs = Jobs()
    jobs.put(URGENT, lambda: None, 100.0)
    jobs.put(URGENT, lambda: None)
    jobs.close()
    assert len(jobs.left()) == 2
    assert not jobs.left()


def test_what_is_behind_begins_on_its_own_thread_when_nobody_else_could() -> None:
    jobs, done, behind = Jobs(), list[str](), Rank(20, behind=True)
    jobs.put(behind, lambda: done.append("behind"))
    jobs.put(LATER, lambda: done.append("before"))
    writer = threading.Thread(target=jobs.run_next, args=(True,))
    writer.start()
    writer.join(0.05)
    assert not done
    assert jobs.run_next()
    writer.join(DEADLINE_S)
    assert done == ["before", "behind"]


def test_what_is_behind_is_no_work_for_other_threads() -> None:
    jobs = Jobs()
    jobs.put(Rank(20, behind=True), lambda: None)
    other = threading.Thread(target=jobs.run_next)
    other.start()
    other.join(0.05)
    assert other.is_alive()
    jobs.close()
    other.join(DEADLINE_S)
    assert not other.is_alive()
