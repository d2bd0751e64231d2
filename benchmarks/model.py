"""The model that benchmarks run: SmolLM2-135M-Instruct, published once and kept."""

from pathlib import Path

from firsttoken.demo.model import find_gguf
from firsttoken.settings import load_settings
from storage_tiers.checkpoint import Checkpoint
from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore
from storage_tiers.publishing.publish import publish

NAME = "smollm2-135m-instruct"


def published_smollm2(dtype: str = "bfloat16") -> tuple[str, Checkpoint]:
    """URL of a store in the home that has the model, and its checkpoint."""
    folder = Path(load_settings(None).home) / "bench-store"
    folder.mkdir(parents=True, exist_ok=True)
    url = f"file://{folder}"
    name = NAME if dtype == "bfloat16" else f"{NAME}-{dtype}"
    return url, publish(str(find_gguf()), name, ModelStore(ObjectStore(url)), dtype=dtype)
