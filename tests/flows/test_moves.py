"""Moves as Prefect sees them: runs of the flow service's own process, runs by hand, and records of what went on without."""

import os
import re
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest

from schedules.moving.plan import Kind
from tests.flows.front_end_double import FrontEndDouble
from tests.flows.real_service import MODEL, Components, PrefectApi, within

pytestmark = pytest.mark.timeout(300)

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(autouse=True)
def quiet(front_end: FrontEndDouble, flow_service: Components, prefect: PrefectApi) -> None:
    """The service listens, and nothing else that is scheduled takes cores."""
    within(60, prefect.scheduled_run("prewarm"))
    within(10, prefect.pause("prewarm"))
    front_end.listeners(1)


def test_an_order_is_carried_out_step_by_step_and_everything_stands_in_prefect(
    front_end: FrontEndDouble, prefect: PrefectApi
) -> None:
    move = front_end.order(Kind.CONSOLIDATE, "tiny/Llama-1.0")
    front_end.wait(move, "done")
    said = [what for name, what, _ in front_end.said if name == move]
    assert said == ["ordered", "go on from ordered", "preparing", "ready", "go on from ready", "done"]
    run = within(30, prefect.of_move(move, "ordered"))
    assert (run["name"], run["state_type"]) == ("consolidate tiny/Llama-1.0 -> node-2", "COMPLETED")
    assert run["parameters"] == {"model": "tiny/Llama-1.0", "node": "node-2", "move": move}
    steps = within(30, prefect.steps(run, least=4))
    assert list(steps) == ["plan", "prepare", "switch", "report"]
    assert set(steps.values()) == {"COMPLETED"}
    page = within(10, prefect.page("consolidate-tiny-llama-1-0", run))
    assert "Consolidate: **done**" in page
    assert "**Why:** tiny/Llama-1.0 answers slowly" in page
    assert "| shifted | 2 |" in page
    ordered, done = within(30, prefect.events(move, least=2))
    assert (ordered["event"], done["event"]) == ("firsttoken.move.ordered", "firsttoken.move.done")
    assert done["resource"]["prefect.resource.id"] == "firsttoken.model.tiny/Llama-1.0"
    assert {other["prefect.resource.id"] for other in done["related"]} == {
        "firsttoken.node.node-1",
        "firsttoken.node.node-2",
    }
    assert done["payload"]["requests"]["copied_bytes"] == 4096


def test_moves_go_on_side_by_side_and_one_that_a_person_cancels_is_given_up(
    front_end: FrontEndDouble, prefect: PrefectApi
) -> None:
    held = front_end.order(Kind.MIGRATE, "held")
    front_end.wait(held, "go on from ordered")
    other = front_end.order(Kind.DRAIN, "other", node="node-1")
    front_end.wait(other, "done")
    assert within(30, prefect.of_move(other))["name"] == "drain node-1"
    run = within(10, prefect.run_of(held))
    within(10, prefect.cancel(run["id"]))
    front_end.wait(held, "given up")
    assert front_end.moves[held]["why"] == "its flow run was cancelled"
    run = within(30, prefect.of_move(held))
    assert (run["name"], run["state_name"]) == ("migrate held -> node-2", "Cancelled")
    assert [event["event"] for event in within(30, prefect.events(held, least=2))][-1] == "firsttoken.move.given-up"


def test_a_move_that_the_front_end_gives_up_fails_its_run_with_the_reason(
    front_end: FrontEndDouble, prefect: PrefectApi
) -> None:
    move = front_end.order(Kind.CONSOLIDATE, "held-2")
    front_end.wait(move, "go on from ordered")
    front_end.give_up(move, "node-2 has left")
    run = within(30, prefect.of_move(move))
    assert run["state_type"] == "FAILED"
    assert run["state"]["message"].endswith("MoveGivenUp: node-2 has left")
    assert "**given up**" in within(10, prefect.page("consolidate-held-2", run))


