"""Plans of prewarming as a front end takes them: which is in force, and what comes of it."""

import asyncio
import math
import time
from dataclasses import replace
from typing import Any

import pytest

from cluster.wire.phases import unix_s
from schedules.facts import ModelKey
from schedules.foresight.plan import Kept, LeftOut, Plan, Staging
from schedules.foresight.spoken import plan_as_json, read_plan
from serving.errors import PlanRefused
from tests.serving.operated import MODEL, operated
from tests.serving.routed import Routed, played, served, until

KEY = MODEL.facts.key
AGE, KEPT = "firsttoken_prewarm_plan_age_seconds", "firsttoken_prewarm_kept_replicas"


def plan_of(*kept: ModelKey, made_ago_s: float = 0.0, for_s: float = 900.0, **more: Any) -> Plan:
    """One that keeps a replica of each."""
    made_s = unix_s(time.monotonic()) - made_ago_s
    keeps = tuple(Kept(key, 1, 2.5, "it will be called") for key in kept)
    return replace(Plan(made_s, made_s + for_s, (), {}, {}, keeps, {}), **more)


# ---- over HTTP


async def test_a_plan_is_told_followed_and_shown() -> None:
    staging = Staging("a", KEY, ("embed",), "dram", 1000, "remote", 60.0, 1.5, "it will be called")
    plan = plan_of(KEY, stagings=(staging,), left_out=(LeftOut("z", "nobody calls it"),))
    async with operated() as there:
        assert (await there.get("/admin/plan")).json() is None
        assert (await there.get("/admin/status")).json()["plan"] is None
        answer = await there.post("/admin/plan", plan_as_json(plan))
        assert answer.status_code == 200
        assert answer.json() == {"until": plan.until_s, "kept": [{"model": "m", "replicas": 1}], "ignored": []}
        await until(lambda: there.now.states("m") == ["serving"], 30.0)  # which nobody has called
        there.key = "nobody's"
        assert read_plan((await there.get("/admin/plan")).json()) == plan
        status = (await there.get("/admin/status")).json()
        assert status["plan"] == {
            "made_at": plan.made_s, "until": plan.until_s, "stagings": 1, "moved_bytes": 1000, "kept_replicas": 1,
            "left_out": 1,
        }  # fmt: skip
        assert [(each["model"], each["digest"]) for each in status["replicas"]] == [KEY]
        metrics = (await there.get("/metrics")).text
        assert f"{KEPT} 1.0" in metrics


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"version": 9}, "this is no plan that can be followed: the plan is of version 9"),
        ({"kept": [{"model": "m"}]}, "this is no plan that can be followed: digest is no text"),
        ({"until_s": "later"}, "this is no plan that can be followed: until_s is no number"),
    ],
)
async def test_what_is_no_plan_is_400_and_changes_nothing(change: dict[str, Any], says: str) -> None:
    async with operated() as there:
        answer = await there.post("/admin/plan", plan_as_json(plan_of(KEY)) | change)
        assert answer.status_code == 400
        assert answer.json()["error"]["message"].startswith(says)
        assert (await there.post("/admin/plan", [])).status_code == 400
        assert there.now.router.plans.plan is None


async def test_a_plan_that_is_too_late_is_409_with_a_sentence() -> None:
    async with operated() as there:
        answer = await there.post("/admin/plan", plan_as_json(plan_of(KEY, made_ago_s=1000.0)))
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (409, "plan_refused")
        assert error["message"].startswith("the plan has been over for 100 s")
        assert there.now.states() == []


# ---- which is in force


def test_the_plan_that_was_made_last_is_in_force_until_it_is_over() -> None:
    async def test(now: Routed) -> None:
        plans = now.router.plans
        first, second = plan_of(made_ago_s=50.0), plan_of(made_ago_s=20.0, for_s=100.0)
        plans.take(first)
        plans.take(second)
        plans.take(second)  # whoever told it may not have heard that we did
        with pytest.raises(PlanRefused, match="30 s before the one that is in force"):
            plans.take(first)
        assert plans.plan == second
        await asyncio.sleep(60.0)
        assert now.measured(AGE) == pytest.approx(80.0, abs=1.0)
        await asyncio.sleep(21.0)
        assert plans.plan is None
        assert plans.summary() is None
        assert math.isnan(now.measured(AGE))
        plans.take(first)
        assert plans.plan == first

    played(test)


def test_a_plan_of_a_clock_that_is_ahead_does_not_keep_all_others_out() -> None:
    async def test(now: Routed) -> None:
        with pytest.raises(PlanRefused, match="made 3600 s from now: the clock here, or there, is wrong"):
            now.router.plans.take(plan_of(made_ago_s=-3600.0))
        now.router.plans.take(plan_of(made_ago_s=-30.0))

    played(test)


# ---- what comes of it


def test_replicas_are_kept_while_the_plan_is_in_force_and_no_longer() -> None:
    async def test(now: Routed) -> None:
        plan = plan_of(KEY, for_s=600.0)
        now.router.plans.take(plan)
        assert await now.router.plans.know_kept(plan) == ()
        await until(lambda: now.states("m") == ["serving"])
        assert now.measured(KEPT) == 1.0
        await asyncio.sleep(500.0)
        assert now.states("m") == ["serving"]
        await asyncio.sleep(200.0)
        assert now.states("m") == []
        assert now.measured(KEPT) == 0.0

    played(test, catalog=[MODEL])


def test_what_is_not_published_as_planned_is_ignored_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def test(now: Routed) -> None:
        plan = plan_of(ModelKey("m", "another version"), ModelKey("gone", "x"), served("n").facts.key)
        now.router.plans.take(plan)
        ignored = await now.router.plans.know_kept(plan)
        reason = f"version another vers is planned for, and {KEY.digest[:12]} is published"
        assert ignored == (LeftOut("m", reason), LeftOut("gone", "gone is away"))
        await until(lambda: now.states("n") == ["serving"])
        assert now.states("m") == []
        await until(lambda: not now.router._tasks)

    played(test, catalog=[MODEL, served("n")])
    logged = [each.getMessage() for each in caplog.records if each.name == "serving.prewarming.plans"]
    assert logged[1:] == ["no replica of gone is kept, as the plan says: gone is away"]
    assert len(logged) == 2
