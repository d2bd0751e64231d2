"""What transformers itself generates: the word against which ours is held."""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM


def load_reference(folder: Path, dtype: str = "float32") -> torch.nn.Module:
    """The unsplit model."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()


def greedy(model: torch.nn.Module, prompt: Sequence[int], new_tokens: int) -> list[int]:
    """transformers' own greedy continuation of one prompt."""
    ids = torch.tensor([list(prompt)])
    with torch.inference_mode():
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, do_sample=False, use_cache=True
        )
    return out[0, len(prompt) :].tolist()


def gaps(model: torch.nn.Module, prompt: Sequence[int], generated: Sequence[int]) -> list[float]:
    """By how much each generated token's logit is below the greatest, given all tokens before it."""
    ids = torch.tensor([[*prompt, *generated]])
    with torch.inference_mode():
        logits = model(ids).logits[0, len(prompt) - 1 : -1].float()
    chosen = logits.gather(1, torch.tensor(list(generated))[:, None])[:, 0]
    return (logits.max(-1).values - chosen).tolist()
