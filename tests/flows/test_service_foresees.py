"""What is forecast is staged, what nobody will ask for is dropped, and what was forecast is judged: with a front end that was
really asked, a real Prefect server, and nodes that say themselves what they hold. Behind the other files that share those: it
leaves the nodes empty, and the schedule paused."""

import asyncio
import json
import re
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import DeploymentSchedule
from prefect.client.schemas.schedules import CronSchedule
from prefect.runner import Runner
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from prefect.types.entrypoint import EntrypointType

from cluster.client import ClusterClient
from firsttoken import ready
from firsttoken.components import FLOW_CONTEXT_FILE
from firsttoken.operator_key import operator_key
from firsttoken.settings import Settings, write_settings
from flows.calibrate import calibrate
from flows.prewarming.chosen import BUDGETS
from flows.prewarming.reaping import NOT_PUBLISHED
from flows.registering import DEPLOYMENT, register
from schedules.facts import View
from schedules.foresight.cadence import Cadence
from storage_tiers.checkpoint import Checkpoint
from storage_tiers.model_store import ModelStore
from storage_tiers.publishing.collect import remove_model
from storage_tiers.publishing.publish import publish
from tests.flows.real_service import AUTH, NODES, Components, PrefectApi, own_settings, started, within
from tests.tiny import make_tiny

pytestmark = pytest.mark.timeout(300)

CALLED, NEVER = ("called/a", "called/b", "called/c"), "never"
SLOW_BYTES_PER_S = 500_000.0
"""What nodes are told that the store gives them, so that a model of half a megabyte is worth bringing ahead."""


@dataclass
class Platform:
    """The front end, the models, and what nodes and ledgers say."""

    url: str
    scheduler_address: str
    checkpoints: dict[str, Checkpoint]

    def call(self, model: str) -> None:
        """Ask a model for two tokens."""
        body = {"model": model, "prompt": [3, 5, 7], "max_tokens": 2}
        httpx.post(f"{self.url}/v1/completions", json=body, timeout=60, trust_env=False).raise_for_status()

    def get(self, path: str) -> Any:
        """What the front end says there."""
        return httpx.get(self.url + path, timeout=30, trust_env=False).raise_for_status().json()

    def sources(self, model: str) -> set[str]:
        """Whence the units of the model's latest cold start came, by its ledger."""
        (start,) = self.get(f"/admin/cold-starts?model={model}&limit=1")["cold_starts"]
        return {
            phase["where"].rpartition(" from ")[2] for phase in start["phases"] if phase["name"].startswith("fetch ")
        }

    def starts(self, model: str) -> int:
        """How many there were."""
        return len(self.get(f"/admin/cold-starts?model={model}&limit=256")["cold_starts"])

    def until_idle(self) -> None:
        """Wait until no replica is left."""
        deadline_s = time.monotonic() + 30
        while self.get("/admin/status")["replicas"]:
            assert time.monotonic() < deadline_s, "replicas stay"
            time.sleep(0.2)

    def tiers(self, view: View, model: str) -> set[str]:
        """In which tiers nodes hold units of the model, all nodes together."""
        digests = {unit.digest for unit in self.checkpoints[model].units}
        return {tier for node in view.nodes for digest, tier in node.units.items() if digest in digests}

    def whole(self, view: View, model: str) -> bool:
        """Whether some node has all of it."""
        digests = {unit.digest for unit in self.checkpoints[model].units}
        return any(digests <= node.units.keys() for node in view.nodes)

    def view(self) -> View:
        """What nodes hold, as they say now."""

        async def asked() -> View:
            async with ClusterClient(self.scheduler_address) as client:
                await client.nodes(len(NODES), 30)
                return await client.refresh()

        return within(60, asked())

    def empty(self, store_bytes_per_s: float | None) -> None:
        """Nodes hold nothing, and think so of the store."""

        async def done() -> None:
            async with ClusterClient(self.scheduler_address) as client:
                await client.nodes(len(NODES), 30)
                for _ in range(50):  # what is just being written to ssd stays for that
                    for node in (await client.refresh()).nodes:
                        await client.drop(node.name, list(node.units))
                        await client.limit_store(node.name, store_bytes_per_s)
                    if not any(node.units for node in (await client.refresh()).nodes):
                        return
                    await asyncio.sleep(0.2)
                raise TimeoutError("nodes do not let go")

        within(60, done())


