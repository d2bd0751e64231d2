"""The scripts of docs/clients say what docs/clients.md shows, to a front end over a real cluster."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from storage_tiers.checkpoint import Checkpoint
from storage_tiers.model_store import ModelStore
from storage_tiers.publishing.publish import publish
from tests.embedders import make_embedder
from tests.serving.tokenizers import byte_tokenizer
from tests.storage_tiers.tokenizers import save_tokenizer

DOCS = Path(__file__).parents[2] / "docs"
NEEDED = {
    "openai": "openai",
    "langchain": "langchain_openai",
    "llamaindex": "llama_index",
    "litellm": "litellm",
}
SAID = r"""whole: (?P<whole>.*Paris.*)
streamed: (?P=whole)
structured: .*city.*country.*
tool: weather \{.city.: .+\}
embedding: 64 numbers
"""


@pytest.fixture(scope="module")
def embedder(shared_store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    source = make_embedder(tmp_path_factory.mktemp("embedder"), "mean_tokens", seed=11, vocab_size=260)
    save_tokenizer(source, byte_tokenizer())
    return publish(str(source), "clients-embedder", shared_store)


@pytest.mark.parametrize("client", sorted(NEEDED))
def test_a_client_is_answered_whole_and_streamed_in_shape_by_calls_and_in_numbers(
    frontend: str, smollm2: Checkpoint, embedder: Checkpoint, client: str
) -> None:
    if importlib.util.find_spec(NEEDED[client]) is None:
        pytest.skip(f"{NEEDED[client]} is not installed")
    script = [DOCS / "clients" / f"{client}_client.py", f"{frontend}/v1", smollm2.name, embedder.name]
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    ran = subprocess.run([sys.executable, *script], env=environment, capture_output=True, text=True, timeout=200)
    assert ran.returncode == 0, ran.stderr
    assert re.fullmatch(SAID, ran.stdout), ran.stdout


def test_the_document_shows_every_script() -> None:
    text = (DOCS / "clients.md").read_text()
    scripts = {path.name for path in (DOCS / "clients").glob("*.py")}
    assert scripts == {f"{client}_client.py" for client in NEEDED}
    assert all(f"clients/{name}" in text for name in scripts)
