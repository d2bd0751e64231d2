"""Sweeps on real Dask processes."""

import asyncio
import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from distributed import LocalCluster

from flows.errors import SweepFailed
from flows.planning.kept import Kept
from flows.planning.sweeping import Crew, Play, Progress, sweep
from schedules.capacity.plan import Plan
from tests.flows import planning_double as double
from tests.flows.planning_double import Counts, opened

pytestmark = pytest.mark.timeout(120)

QUESTION = double.question()
TWO = Crew(workers=2)


async def swept(
    kept: Kept, play: Play, report: Callable[[Progress], object] = lambda _told: None, crew: Crew = TWO
) -> Plan:
    return await sweep(Counts(4), QUESTION, kept, crew, report, play)


def names(kept: Kept) -> list[str]:
    """Of the jobs in the file."""
    assert kept.path is not None
    return [json.loads(line)["job"]["name"] for line in kept.path.read_text().splitlines()]


async def cancelled_after_the_first(kept: Kept) -> None:
    first = asyncio.Event()
    task = asyncio.create_task(swept(kept, double.sleeps, lambda told: told.done and first.set()))
    await asyncio.wait_for(first.wait(), 60)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def test_a_sweep_that_is_cancelled_leaves_nothing_behind_and_goes_on_where_it_was(tmp_path: Path) -> None:
    asyncio.run(cancelled_after_the_first(opened(tmp_path)))
    assert [child for child in psutil.Process().children() if "multiprocessing-fork" in str(child.cmdline())] == []
    kept = opened(tmp_path)
    assert names(kept) == ["1 small"]
    told: list[Progress] = []
    plan = asyncio.run(swept(kept, double.plays, told.append))
    assert sorted(names(kept)) == ["1 small", "2 small", "3 small", "4 small"]
    assert {trial.name for trial in plan.tried} == set(names(kept))
    assert (told[0].done, told[0].kept, told[-1].done, told[-1].about) == (1, 1, 4, 4)
    assert any(7 in each.under_way.values() for each in told)


def test_what_is_all_known_is_not_played(tmp_path: Path) -> None:
    kept = opened(tmp_path)
    for number in range(1, 5):
        kept.add(double.job(number), double.trial(double.job(number), 40))
    plan = asyncio.run(swept(kept, double.fails))
    assert len(plan.tried) == 4


def test_a_process_that_dies_is_replaced_and_its_job_played_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(double.DIED, str(tmp_path / "died"))
    plan = asyncio.run(swept(opened(tmp_path), double.dies_once, crew=Crew(workers=1)))
    assert (tmp_path / "died").exists()
    assert len(plan.tried) == 4


def test_a_job_that_kills_every_process_is_given_up_and_the_others_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.planning.sweeping.DEATHS", 1)
    kept = opened(tmp_path)
    with pytest.raises(SweepFailed, match="2 small was given up: 2 processes died of it"):
        asyncio.run(swept(kept, double.dies))
    assert "1 small" in names(kept)


def there_already(workers: int) -> LocalCluster:
    """A scheduler of somebody else, in this process."""
    return LocalCluster(
        n_workers=workers,
        processes=False,
        protocol="tcp",
        asynchronous=True,
        dashboard_address=None,
        worker_dashboard_address=None,
        scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
    )


def test_a_scheduler_that_is_there_already_is_used_and_left_as_it_was(tmp_path: Path) -> None:
    async def beside() -> Plan:
        async with there_already(1) as there:
            plan = await swept(opened(tmp_path), double.plays, crew=Crew(there.scheduler_address))
            (worker,) = there.workers.values()
            assert [name for name in worker.plugins if name.startswith("plan")] == []
            return plan

    assert len(asyncio.run(beside()).tried) == 4


def test_no_scheduler_and_one_without_workers_are_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.planning.sweeping.CONNECTS_WITHIN_S", 0.5)
    monkeypatch.setattr("flows.planning.sweeping.WORKERS_WITHIN_S", 0.5)

    async def alone() -> None:
        async with there_already(0) as there:
            await swept(Kept(None), double.plays, crew=Crew(there.scheduler_address))

    with pytest.raises(SweepFailed, match="has no workers"):
        asyncio.run(alone())
    with pytest.raises(SweepFailed, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:1"):
        asyncio.run(swept(Kept(None), double.plays, crew=Crew("tcp://127.0.0.1:1")))


def test_a_search_that_wants_nothing_and_has_no_plan_is_told() -> None:
    async def stuck() -> None:
        async with there_already(1) as there:
            crew = Crew(there.scheduler_address)
            await sweep(Counts(4, asked=4), QUESTION, Kept(None), crew, lambda _told: None, double.plays)

    with pytest.raises(SweepFailed, match="wants nothing"):
        asyncio.run(stuck())
