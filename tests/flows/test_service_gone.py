"""When the flow service or Prefect's server is gone. Behind the other files that share them, for whom it leaves nothing."""

import os
import signal

import pytest

from firsttoken import ready
from firsttoken.home import FLOWS_READY_FILE
from firsttoken.settings import Settings
from schedules.moving.plan import Kind
from tests.flows.front_end_double import FrontEndDouble
from tests.flows.real_service import Components, PrefectApi, within

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(autouse=True)
def listening(front_end: FrontEndDouble, flow_service: Components) -> None:
    """The service listens to the front end."""
    front_end.listeners(1)


def test_a_service_that_is_killed_leaves_the_move_to_the_front_end_and_the_next_records_it(
    settings: Settings, front_end: FrontEndDouble, flow_service: Components, prefect: PrefectApi
) -> None:
    move = front_end.order(Kind.CONSOLIDATE, "held-3")
    front_end.wait(move, "go on from ordered")
    before = within(10, prefect.run_of(move))
    service = flow_service.processes.pop("flows")
    os.killpg(service.pid, signal.SIGKILL)
    service.wait(10)
    front_end.listeners(0)
    front_end.alone(move)
    flow_service.start("flows")
    assert within(90, prefect.of_move(move, "recorded"))["state_type"] == "COMPLETED"
    assert within(30, prefect.over(before["id"]))["state_type"] == "CRASHED"
    within(90, ready.file_there(settings.run_dir / FLOWS_READY_FILE))


def test_while_prefect_is_away_nothing_waits_for_it_and_all_is_recorded_when_it_is_back(
    front_end: FrontEndDouble, flow_service: Components, prefect: PrefectApi
) -> None:
    begun = front_end.order(Kind.CONSOLIDATE, "held-4")
    front_end.wait(begun, "go on from ordered")
    within(10, prefect.run_of(begun))
    flow_service.stop("prefect")
    front_end.release(begun)
    front_end.wait(begun, "done")
    unheard = front_end.order(Kind.CONSOLIDATE, "while-away")
    front_end.alone(unheard)
    assert not any(what.startswith("go on") for name, what, _ in front_end.said if name == unheard)
    front_end.listeners(1)
    flow_service.start("prefect")
    within(60, ready.http_ok(f"{prefect.url}/health"))
    run = within(90, prefect.of_move(unheard))
    assert run["state_type"] == "COMPLETED"
    assert "It was carried out by the front end until" in within(10, prefect.page("consolidate-while-away", run))
    assert "COMPLETED" in within(90, prefect.ends_of(begun))
    told = [event["event"] for event in within(60, prefect.events(unheard, least=2))]
    assert told == ["firsttoken.move.ordered", "firsttoken.move.done"]


def test_the_service_outlives_an_absence_of_prefect(flow_service: Components, prefect: PrefectApi) -> None:
    flow_service.stop("prefect")
    flow_service.start("prefect")
    within(60, ready.http_ok(f"{prefect.url}/health"))
    run = within(90, prefect.run("prewarm", {"models": []}))
    assert run["state_type"] == "COMPLETED"
    assert flow_service.processes["flows"].poll() is None


def test_the_service_ends_quickly_though_prefect_is_gone(flow_service: Components, prefect: PrefectApi) -> None:
    """Last of all. Nothing is left for the supervisor to kill."""
    flow_service.stop("prefect")
    assert flow_service.stop("flows") == 0
