"""What a cold start was predicted to take, and what it took, as it is kept."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.errors import NodeLost
from cluster.wire.phases import unix_s
from cluster.wire.reports import Phase
from schedules.actions import Record
from schedules.events import Event, StartMeasured
from schedules.facts import Placement, View
from schedules.placing.decision import Decision
from schedules.placing.policies import POLICIES
from serving.cold_start import ColdStart, Ledger
from serving.metrics import Metrics
from serving.recording import Recorder, predicted_of
from tests.schedules.models import model_of, node_of, question_of, rates_of


def _decided() -> Decision:
    node = replace(node_of("a", 1000), rates=rates_of())
    return POLICIES["planned"].decide(question_of(model_of([10] * 4), View((node,))))


@pytest.mark.parametrize(("text_s", "waits"), [(0.0, False), (0.1, False), (60.0, True)])
def test_a_first_token_is_not_predicted_before_its_prompt_is_known(text_s: float, waits: bool) -> None:
    decision = _decided()
    found = predicted_of(decision, text_s)
    chosen = decision.chosen
    assert found is not None
    assert chosen is not None
    assert chosen.prediction is not None
    assert ("tokenise" in found["parts"]) == waits
    least_s = text_s + chosen.prediction.parts["compute"]
    assert found["ttft_s"] == pytest.approx(least_s if waits else chosen.prediction.ttft_s)
    assert found["ttft_bad_s"] >= found["ttft_s"]


def test_how_long_a_group_took_to_be_ready_is_read_from_its_phases() -> None:
    phases = (
        Phase("take process", "node-0", 100.2, 100.3),
        Phase("take process", "node-1", 100.1, 100.3),
        Phase("fetch head", "node-1 from ssd", 100.2, 100.7),
        Phase("fetch embed", "node-0 from dram", 102.0, 103.0),
        Phase("build skeleton", "stage 0", 100.4, 100.5),
        Phase("build skeleton", "stage 1", 100.4, 100.6),
    )
    start = ColdStart("m", "g", ("node-0", "node-1"), 100.0, 1.0, phases)
    assert start.formed_s == pytest.approx(0.5)
    assert start.fetched_s == pytest.approx(0.7), "what came after the first token was not waited for"
    assert replace(start, phases=()).formed_s == 0.0


class _Client:
    """Its nodes tell `phases`, or raise it."""

    def __init__(self, phases: Sequence[Phase] | Exception) -> None:
        self._phases = phases

    async def phases(self, _group: object) -> Sequence[Phase]:
        if isinstance(self._phases, Exception):
            raise self._phases
        return self._phases


async def _recorded(
    client: _Client | None, waited_s: float = 0.0, after_s: float = 0.5
) -> tuple[list[ColdStart], list[Event]]:
    """A start that was wanted `after_s` after its request came, and decided `waited_s` after that: what is in the ledger, and
    what was told."""
    told: list[Event] = []
    ledger, decision, now_s = Ledger(), _decided(), asyncio.get_running_loop().time()
    recorder = Recorder(lambda: client, Metrics(), ledger, told.append)  # type: ignore[arg-type, return-value]
    placement = decision.outcome
    assert isinstance(placement, Placement)
    key, arrived_s, wanted_s = model_of([10] * 4).key, now_s - 9.0, now_s - 9.0 + after_s
    recorder.ordered("g")
    action = Record("g", key, placement, decision, arrived_s, wanted_s, wanted_s + waited_s, 9.0, 0.0)
    recorder.record(action, SimpleNamespace(name="g"))  # type: ignore[arg-type]
    assert ledger.latest(None, 9) == []
    await recorder.settle()
    return list(ledger.latest(None, 9)), told


async def test_a_start_is_kept_with_what_the_front_end_and_the_nodes_did() -> None:
    at_s = unix_s(asyncio.get_running_loop().time())
    taken = Phase("take process", "a", at_s - 2.0, at_s - 1.9)
    built = Phase("build skeleton", "stage 0", at_s - 1.8, at_s - 1.5)
    ((start,), told) = await _recorded(_Client([built, taken]), waited_s=3.0)
    assert [phase.name for phase in start.phases] == [
        "receive and tokenise", "wait for room", "decide", "take process", "build skeleton",
    ]  # fmt: skip
    shown: dict[str, Any] = {phase["name"]: phase for phase in start.as_json()["phases"]}
    assert shown["receive and tokenise"]["end_s"] == pytest.approx(0.5, abs=0.05)
    assert shown["wait for room"]["end_s"] == pytest.approx(3.5, abs=0.05)
    assert shown["decide"]["end_s"] == pytest.approx(9.0, abs=0.05)
    assert (start.model, start.group, start.nodes, start.ttft_s) == ("model", "g", ("a",), 9.0)
    (measured,) = told
    assert isinstance(measured, StartMeasured)
    assert measured.formed_s == pytest.approx(0.5)
    assert measured.sound


async def test_a_start_that_did_not_stand_back_did_not_wait() -> None:
    ((start,), _) = await _recorded(_Client(()))
    assert [phase.name for phase in start.phases] == ["receive and tokenise", "decide"]


async def test_who_comes_to_a_start_that_was_wanted_before_was_received_in_no_time() -> None:
    """Another request had asked for it, and left: the first phase ended before it began."""
    ((start,), _) = await _recorded(_Client(()), after_s=-2.0)
    assert all(phase.start_s <= phase.end_s for phase in start.phases)


@pytest.mark.parametrize("client", [None, _Client(NodeLost("away"))])
async def test_a_start_is_kept_also_if_nobody_tells_of_it(client: _Client | None) -> None:
    ((start,), told) = await _recorded(client)
    assert [phase.where for phase in start.phases] == ["front end", "front end"]
    assert len(told) == 1


async def test_a_start_that_cannot_be_kept_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        assert await _recorded(_Client(ValueError("odd"))) == ([], [])
    assert "could not be recorded" in caplog.text


def test_clocks_that_disagree_are_told_of() -> None:
    phases = (Phase("fetch head", "a", 90.0, 95.0),)
    assert not ColdStart("m", "g", ("a",), 100.0, 1.0, phases).one_clock
