"""Conversations as OpenAI writes them, and as chat templates take them."""

import json
from collections.abc import Mapping
from math import isfinite
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

MAX_PARTS = 2048
MAX_CALLS = 128
MAX_NAME_LETTERS = 1024
_OTHER_PARTS = {
    "image_url": "images are", "image": "images are", "input_image": "images are", "image_embeds": "images are",
    "input_audio": "audio is", "audio_url": "audio is", "audio": "audio is", "video_url": "videos are", "video": "videos are",
    "file": "files are", "input_file": "files are",
}  # fmt: skip
RESERVED = frozenset(
    {
        "self", "kwargs", "messages", "conversation", "conversations", "tools", "documents", "chat_template",
        "add_generation_prompt", "continue_final_message", "tokenize", "sanitize_control_tokens", "padding", "truncation",
        "max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs",
    }
)  # fmt: skip
"""What a template gets from elsewhere, or what would not reach it: nothing that `chat_template_kwargs` may name."""


def plain(value: Any) -> Any:
    """What goes to a text process, or back to the client, as it is: no number in it may have more than 64 bits, or be
    infinite, as 1e999 is read."""
    if isinstance(value, dict):
        for part in value.values():
            plain(part)
    elif isinstance(value, list):
        for part in value:
            plain(part)
    elif (isinstance(value, int) and not -(2**63) <= value < 2**64) or (
        isinstance(value, float) and not isfinite(value)
    ):
        raise ValueError("it holds a number beyond all bounds")
    return value


def _none_reserved(value: dict[str, Any]) -> dict[str, Any]:
    for name in value:
        if name in RESERVED:
            raise ValueError(f"{name} cannot be set here: what it means, if anything, is a field of the request's own")
    return value


TemplateObject = Annotated[dict[str, Any], AfterValidator(plain)]
TemplateArguments = Annotated[TemplateObject, AfterValidator(_none_reserved)]


class Part(BaseModel):
    """A part of a message; only text is taken, and what was refused."""

    type: Literal["text", "refusal"]
    text: str = ""
    refusal: str = ""

    @model_validator(mode="before")
    @classmethod
    def _only_text(cls, data: Any) -> Any:
        kind = data.get("type") if isinstance(data, dict) else None
        if isinstance(kind, str) and kind in _OTHER_PARTS:
            raise ValueError(f"{_OTHER_PARTS[kind]} not supported: a part is a text")
        if isinstance(kind, str) and kind in cls.model_fields and kind not in data:
            raise ValueError(f"a part of the type {kind} needs a {kind}")
        return data

    @property
    def said(self) -> str:
        """What it adds to the message's text."""
        return self.text if self.type == "text" else self.refusal


class FunctionCall(BaseModel):
    """A call of a function, its arguments in JSON as a model wrote them, or as an object."""

    name: str = Field(max_length=MAX_NAME_LETTERS)
    arguments: Annotated[
        Annotated[str, Tag("<text>")] | Annotated[TemplateObject, Tag("<object>")],
        Discriminator(lambda value: "<object>" if isinstance(value, dict) else "<text>"),
    ] = ""


class ToolCall(BaseModel):
    """A call in an assistant's turn."""

    id: str | None = Field(None, max_length=MAX_NAME_LETTERS)
    type: Literal["function"] = "function"
    function: FunctionCall


class Message(BaseModel):
    """One turn of a conversation. An assistant's may have no content if it called a tool, or refused."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    name: str | None = Field(None, max_length=MAX_NAME_LETTERS)
    tool_call_id: str | None = Field(None, max_length=MAX_NAME_LETTERS)
    tool_calls: Annotated[list[ToolCall], Field(max_length=MAX_CALLS, fail_fast=True)] | None = None
    function_call: FunctionCall | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    content: (
        Annotated[
            Annotated[str, Tag("<text>")]
            | Annotated[list[Part], Field(max_length=MAX_PARTS, fail_fast=True), Tag("<parts>")],
            Discriminator(lambda value: "<parts>" if isinstance(value, list) else "<text>"),
        ]
        | None
    ) = Field(None, validate_default=True)

    @field_validator("content")
    @classmethod
    def _something(cls, value: Any, info: ValidationInfo) -> Any:
        said = [info.data.get(field) for field in ("tool_calls", "function_call", "refusal")]
        if value is None and not (info.data.get("role") == "assistant" and any(part is not None for part in said)):
            raise ValueError(
                "it is null or missing; only an assistant's turn with tool_calls, function_call or refusal may have none"
            )
        return value

    @property
    def text(self) -> str:
        """Its content, in a row; of a refusal, what was said."""
        if self.content is None:
            return self.refusal or ""
        return self.content if isinstance(self.content, str) else "".join(part.said for part in self.content)

    def plain(self) -> dict[str, Any]:
        """The message as chat templates expect it. Old calls of functions are written as calls of tools."""
        role = {"developer": "system", "function": "tool"}.get(self.role, self.role)
        calls = [call.model_dump(exclude_none=True) for call in self.tool_calls or ()]
        if self.function_call is not None:
            calls.append({"type": "function", "function": self.function_call.model_dump()})
        of_role: dict[str, Any] = {}
        if self.role == "assistant":
            of_role = {"tool_calls": calls or None, "reasoning_content": self.reasoning_content}
        elif role == "tool":
            of_role = {"tool_call_id": self.tool_call_id}
        given = {name: value for name, value in {"name": self.name, **of_role}.items() if value is not None}
        return {"role": role, "content": self.text, **given}


def with_arguments_as_objects(message: Mapping[str, Any]) -> dict[str, Any]:
    """The message as most templates expect it: a call's arguments as an object, where they are the JSON of one."""
    calls = [
        {**call, "function": {**call["function"], "arguments": _as_object(call["function"]["arguments"])}}
        for call in message.get("tool_calls", ())
    ]
    return {**message, "tool_calls": calls} if calls else dict(message)


def _as_object(arguments: Any) -> Any:
    """Nothing at all are no arguments."""
    try:
        found = json.loads(arguments.strip() or "{}") if isinstance(arguments, str) else arguments
    except (ValueError, RecursionError):
        return arguments
    return found if isinstance(found, dict) else arguments
