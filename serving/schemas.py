"""The OpenAI requests that we take. A field that we do not support is refused by name when it is used."""

import secrets
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from cluster.messages import Sampling

MAX_CHOICES = "max_choices"
"""In the context of a validation: how many answers a request may ask for, its prompts times n."""
MAX_MESSAGES = 2048
MAX_PARTS = 2048
MAX_BIASED = 300
MAX_IGNORED_LETTERS = 1024
Stop = Annotated[list[Annotated[str, Field(max_length=256)]], Field(max_length=16, fail_fast=True)]
LogitBias = Annotated[
    dict[Annotated[int, Field(ge=0)], Annotated[float, Field(ge=-100.0, le=100.0)]], Field(max_length=MAX_BIASED)
]
_CHAT_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "tools": ([],), "functions": ([],), "tool_choice": ("none", "auto"), "response_format": ({"type": "text"},),
    "audio": (),
}  # fmt: skip
_COMPLETION_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "suffix": ("",), "echo": (False,), "best_of": (1,),
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
    top_k: int = Field(0, ge=0, le=2**31 - 1, description="0: all tokens")
    min_p: float = Field(0.0, ge=0.0, le=1.0, description="least probability, as a part of the likeliest token's")
    n: int = Field(1, ge=1, le=16)
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    max_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    stop: Stop = Field(default_factory=list)
    presence_penalty: float = Field(0.0, ge=-2.0, le=2.0)
    frequency_penalty: float = Field(0.0, ge=-2.0, le=2.0)
    repetition_penalty: float = Field(1.0, gt=0.0, le=2.0, description="of tokens in prompt and answer; 1: none")
    logit_bias: LogitBias = Field(default_factory=dict, description="by token, added to its logit")
    stream: bool = False
    stream_options: StreamOptions | None = None
    return_token_ids: bool = Field(False, description="also give each choice's tokens, as token_ids")
    user: str | None = Field(None, max_length=MAX_IGNORED_LETTERS)

    @field_validator("stop", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        if value is None:
            return []
        return [value] if isinstance(value, str) else value

    @field_validator("logit_bias", mode="before")
    @classmethod
    def _few_or_null(cls, value: Any) -> Any:
        if isinstance(value, dict) and len(value) > MAX_BIASED:
            raise ValueError(f"at most {MAX_BIASED} tokens")  # before each is looked at
        return {} if value is None else value

    @field_validator(
        "temperature", "top_p", "top_k", "min_p", "n", "max_tokens", "presence_penalty", "frequency_penalty",
        "repetition_penalty", "stream", "return_token_ids", mode="before",
    )  # fmt: skip
    @classmethod
    def _null_is_default(cls, value: Any, info: Any) -> Any:
        return cls.model_fields[info.field_name].default if value is None else value

    @field_validator("n")
    @classmethod
    def _few_choices(cls, value: int, info: ValidationInfo) -> int:
        _check_choices(1, value, info)
        return value

    @property
    def likeliest_told(self) -> int | None:
        """How many of the likeliest tokens to tell with each token's log probability; None: tell none at all."""
        return None

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
                repetition_penalty=self.repetition_penalty,
                min_p=self.min_p,
                logit_bias=tuple(self.logit_bias.items()),
                logprobs=self.likeliest_told,
            )
            for index in range(self.n)
        ]


def _check_choices(prompts: int, n: int, info: ValidationInfo) -> None:
    most = (info.context or {}).get(MAX_CHOICES)
    if most is not None and prompts * n > most:
        raise ValueError(f"{prompts} prompts with n = {n}: at most {most} choices are taken (frontend.max_choices)")


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
    content: str | Annotated[list[TextPart], Field(max_length=MAX_PARTS, fail_fast=True)]
    name: str | None = Field(None, max_length=MAX_IGNORED_LETTERS)

    def plain(self) -> dict[str, str]:
        """The message as chat templates expect it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class ChatRequest(GenerationRequest):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(fail_fast=True)] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_completion_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    logprobs: bool = Field(False, strict=True)
    top_logprobs: int | None = Field(None, ge=0, le=20, strict=True)

    @field_validator("logprobs", mode="before")
    @classmethod
    def _null_is_false(cls, value: Any) -> Any:
        return False if value is None else value

    @field_validator("top_logprobs")
    @classmethod
    def _with_logprobs(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value and not info.data.get("logprobs", True):
            raise ValueError("needs logprobs: true")
        return value

    @model_validator(mode="before")
    @classmethod
    def _supported(cls, data: Any) -> Any:
        return _refuse_used(data, _CHAT_UNSUPPORTED)

    @property
    def likeliest_told(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None


def _kind_of_prompt(value: Any) -> str | None:
    if isinstance(value, str):
        return "text"
    if not isinstance(value, list):
        return None
    first = value[0] if value else None
    return "texts" if isinstance(first, str) else "lists of tokens" if isinstance(first, list) else "tokens"


_Tokens = Annotated[list[int], Field(fail_fast=True)]
Prompt = Annotated[
    Annotated[str, Tag("text")]
    | Annotated[list[str], Field(fail_fast=True), Tag("texts")]
    | Annotated[_Tokens, Tag("tokens")]
    | Annotated[list[_Tokens], Field(fail_fast=True), Tag("lists of tokens")],
    Discriminator(
        _kind_of_prompt,
        custom_error_type="prompt_kind",
        custom_error_message="a prompt is a text, a list of texts, tokens, or a list of lists of tokens",
    ),
]


class CompletionRequest(GenerationRequest):
    """POST /v1/completions. A prompt is a text or its tokens."""

    prompt: Prompt
    max_tokens: int | None = Field(16, ge=1, le=2**31 - 1)
    logprobs: int | None = Field(None, ge=0, le=5, strict=True)

    @field_validator("prompt", mode="before")
    @classmethod
    def _few_prompts(cls, value: Any, info: ValidationInfo) -> Any:
        several = _kind_of_prompt(value) in ("texts", "lists of tokens")
        _check_choices(len(value) if several else 1, info.data.get("n", 1), info)
        return value

    @model_validator(mode="before")
    @classmethod
    def _supported(cls, data: Any) -> Any:
        return _refuse_used(data, _COMPLETION_UNSUPPORTED)

    @property
    def likeliest_told(self) -> int | None:
        return self.logprobs

    def prompts(self) -> list[str | list[int]]:
        """The prompts asked for, each a text or tokens; at least one, if only an empty one."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if not self.prompt or isinstance(self.prompt[0], int):
            return [self.prompt]  # type: ignore[list-item]
        return list(self.prompt)  # type: ignore[arg-type]
