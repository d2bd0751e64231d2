"""Stagings that come to nothing before anybody is asked to bring them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from cluster.errors import NodeLost, Refused
from flows.context import FlowContext
from flows.foreseeing.carry import Carried
from flows.prewarming.bringing import may_be_mended, stage_all
from schedules.facts import ModelKey
from schedules.foresight.plan import Plan, Staging
from storage_tiers.errors import Missing, StoreUnavailable
from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore
from storage_tiers.publishing.publish import publish
from tests.tiny import make_tiny


@dataclass(frozen=True)
class Context:
    """Where the store is, and nothing else."""

    models: ModelStore

    def store(self) -> ModelStore:
        return self.models


def staging(model: str, node: str = "node-1") -> Staging:
    return Staging(node, ModelKey(model, "an older digest"), ("embed",), "dram", 100, "remote", 9.0, 1.0, "why")


async def test_a_model_that_is_gone_fails_and_one_that_was_published_anew_is_left_to_the_next_plan(
    tmp_path: Path,
) -> None:
    store = ModelStore(ObjectStore((tmp_path / "store").as_uri()))
    publish(str(make_tiny("gpt2", tmp_path / "source", num_hidden_layers=1)), "anew", store)
    plan = Plan(0.0, 9e9, (staging("gone"), staging("anew"), staging("gone", "node-2")), {}, {}, (), {})
    carried, shown = list[Carried](), list[float]()
    context = cast(FlowContext, Context(store))
    await stage_all(
        context, cast(Any, None), plan, ["node-1"], lambda share, _words: shown.append(share), carried.append
    )
    gone, anew = carried
    assert (gone.staging, gone.failed) == (plan.stagings[0], True)
    assert gone.why.startswith("no model 'gone'")
    assert (anew.why, anew.failed) == ("another version of anew was published meanwhile", False)
    assert shown == [0.5, 1.0]


def test_what_a_node_or_the_store_could_not_do_is_tried_again_and_what_stays_so_is_not() -> None:
    @dataclass(frozen=True)
    class Failed:
        data: Exception

    def again(error: Exception) -> bool:
        return may_be_mended(cast(Any, None), cast(Any, None), cast(Any, Failed(error)))

    assert all(map(again, (NodeLost("gone"), StoreUnavailable("away"), OSError("broken"))))
    assert not any(map(again, (Missing("no model"), Refused("no room"), TimeoutError("over"), ValueError("no unit"))))
