"""Versions of a model as the router keeps them apart: by their weights."""

from dataclasses import replace
from pathlib import Path

from cluster.model_facts import facts_of
from serving.catalog import ServedModel
from serving.cold_start import Ledger
from serving.metrics import Metrics
from serving.router import Router, RouterLimits
from storage_tiers.checkpoint import Checkpoint
from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore
from storage_tiers.publishing.publish import publish
from tests.tiny import make_tiny
from tests.told import objectives_of


def described(checkpoint: Checkpoint, opened: int) -> ServedModel:
    return ServedModel(checkpoint, facts_of(checkpoint), None, 512, (), opened)


def test_a_version_is_known_by_its_weights_and_read_where_they_lie_now(tmp_path: Path) -> None:
    """Published again, the same weights lie below another version's name, and the first may be collected; and who asked
    before other weights were published under the name goes on with those that he asked."""
    store = ModelStore(ObjectStore(f"file://{tmp_path / 'store'}"))
    first = described(publish(str(make_tiny("llama", tmp_path / "one", num_hidden_layers=1)), "tiny", store), 1)
    again = described(publish(str(make_tiny("llama", tmp_path / "same", num_hidden_layers=1)), "tiny", store), 2)
    other = described(
        publish(str(make_tiny("llama", tmp_path / "other", num_hidden_layers=1, seed=5)), "tiny", store), 3
    )
    assert first.checkpoint.version != again.checkpoint.version
    assert first.checkpoint.digest == again.checkpoint.digest != other.checkpoint.digest
    router = Router(lambda: None, RouterLimits("planned", objectives_of(), 1.0, 1, 1, {}), Metrics(), Ledger())
    old = router._service(first)
    assert router._service(again) is old
    assert old.model is again
    assert router._service(replace(first)) is old
    assert old.model is again
    assert router._service(other).model is other
    assert router._service(again).model is again
