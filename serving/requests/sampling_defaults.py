"""How tokens are drawn where a request does not say: as OpenAI has it, or as the model's makers do."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, Field, ValidationError

_SHOWN_LETTERS = 40


class Sampled(BaseModel):
    """What requests and models say of it alike; None says nothing."""

    temperature: float | None = Field(None, ge=0.0, le=2.0)
    top_p: float | None = Field(None, gt=0.0, le=1.0)
    top_k: int | None = Field(None, ge=0, le=2**31 - 1, description="0: all tokens")
    min_p: float | None = Field(
        None, ge=0.0, le=1.0, description="least probability, as a part of the likeliest token's"
    )
    repetition_penalty: float | None = Field(
        None, gt=0.0, le=2.0, description="of tokens in prompt and answer; 1: none"
    )


class _OfModel(Sampled):
    max_new_tokens: int | None = Field(None, ge=1, le=2**31 - 1)


@dataclass(frozen=True)
class SamplingDefaults:
    """OpenAI's, where a model has no others. `max_new_tokens` bounds answers whose requests set no bound.

    `passed_over` are the model's that no request may have.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    max_new_tokens: int | None = None
    passed_over: tuple[str, ...] = ()


def defaults_of(generation_config: Mapping[str, Any]) -> SamplingDefaults:
    """Those of a model.

    `do_sample` is not looked at, as in vLLM: makers leave it false beside the temperature that they advise.
    """
    found: dict[str, Any] = {}
    odd = []
    for field in _OfModel.model_fields:
        value = generation_config.get(field)
        if value is None:
            continue
        try:
            if type(value) not in (int, float):
                raise TypeError
            found[field] = getattr(_OfModel.model_validate({field: value}), field)
        except (TypeError, ValidationError):
            odd.append(f"{field} {str(value)[:_SHOWN_LETTERS]!r}")
    return SamplingDefaults(**found, passed_over=tuple(odd))
