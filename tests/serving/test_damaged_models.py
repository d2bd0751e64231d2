"""Models whose roots lie, beside one that does not: each is refused by name, and the good one answers."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from storage_tiers.checkpoint import ROOT
from storage_tiers.model_store import ModelStore
from storage_tiers.publishing.publish import publish
from tests.asking import get, post
from tests.tiny import make_tiny

GOOD = "honest"


def _config(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda root: root["attributes"]["config"].update(changes)


_LIES: dict[str, Callable[[dict[str, Any]], object]] = {
    "another-name": lambda root: root,
    "no-units": lambda root: root["attributes"].update(units=[]),
    "no-config": lambda root: root["attributes"].update(config={}),
    "config-list": lambda root: root["attributes"].update(config=[]),
    "nan": _config(rope_theta=float("nan")),
    "no-heads": _config(num_attention_heads=0),
    "many-layers": _config(num_hidden_layers=10**9),
    "digest-path": lambda root: _first_unit(root)["attributes"].update(digest="../../x"),
    "endless": lambda root: _first_unit(root)["attributes"].update(payload=float("inf")),
}


def _first_unit(root: dict[str, Any]) -> dict[str, Any]:
    node: dict[str, Any] = root["consolidated_metadata"]["metadata"][root["attributes"]["units"][0]]
    return node


@pytest.fixture(scope="module")
def lies(shared_store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Names of the models that lie."""
    source = make_tiny("llama", tmp_path_factory.mktemp("honest") / "source", num_hidden_layers=2)
    publish(str(source), GOOD, shared_store)
    text = shared_store.objects.read(f"{GOOD}/{ROOT}")
    shared_store.objects.write(f"lie-nested/{ROOT}", b"[" * 100_000)
    for name, lie in _LIES.items():
        root = json.loads(text)
        if name != "another-name":
            root["attributes"]["name"] = f"lie-{name}"
        lie(root)
        shared_store.objects.write(f"lie-{name}/{ROOT}", json.dumps(root).encode())
    names = ["lie-nested", *(f"lie-{name}" for name in _LIES)]
    yield names
    for name in names:
        shared_store.objects.remove(name)


def _ask(frontend: str, model: str, **fields: Any) -> httpx.Response:
    body = {"model": model, "prompt": [5, 6], "max_tokens": 2, "temperature": 0, "return_token_ids": True, **fields}
    return post(f"{frontend}/v1/completions", json=body, timeout=60)


def test_models_that_lie_are_refused_by_name_and_harm_nobody(frontend: str, lies: list[str]) -> None:
    """Some were plain server errors, one hung whoever asked for it, and one answered as another model."""
    assert set(lies) < {model["id"] for model in get(f"{frontend}/v1/models", timeout=30).json()["data"]}
    for name in lies:
        for answer in (
            _ask(frontend, name),
            _ask(frontend, name, stream=True),
            get(f"{frontend}/v1/models/{name}", timeout=30),
        ):
            error = answer.json()["error"]
            assert (answer.status_code, error["code"], error["param"]) == (503, "model_damaged", "model"), answer.text
            assert name in error["message"]
            assert "Retry-After" not in answer.headers
    good = _ask(frontend, GOOD)
    assert good.status_code == 200, good.text
    assert len(good.json()["choices"][0]["token_ids"]) == 2
