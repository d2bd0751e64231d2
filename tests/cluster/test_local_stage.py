"""A stage as its agent follows it, without a process."""

import asyncio
from types import SimpleNamespace

import pytest

from cluster.errors import StageFailed
from cluster.node.local_stage import LocalStage
from cluster.stage.pulse import SILENT_S
from cluster.wire.orders import FormStage
from cluster.wire.stages import Beat, Quiet

_DEADLINE_S = 30.0


def _stage(lost: list[str]) -> LocalStage:
    order = FormStage(
        group="g", model="m", rank=0, config_json="{}", dtype="float32", bounds=(0, 1), units=(),
        rendezvous_host="127.0.0.1", rendezvous_port=1, rendezvous_secret="s", reserve_bytes=1, kv_tokens=1,
        timeout_s=_DEADLINE_S, lease_s=_DEADLINE_S,
    )  # fmt: skip
    return LocalStage(order, "node", lambda _group, cause: lost.append(cause), lambda _name, _value: None)


async def test_a_process_is_missed_when_it_is_silent_and_not_while_it_said_that_it_would_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A vocabulary is made with the interpreter held: on a busy machine the beats stood still for longer than they may."""
    clock = SimpleNamespace(now_s=100.0, monotonic=lambda: clock.now_s)
    stage = _stage([])
    monkeypatch.setattr("cluster.node.local_stage.time", clock)
    monkeypatch.setattr(stage, "_process", SimpleNamespace(stopped_s=lambda: 0.0))
    stage.hear(Beat())
    clock.now_s += SILENT_S + 0.1
    assert stage.silent
    stage.hear(Quiet(5.0))
    stage.hear(Beat())
    clock.now_s += 5.0 + SILENT_S
    assert not stage.silent
    stage.hear(Quiet(0.0))
    clock.now_s += SILENT_S + 0.1
    assert stage.silent


async def test_whoever_waits_for_a_stage_hears_at_once_that_it_was_dissolved() -> None:
    """The order to form it was answered when its whole timeout was over."""
    lost: list[str] = []
    stage = _stage(lost)
    await stage.end()
    with pytest.raises(StageFailed, match="dissolved"):
        async with asyncio.timeout(_DEADLINE_S):
            await stage.formed
    stage.lose("its process ended")
    assert not lost, "nobody is told of a loss that was an order"
