"""The OpenAI requests that we take. A field that we do not support is refused by name when it is used."""

import secrets
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from cluster.messages import Sampling

Stop = Annotated[list[str], Field(max_length=16)]
_CHAT_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "tools": ([],), "functions": ([],), "tool_choice": ("none", "auto"), "response_format": ({"type": "text"},),
    "logprobs": (False,), "top_logprobs": (0,), "logit_bias": ({},), "audio": (),
}  # fmt: skip
_COMPLETION_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "suffix": ("",), "echo": (False,), "logprobs": (), "logit_bias": ({},), "best_of": (1,),
}  # fmt: skip
"""Fields that we do not support, each with the values that ask for nothing."""


class StreamOptions(BaseModel):
    """What a stream carries beside the text."""

    include_usage: bool = False


class GenerationRequest(BaseModel):
    """What chat and plain completions share."""

    model_config = ConfigDict(extra="ignore", strict=False)

    model: str = Field(min_length=1, max_length=200)
    temperature: float = Field(1.0, ge=0.0, le=2.0)
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    top_k: int = Field(0, ge=0, description="0: all tokens")
    n: int = Field(1, ge=1, le=16)
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    max_tokens: int | None = Field(None, ge=1)
    stop: Stop = Field(default_factory=list)
    presence_penalty: float = Field(0.0, ge=-2.0, le=2.0)
    frequency_penalty: float = Field(0.0, ge=-2.0, le=2.0)
    stream: bool = False
    stream_options: StreamOptions | None = None
    return_token_ids: bool = Field(False, description="also give each choice's tokens, as token_ids")
    user: str | None = None

    @field_validator("stop", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        if value is None:
            return []
        return [value] if isinstance(value, str) else value

    @field_validator(
        "temperature", "top_p", "top_k", "n", "max_tokens", "presence_penalty", "frequency_penalty", "stream",
        "return_token_ids", mode="before",
    )  # fmt: skip
    @classmethod
    def _null_is_default(cls, value: Any, info: Any) -> Any:
        return cls.model_fields[info.field_name].default if value is None else value

    def samplings(self) -> list[Sampling]:
        """How each of the n choices is drawn; a request without a seed gets one."""
        seed = self.seed if self.seed is not None else secrets.randbits(63)
        return [
            Sampling(
                temperature=self.temperature,
                top_p=self.top_p,
                top_k=self.top_k,
                seed=seed + index,
                presence_penalty=self.presence_penalty,
                frequency_penalty=self.frequency_penalty,
            )
            for index in range(self.n)
        ]


def _refuse_used(data: Any, unsupported: Mapping[str, tuple[Any, ...]]) -> Any:
    """ValueError that names the first unsupported field that the request uses."""
    if isinstance(data, dict):
        for field, neutral in unsupported.items():
            value = data.get(field)
            if value is not None and not any(type(value) is type(n) and value == n for n in neutral):
                raise ValueError(f"{field} is not supported")
    return data


class TextPart(BaseModel):
    """A part of a message; only text is taken."""

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None

    def plain(self) -> dict[str, str]:
        """The message as chat templates expect it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class ChatRequest(GenerationRequest):
    """POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _supported(cls, data: Any) -> Any:
        return _refuse_used(data, _CHAT_UNSUPPORTED)


class CompletionRequest(GenerationRequest):
    """POST /v1/completions. A prompt is a text or its tokens."""

    prompt: str | list[int] | list[str] | list[list[int]]
    max_tokens: int | None = Field(16, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _supported(cls, data: Any) -> Any:
        return _refuse_used(data, _COMPLETION_UNSUPPORTED)

    def prompts(self) -> list[str | list[int]]:
        """The prompts asked for, each a text or tokens; at least one, if only an empty one."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if not self.prompt or isinstance(self.prompt[0], int):
            return [self.prompt]  # type: ignore[list-item]
        return list(self.prompt)  # type: ignore[arg-type]
