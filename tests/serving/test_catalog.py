"""Opening models: what is known of one before its tokenizer is there."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer

import serving.catalog as catalog_module
from serving.catalog import Catalog
from serving.errors import ModelDamaged, ModelNotFound, Unavailable
from serving.prompts.processes import TextProcesses
from storage_tiers.checkpoint import ROOT, Checkpoint
from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore
from storage_tiers.publishing.collect import remove_model
from storage_tiers.publishing.publish import publish
from tests.storage_tiers.handmade import flip
from tests.tiny import make_tiny

pytestmark = pytest.mark.asyncio(loop_scope="module")


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


@pytest_asyncio.fixture(scope="module", loop_scope="module")
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


async def test_a_tokenizer_is_that_of_transformers_in_the_model_s_folder(
    store: ModelStore, texts: TextProcesses, tmp_path: Path
) -> None:
    """The model's configuration says which class reads the tokenizer: without it prompts became other tokens."""
    letters = {letter: i for i, letter in enumerate("ab2x")}
    tokenizer = Tokenizer(models.BPE(vocab=letters | {"22": 4}, merges=[("2", "2")]))
    tokenizer.pre_tokenizer = pre_tokenizers.Digits(individual_digits=True)
    source = make_tiny("olmo2", tmp_path / "olmo2")
    tokenizer.save(str(source / "tokenizer.json"))
    (source / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer", "unk_token": "x"}')
    publish(str(source), "olmo2", store)
    model = await Catalog(store, texts).get("olmo2")
    assert model.text is not None
    (tokens,) = await model.text.encode(["a22b"], model.context_tokens)
    assert list(tokens) == AutoTokenizer.from_pretrained(source)("a22b")["input_ids"] == [0, 2, 2, 1]


async def test_what_is_not_published_is_not_found_either_way(store: ModelStore, texts: TextProcesses) -> None:
    catalog = Catalog(store, texts)
    for look in (catalog.find, catalog.get):
        with pytest.raises(ModelNotFound, match="absent"):
            await look("absent")
    assert (await catalog.find("tiny"))[0].name == "tiny"


async def test_a_tokenizer_that_was_changed_is_told_to_who_waits_for_it(
    store: ModelStore, texts: TextProcesses, tmp_path: Path
) -> None:
    """A letter changed in the store was served: files were read as they lay there."""
    checkpoint = store.open("tiny")
    flip(tmp_path / "store" / store.unit_key("tiny", checkpoint.files[0]), 0)
    catalog = Catalog(store, texts)
    bare, _ = await catalog.find("tiny")
    assert bare.name == "tiny"
    with pytest.raises(ModelDamaged, match=r"'tiny' cannot be served: file .* is not what was published"):
        await catalog.get("tiny")


async def test_a_tokenizer_that_is_none_is_the_models_fault(
    store: ModelStore, texts: TextProcesses, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was published by who does not look at it."""
    monkeypatch.setattr("storage_tiers.tokenizers.check_decoder", lambda decoder: None)
    source = tmp_path / "other"
    make_tiny("llama", source, num_hidden_layers=1)
    tokenizer = Tokenizer(models.BPE(vocab={"a": 0, "b": 1}, merges=[]))
    tokenizer.decoder = decoders.Replace(Regex("(a*)*b"), "")
    tokenizer.save(str(source / "tokenizer.json"))
    publish(str(source), "other", store)
    with pytest.raises(ModelDamaged, match=r"'other' cannot be served: .*decoder replaces a regular expression"):
        await Catalog(store, texts).get("other")


async def test_what_is_served_is_compared_not_the_digest_alone(
    store: ModelStore, texts: TextProcesses, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another generation configuration leaves the digest as it is: the tokens that end an answer stayed the old ones."""
    monkeypatch.setattr(catalog_module, "FRESH_S", 0.0)
    catalog = Catalog(store, texts)
    before = await catalog.get("tiny")
    (tmp_path / "source" / "generation_config.json").write_text('{"eos_token_id": [5, 6]}')
    publish(str(tmp_path / "source"), "tiny", store)
    await catalog.get("tiny")
    await _settled(catalog)
    after = await catalog.get("tiny")
    assert after.checkpoint.digest == before.checkpoint.digest
    assert (before.stop_tokens, after.stop_tokens) == ((2,), (5, 6))
    assert after.text is before.text


async def test_a_root_that_lies_is_told_and_logged_once(
    store: ModelStore,
    texts: TextProcesses,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Half of them were plain server errors, and every request for a model without units hung for ever."""
    monkeypatch.setattr(catalog_module, "BAD_ROOT_S", 0.0)
    root = json.loads(store.objects.read(f"tiny/{ROOT}"))
    root["attributes"]["units"] = []
    store.objects.write(f"empty/{ROOT}", json.dumps(root).encode())
    catalog = Catalog(store, texts)
    await catalog.warm()
    for look in (catalog.get, catalog.find, catalog.get):
        with pytest.raises(ModelDamaged, match="'empty' cannot be served") as caught:
            await asyncio.wait_for(look("empty"), 30)
        assert (caught.value.code, caught.value.status, caught.value.retry_after_s) == ("model_damaged", 503, None)
    assert [record.message for record in caplog.records if "empty" in record.message] == caplog.messages[:1]
    assert (await catalog.get("tiny")).name == "tiny"


async def test_a_model_that_claims_more_than_it_has_is_not_served(store: ModelStore, texts: TextProcesses) -> None:
    checkpoint = store.open("tiny")
    store.objects.remove(store.unit_key("tiny", checkpoint.unit("head")))
    with pytest.raises(ModelDamaged, match="head/c/0 of model tiny is not there"):
        await Catalog(store, texts).find("tiny")


async def test_a_store_that_is_unmounted_takes_nothing_away(
    store: ModelStore,
    texts: TextProcesses,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An empty folder where the store was made every model, warm ones too, one that does not exist."""
    monkeypatch.setattr(catalog_module, "FRESH_S", 0.0)
    publish(str(tmp_path / "source"), "cold", store)
    catalog = Catalog(store, texts)
    assert await catalog.names() == ["cold", "tiny"]
    await catalog.get("tiny")
    (tmp_path / "store").rename(tmp_path / "away")
    for _ in range(2):
        for _ in range(3):
            assert (await catalog.get("tiny")).name == "tiny"
            await _settled(catalog)
        with pytest.raises(Unavailable, match="is empty, where cold was"):
            await catalog.get("cold")
        with pytest.raises(ModelNotFound):
            await catalog.get("never-seen")
        assert await catalog.names() == ["tiny"]
        (tmp_path / "store").mkdir(exist_ok=True)
    assert sum("is empty, where 2 models were" in message for message in caplog.messages) == 1
    (tmp_path / "store").rmdir()
    (tmp_path / "away").rename(tmp_path / "store")
    assert (await catalog.get("cold")).name == "cold"


async def test_a_model_that_was_removed_is_soon_not_found(
    store: ModelStore, texts: TextProcesses, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog_module, "FRESH_S", 0.0)
    publish(str(tmp_path / "source"), "other", store)
    catalog = Catalog(store, texts)
    await catalog.get("tiny")
    remove_model(store, "tiny")
    await catalog.get("tiny")
    await _settled(catalog)
    with pytest.raises(ModelNotFound):
        await catalog.get("tiny")


async def _settled(catalog: Catalog) -> None:
    """Wait for the look-ups that are under way behind requests."""
    await asyncio.gather(*(opening.ready for opening in catalog._opening.values()), return_exceptions=True)
    await asyncio.sleep(0)


async def test_a_surprise_in_one_model_is_told_once_and_the_others_are_opened(
    store: ModelStore,
    texts: TextProcesses,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It ended the opening of all that came after it, and when it came up behind a request nobody ever heard of it."""
    publish(str(tmp_path / "source"), "a-odd-one", store)
    describe = Catalog._describe

    def fails_for_one(self: Catalog, checkpoint: Checkpoint) -> object:
        if checkpoint.name == "a-odd-one":
            raise ValueError("an odd model")
        return describe(self, checkpoint)

    monkeypatch.setattr(Catalog, "_describe", fails_for_one)
    catalog = Catalog(store, texts)
    for _ in range(2):
        await catalog.warm()
    assert list(catalog._entries) == ["tiny"]
    (record,) = [record for record in caplog.records if "an odd model" in record.getMessage()]
    assert record.exc_info is not None
