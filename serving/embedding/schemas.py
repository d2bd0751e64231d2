"""POST /v1/embeddings as OpenAI has it."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from serving.requests.schemas import MAX_IGNORED_LETTERS, Count, Prompt
from serving.requests.unsupported import refuse_used

MAX_INPUTS = 2048
"""OpenAI's bound."""
_UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "messages": ([],), "input_type": (), "prompt_name": (), "task": (), "truncate": (), "truncate_prompt_tokens": (),
    "add_special_tokens": (True,), "normalize": (True,), "embed_dtype": ("float32",), "priority": (0,), "stream": (False,),
}  # fmt: skip
"""Fields of other servers, by the values that ask for nothing."""


class EmbeddingRequest(BaseModel):
    """An input is a text or its tokens; several are embedded each by itself."""

    model_config = ConfigDict(extra="ignore", strict=False)

    model: str = Field(min_length=1, max_length=200)
    input: Prompt
    encoding_format: Literal["float", "base64"] = Field(
        "float", description="a list of numbers, or their float32 bytes, little-endian, in base64"
    )
    dimensions: Count | None = Field(None, description="cut vectors to so many numbers, if the model's may be cut")
    user: str | None = Field(None, max_length=MAX_IGNORED_LETTERS)

    @field_validator("input", mode="before")
    @classmethod
    def _few_inputs(cls, value: Any) -> Any:
        several = isinstance(value, list) and bool(value) and isinstance(value[0], str | list)
        if several and len(value) > MAX_INPUTS:
            raise ValueError(f"{len(value)} inputs: at most {MAX_INPUTS} are taken")
        return value

    @field_validator("encoding_format", mode="before")
    @classmethod
    def _null_is_float(cls, value: Any) -> Any:
        return "float" if value is None else value

    @model_validator(mode="before")
    @classmethod
    def _supported(cls, data: Any) -> Any:
        return refuse_used(data, _UNSUPPORTED)

    def inputs(self) -> list[str | list[int]]:
        """What is to be embedded, each a text or tokens; at least one, if only an empty one."""
        if isinstance(self.input, str):
            return [self.input]
        if not self.input or isinstance(self.input[0], int):
            return [self.input]  # type: ignore[list-item]
        return list(self.input)  # type: ignore[arg-type]
