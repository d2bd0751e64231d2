"""A stage as its agent follows it, without a process."""

import asyncio

import pytest

from cluster.errors import StageFailed
from cluster.node.local_stage import LocalStage
from cluster.wire.orders import FormStage

_DEADLINE_S = 30.0


async def test_whoever_waits_for_a_stage_hears_at_once_that_it_was_dissolved() -> None:
    """The order to form it was answered when its whole timeout was over."""
    order = FormStage(
        group="g", model="m", rank=0, config_json="{}", dtype="float32", bounds=(0, 1), units=(),
        rendezvous_host="127.0.0.1", rendezvous_port=1, rendezvous_secret="s", reserve_bytes=1, kv_tokens=1,
        timeout_s=_DEADLINE_S, lease_s=_DEADLINE_S,
    )  # fmt: skip
    lost: list[str] = []
    stage = LocalStage(order, "node", lambda _group, cause: lost.append(cause), lambda _name, _value: None)
    await stage.end()
    with pytest.raises(StageFailed, match="dissolved"):
        async with asyncio.timeout(_DEADLINE_S):
            await stage.formed
    stage.lose("its process ended")
    assert not lost, "nobody is told of a loss that was an order"