@pytest.fixture(scope="module")
def platform(
    settings: Settings, flow_service: Components, store: ModelStore, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Platform]:
    """A real front end that runs of flows find in the place of the double; models that were called twice, and nodes that
    hold nothing since. Nothing is scheduled."""
    prefect = PrefectApi(settings.prefect.api_url, AUTH)
    within(60, prefect.scheduled_run("prewarm"))
    within(10, prefect.pause("prewarm"))
    checkpoints = {}
    for seed, name in enumerate((*CALLED, NEVER), 11):
        source = make_tiny("llama", tmp_path_factory.mktemp("model"), seed=seed)
        checkpoints[name] = publish(str(source), name, store)
    own = own_settings(tmp_path_factory.mktemp("front-end"), FIRSTTOKEN_FRONTEND__KEEP_ALIVE_S="1")
    own = own.model_copy(update={"store": settings.store, "cluster": settings.cluster})
    write_settings(own, own.run_dir / "settings.json")
    context = settings.run_dir / FLOW_CONTEXT_FILE
    before = context.read_text()
    with started(own) as components:
        components.start("frontend")
        within(60, ready.http_ok(f"{own.frontend_url}/healthz"))
        context.write_text(
            json.dumps(json.loads(before) | {"front_end_url": own.frontend_url, "operator_key": operator_key(own)})
        )
        found = Platform(own.frontend_url, settings.scheduler_address, checkpoints)
        try:
            for _ in range(2):
                for name in CALLED:
                    found.call(name)
            found.until_idle()
            found.empty(SLOW_BYTES_PER_S)
            yield found
        finally:
            context.write_text(before)
            found.empty(None)


@pytest.fixture
def little_dram(settings: Settings, platform: Platform, prefect: PrefectApi) -> Iterator[None]:
    """Plans may fill a node's dram with one of the models, and have no replicas; by a variable of Prefect's."""
    share = platform.checkpoints[CALLED[0]].size_bytes * 1.5 / settings.node.dram_bytes
    within(10, prefect.set_variable(BUDGETS, {"dram_share": share, "device_share": 0}))
    yield
    within(10, prefect.set_variable(BUDGETS, None))


def test_the_schedule_fires_and_what_was_called_is_in_dram_and_on_ssd_where_the_next_request_finds_it(
    platform: Platform, prefect: PrefectApi, little_dram: None
) -> None:
    """The schedule is one that a person has just put in place of that of settings, and a paused deployment is resumed."""
    soon = datetime.now(UTC) + timedelta(seconds=6)
    every_minute = {"interval": 60, "anchor_date": soon.isoformat(), "timezone": "UTC"}
    within(10, prefect.edit_schedule("prewarm", every_minute))
    within(10, prefect.resume("prewarm"))
    run = within(90, prefect.next_scheduled_run("prewarm", (soon - timedelta(seconds=1)).isoformat()))
    within(10, prefect.pause("prewarm"))
    assert run["state_type"] == "COMPLETED", run["state"]
    rows = within(10, prefect.table("prewarm-plan", run))
    assert {row["model"] for row in rows} == set(CALLED)
    assert {row["tier"] for row in rows} == {"dram", "ssd"}
    assert {row["outcome"] for row in rows} == {"brought"}
    assert all("is called with a probability of" in row["reason"] for row in rows)
    told = platform.get("/admin/plan")
    assert {(each["model"], each["tier"]) for each in told["stagings"]} == {(row["model"], row["tier"]) for row in rows}
    view = platform.view()
    tiers = {name: platform.tiers(view, name) for name in (*CALLED, NEVER)}
    assert tiers.pop(NEVER) == set()
    assert {"dram", "ssd"} <= set().union(*tiers.values())
    sources = set[str]()
    for name in tiers:
        assert platform.whole(view, name)
        starts = platform.starts(name)
        platform.call(name)
        assert platform.starts(name) == starts + 1
        sources |= platform.sources(name)
    assert "dram" in sources
    assert not any("remote" in source for source in sources)


