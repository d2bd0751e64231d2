"""Whether a first stage begins with rows of an embedding that is in its node's memory already."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.node.exchange import UnitExchange
from cluster.node.row_service import RowService
from cluster.wire.orders import FormStage
from storage_tiers.checkpoint import EMBED, UnitIndex
from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore
from storage_tiers.publishing.publish import publish
from storage_tiers.tiers.rows import embedding_of
from tests.storage_tiers.stack_node import Gate, Node
from tests.tiny import make_tiny


class _Embedding:
    """A node that has a tiny model's embedding in dram."""

    def __init__(self, folder: Path) -> None:
        store = ModelStore(ObjectStore(str(folder / "store")))
        make_tiny("llama", folder / "llama")
        checkpoint = publish(str(folder / "llama"), "model", store)
        self.unit: UnitIndex = checkpoint.unit(EMBED)
        gate = Gate()
        gate.open()
        self.node = Node(store, folder / "ssd", gate)
        self.peers = UnitExchange(self.node.dram, self.node.ssd, "127.0.0.1", taking_part=False)
        self.order = FormStage(
            group="g", model="model", rank=0, config_json='{"model_type": "llama"}', dtype="float32", bounds=(0, 1),
            units=(self.unit,), rendezvous_host="127.0.0.1", rendezvous_port=1, rendezvous_secret="s",
            reserve_bytes=1000, kv_tokens=1, timeout_s=10.0, lease_s=10.0,
        )  # fmt: skip
        segment = self.node.dram.reserve(self.unit.digest, self.unit.size_bytes)
        store_bytes = bytes(index % 251 for index in range(self.unit.size_bytes))
        at = 0
        for view in segment.views():
            view[:] = store_bytes[at : at + len(view)].ljust(len(view), b"\0")
            at += len(view)
        self.node.dram.commit(self.unit.digest)
        self.node.dram.release(self.unit.digest)
        matrix = embedding_of(self.unit, "llama")
        assert matrix is not None
        row_bytes = matrix.size_bytes // matrix.shape[0]
        self.rows = [store_bytes[matrix.offset_bytes + row * row_bytes :][:row_bytes] for row in (5, 2)]


@pytest.fixture
def embedding(tmp_path: Path) -> Iterator[_Embedding]:
    made = _Embedding(tmp_path)
    yield made
    made.peers.close()


async def test_a_stage_that_copies_its_units_begins_with_rows_from_memory(embedding: _Embedding) -> None:
    service = RowService(embedding.node.stack, embedding.peers, copy=True)
    assert await service.read(embedding.order, (5, 2)) == b"".join(embedding.rows)
    assert embedding.node.dram.pins(embedding.unit.digest) == 0
    service.close()


async def test_a_stage_that_uses_them_in_place_waits_for_the_unit(embedding: _Embedding) -> None:
    service = RowService(embedding.node.stack, embedding.peers)
    assert await service.read(embedding.order, (5, 2)) is None
    service.close()


async def test_no_stage_but_the_first_begins_with_rows(embedding: _Embedding) -> None:
    service = RowService(embedding.node.stack, embedding.peers, copy=True)
    assert await service.read(replace(embedding.order, rank=1), (5, 2)) is None
    service.close()