def test_a_person_moves_a_replica_by_hand(front_end: FrontEndDouble, prefect: PrefectApi) -> None:
    run = within(60, prefect.run("migrate", {"model": "by-hand", "node": "node-2"}))
    assert (run["name"], run["state_type"]) == ("migrate by-hand -> node-2", "COMPLETED")
    assert "Migrate: **done**" in within(10, prefect.page("migrate-by-hand", run))
    (move,) = (move for move in front_end.moves.values() if move["handovers"][0]["model"] == "by-hand")
    assert move["carrier"] == "caller"


def test_what_the_front_end_refuses_fails_the_run_with_its_sentence(prefect: PrefectApi) -> None:
    run = within(60, prefect.run("consolidate", {"model": "nothing-runs"}))
    assert run["state_type"] == "FAILED"
    assert run["state"]["message"].endswith("Refused: nothing of 'nothing-runs' can be moved")


def test_a_run_by_hand_that_is_cancelled_gives_the_move_up(front_end: FrontEndDouble, prefect: PrefectApi) -> None:
    run = within(10, prefect.begin("consolidate", {"model": "held-by-hand"}))
    move = front_end.ordered("held-by-hand")
    front_end.wait(move, "go on from ordered")
    within(10, prefect.cancel(run["id"]))
    front_end.wait(move, "given up")
    assert within(30, prefect.over(run["id"]))["state_type"] == "CANCELLED"


def test_what_the_front_end_carries_out_alone_is_recorded_with_the_times_at_which_it_happened(
    front_end: FrontEndDouble, prefect: PrefectApi
) -> None:
    an_hour_ago_s = round(time.time()) - 3600.0
    start = {"model": "m", "nodes": ["node-1"], "arrived_at": an_hour_ago_s, "ttft_s": 0.5}
    front_end.tell({"notice": "cold_start", "cold_start": start})
    move = front_end.order(Kind.CONSOLIDATE, "alone", carrier="front end")
    front_end.alone(move)
    front_end.tell({"notice": "node", "node": "node-9", "what": "left"})
    run = within(30, prefect.of_move(move, "recorded"))
    assert run["state_type"] == "COMPLETED"
    assert set(within(30, prefect.steps(run, least=2))) == {"plan", "report"}
    page = within(10, prefect.page("consolidate-alone", run))
    assert "It was carried out by the front end until" in page
    (cold_start,) = within(30, prefect.events("firsttoken.cold-start", least=1))
    assert datetime.fromisoformat(cold_start["occurred"]).timestamp() == an_hour_ago_s + 0.5
    assert cold_start["resource"]["prefect.resource.id"] == "firsttoken.model.m"
    (left,) = within(30, prefect.events("firsttoken.node.left", least=1))
    assert left["resource"]["prefect.resource.id"] == "firsttoken.node.node-9"


def test_an_automation_as_the_documents_have_it_brings_what_was_called_cold_to_all_nodes(
    front_end: FrontEndDouble, prefect: PrefectApi
) -> None:
    (script,) = re.findall(
        r"```python\n(from prefect.automations.*?)```", (DOCS / "operating.md").read_text(), re.DOTALL
    )
    environment = {"PREFECT_API_URL": prefect.url, "PREFECT_API_AUTH_STRING": ":".join(prefect.auth)}
    made = subprocess.run([sys.executable, "-c", script], env=os.environ | environment, capture_output=True, timeout=60)
    assert made.returncode == 0, made.stderr.decode()
    start = {"model": MODEL, "nodes": ["node-1"], "arrived_at": time.time() - 1, "ttft_s": 0.5}
    front_end.tell({"notice": "cold_start", "cold_start": start})
    run = within(60, prefect.by_automation("bring"))
    assert run["parameters"] == {"models": [MODEL], "tier": "ssd"}
    assert run["state_type"] == "COMPLETED", run["state"]
