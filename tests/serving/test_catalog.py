"""Opening models: what is known of one before its tokenizer is there."""

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models

from serving.catalog import Catalog
from serving.errors import ModelNotFound, Unavailable
from serving.prompts.processes import TextProcesses
from storage_tiers.checkpoint import Checkpoint
from storage_tiers.publish import publish
from storage_tiers.remote import ModelStore, ObjectStore
from tests.tiny import make_tiny


class SlowCatalog(Catalog):
    """Reads no tokenizer until it may."""

    def __init__(self, store: ModelStore, texts: TextProcesses) -> None:
        super().__init__(store, texts)
        self.may_read = threading.Event()

    def _read_files(self, checkpoint: Checkpoint) -> dict[str, bytes]:
        assert self.may_read.wait(60)
        return super()._read_files(checkpoint)


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    found = ModelStore(ObjectStore(f"file://{tmp_path / 'store'}"))
    source = make_tiny("llama", tmp_path / "source")
    Tokenizer(models.BPE(vocab={"a": 0, "b": 1}, merges=[])).save(str(source / "tokenizer.json"))
    (source / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    publish(str(source), "tiny", found)
    return found


@pytest.fixture
async def texts() -> AsyncIterator[TextProcesses]:
    texts = TextProcesses(timeout_s=10.0)
    await texts.start()
    yield texts
    await texts.close()


async def test_a_model_is_found_before_its_tokenizer_is_read(store: ModelStore, texts: TextProcesses) -> None:
    catalog = SlowCatalog(store, texts)
    whole = asyncio.ensure_future(catalog.get("tiny"))
    bare, ready = await asyncio.wait_for(catalog.find("tiny"), 60)
    assert (ready, bare.text, whole.done()) == (False, None, False)
    catalog.may_read.set()
    model = await whole
    assert model.text is not None
    assert (model.checkpoint, model.facts, model.opened) == (bare.checkpoint, bare.facts, bare.opened)
    assert await catalog.find("tiny") == (model, True)


async def test_what_is_not_published_is_not_found_either_way(store: ModelStore, texts: TextProcesses) -> None:
    catalog = Catalog(store, texts)
    for look in (catalog.find, catalog.get):
        with pytest.raises(ModelNotFound, match="absent"):
            await look("absent")
    assert (await catalog.find("tiny"))[0].name == "tiny"


async def test_a_tokenizer_that_cannot_be_read_is_told_to_who_waits_for_it(
    store: ModelStore, texts: TextProcesses, tmp_path: Path
) -> None:
    checkpoint = store.open("tiny")
    (tmp_path / "store" / store.unit_key("tiny", checkpoint.files[0])).unlink()
    catalog = Catalog(store, texts)
    bare, _ = await catalog.find("tiny")
    assert bare.name == "tiny"
    with pytest.raises((ModelNotFound, Unavailable)):
        await catalog.get("tiny")