def test_a_dry_run_tells_what_it_would_do_and_where_cold_starts_found_their_units(
    platform: Platform, prefect: PrefectApi, little_dram: None
) -> None:
    platform.call(CALLED[0])
    platform.until_idle()
    platform.empty(SLOW_BYTES_PER_S)
    in_force = platform.get("/admin/plan")
    run = within(90, prefect.run("prewarm", {"dry_run": True, "horizon": "30min"}))
    assert run["state_type"] == "COMPLETED", run["state"]
    rows = within(10, prefect.table("prewarm-plan", run))
    assert rows
    assert {row["outcome"] for row in rows} == {"planned"}
    assert platform.get("/admin/plan") == in_force
    assert not any(node.units for node in platform.view().nodes)
    page = within(10, prefect.page("prewarm-forecast", run)).replace("\u00a0", " ")
    for said in ("A dry run", "data:image/svg+xml;base64,", "called within 30 min"):
        assert said in page
    assert re.search(r"\| called/a \| [12] \| ", page)
    assert "- Horizon: 30 min, by the run's parameter." in page
    assert "device\\_share by the Prefect variable" in page


def test_of_two_runs_at_once_one_is_cancelled_and_says_so_and_a_bad_parameter_is_a_sentence(
    platform: Platform, prefect: PrefectApi
) -> None:
    first = within(10, prefect.begin("prewarm", {"horizon": "soon"}))
    second = within(10, prefect.begin("prewarm", {"horizon": "soon"}))
    both = [within(60, prefect.over(run["id"])) for run in (first, second)]
    states = {run["state_type"]: run["state"]["message"] for run in both}
    assert states.keys() == {"FAILED", "CANCELLED"}
    assert states["CANCELLED"] == "Deployment concurrency limit reached."
    assert states["FAILED"].endswith("Unclear: the horizon: 'soon' is no time: 50ms, 2s, 15min, 2h and 14d are")
    with pytest.raises(httpx.HTTPStatusError, match="409"):
        within(10, prefect.begin("prewarm", {"tier": "tape"}))


def test_what_nobody_will_ask_for_is_reaped_and_what_may_be_asked_for_stays(
    platform: Platform, prefect: PrefectApi, store: ModelStore
) -> None:
    within(90, prefect.run("bring", {"models": [CALLED[0], NEVER], "tier": "dram", "nodes": ["node-1"]}))
    dry = within(60, prefect.run("reap", {"fuller_than": 0, "dry_run": True}))
    (row,) = within(10, prefect.table("reap-dropped", dry))
    size_bytes = platform.checkpoints[NEVER].size_bytes
    assert (row["node"], row["model"], row["bytes"], row["outcome"]) == ("node-1", NEVER, size_bytes, "dry run")
    assert platform.whole(platform.view(), NEVER)
    remove_model(store, NEVER)
    run = within(60, prefect.run("reap", {}))
    assert run["state_type"] == "COMPLETED", run["state"]
    (row,) = within(10, prefect.table("reap-dropped", run))
    assert (row["model"], row["reason"]) == (NOT_PUBLISHED, "no model that is published has these units")
    view = platform.view()
    assert (platform.whole(view, CALLED[0]), platform.tiers(view, NEVER)) == (True, set())
    assert "Replicas are not ended by this flow" in within(10, prefect.page("reap-summary", run))


def test_what_was_forecast_is_judged_and_what_came_is_played_again(platform: Platform, prefect: PrefectApi) -> None:
    run = within(120, prefect.run("backtest", {"window": "10min", "horizon": "1min", "methods": "keep-alive, tsb"}))
    assert run["state_type"] == "COMPLETED", run["state"]
    rows = within(10, prefect.table("backtest-methods", run))
    assert {(row["model"], row["method"]) for row in rows} == {
        (name, by) for name in CALLED for by in ("keep-alive", "tsb")
    }
    page = within(10, prefect.page("backtest-summary", run))
    for said in ("| reactive (LRU) |", "| prewarmed |", "| oracle |", "The cheapest method by model"):
        assert said in page
    assert page.count("data:image/svg+xml;base64,") == 2


