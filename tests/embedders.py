"""What sentence-transformers puts beside a model's weights, and tiny models with it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.tiny import make_tiny

FLAGS = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")


def modules(*kinds: str) -> list[dict[str, Any]]:
    """modules.json of such modules; the first is the model itself."""
    whole = [kind if "." in kind else f"sentence_transformers.models.{kind}" for kind in kinds]
    return [
        {"idx": i, "name": str(i), "path": f"{i}_{kind.rpartition('.')[2]}" if i else "", "type": kind}
        for i, kind in enumerate(whole)
    ]


def say_pooling(
    folder: Path, mode: str | None = None, *, normalized: bool = False, pooling: Any = None, **config: Any
) -> Path:
    """Have the folder say that vectors are made so: by `mode`, one of FLAGS, or as `pooling` has it. `config` is what
    sentence_bert_config.json says."""
    kinds = ["Transformer", "Pooling", *(["Normalize"] if normalized else [])]
    (folder / "modules.json").write_text(json.dumps(modules(*kinds)))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    flags = {f"pooling_mode_{flag}": flag == mode for flag in FLAGS}
    given = {"word_embedding_dimension": 64, **flags, "include_prompt": True} if pooling is None else pooling
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(given))
    prompts = {"prompts": {"query": "Instruct: find\nQuery:", "document": ""}, "default_prompt_name": None}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    if config:
        (folder / "sentence_bert_config.json").write_text(json.dumps(config))
    return folder


def without_head(folder: Path) -> Path:
    """Have the folder's weights as AutoModel saves them: no output matrix, and no names that begin with the model."""
    from transformers import AutoModel

    AutoModel.from_pretrained(folder).save_pretrained(folder)
    return folder


def make_embedder(folder: Path, mode: str, *, normalized: bool = False, seed: int = 0, **options: Any) -> Path:
    """A tiny Qwen 3 that makes vectors by `mode`, "mean_tokens" or "lasttoken"."""
    return say_pooling(make_tiny("qwen3", folder, seed=seed, **options), mode, normalized=normalized)


def pooled_by_hand(folder: Path, prompts: Sequence[Sequence[int]], mode: str) -> list[np.ndarray]:
    """The prompts' vectors by transformers alone, `mode` "mean" or "last"."""
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        hidden = [model(torch.tensor([list(prompt)])).last_hidden_state[0] for prompt in prompts]
    return [(states.mean(0) if mode == "mean" else states[-1]).numpy() for states in hidden]
