"""Defaults for generating that come with a model, checked before they are stored: an answer must be able to end, and
numbers must be such that one can sample with them."""

import math
from collections.abc import Mapping
from typing import Any

from storage_tiers.errors import SourceError

_NUMBERS: Mapping[str, tuple[float, float]] = {
    "temperature": (0, math.inf), "top_k": (-1, math.inf), "top_p": (0, 1), "min_p": (0, 1), "typical_p": (0, 1),
    "repetition_penalty": (0, math.inf),
}  # fmt: skip
"""Least and most of those that are numbers; -1 is what some write for no top_k."""


def check_generation(given: Mapping[str, Any], vocabulary: int) -> None:
    """SourceError, naming the entry, if transformers cannot read the configuration, if a number is none that one can sample
    with, or if a token that ends answers is not among the model's `vocabulary` tokens."""
    from transformers import GenerationConfig

    try:
        GenerationConfig.from_dict(dict(given))
    except Exception as error:  # whatever a wrong value makes transformers raise
        raise SourceError(f"the generation configuration cannot be used ({type(error).__name__}: {error})") from error
    for name, (least, most) in _NUMBERS.items():
        value = given.get(name)
        number = value is None or (type(value) in (int, float) and math.isfinite(value) and least <= value <= most)
        if not number or (name == "repetition_penalty" and value == 0):
            raise SourceError(
                f"the generation configuration says {name} {value!r}, with which nothing can be sampled; mend it"
            )
    stops = given.get("eos_token_id")
    for token in stops if isinstance(stops, list) else [] if stops is None else [stops]:
        if type(token) is not int or not 0 <= token < vocabulary:
            raise SourceError(
                f"an answer would end with token {token!r} (eos_token_id), but the model has tokens 0 to {vocabulary - 1} "
                "only; mend generation_config.json"
            )