def test_what_a_person_has_set_in_prefect_survives_a_new_registration_until_settings_change(
    prefect: PrefectApi,
) -> None:
    """A restart of the service made every schedule anew, and went on with what had been paused."""

    async def registered(cadence: Cadence) -> dict[str, Any]:
        async with get_client() as client:
            await register(Runner(name="again", pause_on_shutdown=False), client, calibrate, cadence, {})
        return await prefect.deployment("calibrate")

    async def told() -> None:
        daily, hourly = Cadence("calibrate", 86400.0), Cadence("calibrate", 3600.0)
        before = await registered(daily)
        await prefect.edit_schedule("calibrate", {"cron": "5 4 * * *", "timezone": "UTC"})
        await prefect.pause("calibrate")
        after = await registered(daily)
        assert after["schedules"][0]["schedule"]["cron"] == "5 4 * * *"
        assert (before["paused"], after["paused"]) == (False, True)
        (changed,) = (await registered(hourly))["schedules"]
        assert changed["schedule"]["interval"] == 3600.0
        assert (await registered(Cadence("calibrate")))["schedules"] == []
        (back,) = (await registered(daily))["schedules"]
        assert back["schedule"]["interval"] == 86400.0
        await prefect.resume("calibrate")

    with _prefect_at(prefect):
        within(60, told())


def test_schedules_that_a_person_put_in_place_stay_and_those_of_versions_before_do_not(prefect: PrefectApi) -> None:
    """Versions that tagged nothing made the schedule anew at every start: one that they left is no person's."""

    async def told() -> None:
        before = await calibrate.ato_deployment(DEPLOYMENT, interval=7.0, entrypoint_type=EntrypointType.MODULE_PATH)
        async with get_client() as client:
            deployment = await client.read_deployment_by_name(f"calibrate/{DEPLOYMENT}")
            for schedule in deployment.schedules:
                await client.delete_deployment_schedule(deployment.id, schedule.id)
            await before.aapply()

            async def registered(cadence: Cadence) -> list[DeploymentSchedule]:
                await register(Runner(name="again", pause_on_shutdown=False), client, calibrate, cadence, {})
                return (await client.read_deployment_by_name(f"calibrate/{DEPLOYMENT}")).schedules

            (ours,) = await registered(Cadence("calibrate", 86400.0))
            assert ours.slug == "settings-every-86400-s"
            await client.create_deployment_schedules(deployment.id, [(CronSchedule(cron="1 1 1 1 *"), True)])
            await client.delete_deployment_schedule(deployment.id, ours.id)
            (persons,) = await registered(Cadence("calibrate", 3600.0))
            assert isinstance(persons.schedule, CronSchedule)
            await client.delete_deployment_schedule(deployment.id, persons.id)
            (back,) = await registered(Cadence("calibrate", 86400.0))
            assert back.slug == ours.slug

    with _prefect_at(prefect):
        within(60, told())


def _prefect_at(prefect: PrefectApi) -> AbstractContextManager[object]:
    """Prefect's client in this process speaks to the server."""
    return temporary_settings({PREFECT_API_URL: prefect.url, PREFECT_API_AUTH_STRING: ":".join(AUTH)})


def test_deployments_have_tags_a_version_and_room_for_one_run_where_that_matters(prefect: PrefectApi) -> None:
    prewarm, bring = (within(10, prefect.deployment(flow)) for flow in ("prewarm", "bring"))
    assert prewarm["tags"] == ["firsttoken", "foresight"]
    assert prewarm["version"] == bring["version"] != ""
    assert prewarm["global_concurrency_limit"]["limit"] == 1
    assert prewarm["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"
    assert bring["global_concurrency_limit"] is None
