"""What transformers itself generates: the word against which ours is held."""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from cluster.stage.choosing.sampling import Sampler
from cluster.wire.requests import Sampling


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


def sampled(
    model: torch.nn.Module, prompt: Sequence[int], sampling: Sampling, new_tokens: int
) -> tuple[list[int], list[float]]:
    """What our choosing makes of the unsplit model's logits: tokens, and their log probabilities where they are asked for."""
    sampler, cache, tokens, logprobs = Sampler(sampling, prompt, []), None, list[int](), list[float]()
    with torch.inference_mode():
        for position in range(len(prompt), len(prompt) + new_tokens):
            out = model(torch.tensor([tokens[-1:] or list(prompt)]), past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            choice = sampler.choose(out.logits[0, -1], position)
            assert choice.token is not None
            tokens.append(choice.token)
            logprobs += [choice.logprobs.logprob] if choice.logprobs is not None else []
    return tokens, logprobs


def gaps(model: torch.nn.Module, prompt: Sequence[int], generated: Sequence[int]) -> list[float]:
    """By how much each generated token's logit is below the greatest, given all tokens before it."""
    ids = torch.tensor([[*prompt, *generated]])
    with torch.inference_mode():
        logits = model(ids).logits[0, len(prompt) - 1 : -1].float()
    chosen = logits.gather(1, torch.tensor(list(generated))[:, None])[:, 0]
    return (logits.max(-1).values - chosen).tolist()
