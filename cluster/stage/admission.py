"""What a group refuses at its door: requests that its stages cannot compute, and that would end it for everyone else."""

import math

from cluster.wire.requests import GRAMMAR_CHARACTERS, Sampling, Submit

_RANGES = {
    "temperature": (0.0, math.inf),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "top_k": (0, math.inf),
    "presence_penalty": (-math.inf, math.inf),
    "frequency_penalty": (-math.inf, math.inf),
    "repetition_penalty": (0.0, math.inf),
}
"""Least and greatest value of a sampling parameter; finite in any case."""


def find_fault(submit: Submit, vocabulary: int, positions: int | None = None) -> str | None:
    """Why a model of `vocabulary` tokens cannot run the request; None if it can. Knows nothing of room.

    `positions` is how many the model has learned; None if it computes them.
    """
    if submit.tokens and not 0 <= min(submit.tokens) <= max(submit.tokens) < vocabulary:
        return f"there are tokens outside of the model's vocabulary of {vocabulary}"
    if not 0 <= submit.prompt_tokens <= len(submit.tokens):
        return f"prompt_tokens is {submit.prompt_tokens}, and there are {len(submit.tokens)} tokens in all"
    if submit.min_tokens < 0 or any(not 0 <= token < 2**63 for token in submit.stop_tokens):
        return f"min_tokens is {submit.min_tokens}, or a stop token is none"
    length = len(submit.tokens) + submit.max_tokens
    if positions is not None and length > positions:
        return f"prompt and max_tokens are {length} tokens, and the model has learned {positions} positions"
    if submit.grammar is not None and len(submit.grammar.text) > GRAMMAR_CHARACTERS:
        return f"the grammar has {len(submit.grammar.text)} characters, and at most {GRAMMAR_CHARACTERS} are read"
    return _sampling_fault(submit.sampling)


def _sampling_fault(sampling: Sampling) -> str | None:
    for name, (least, greatest) in _RANGES.items():
        value = getattr(sampling, name)
        if not (math.isfinite(value) and least <= value <= greatest):
            return f"{name} is {value}, which nothing can be drawn with"
    if sampling.logprobs is not None and sampling.logprobs < 0:
        return f"logprobs is {sampling.logprobs}, and no fewer than none can be told"
    if any(not 0 <= token < 2**63 or not math.isfinite(bias) for token, bias in sampling.logit_bias):
        return "logit_bias has a token that is none, or a bias that is no finite number"
    return None
