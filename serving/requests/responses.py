"""POST /v1/responses in its plain form: it is turned into the chat that it asks for, and answered as one."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Annotated, Any, Literal

from fastapi.exceptions import RequestValidationError
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

from serving.requests.complaints import refusal
from serving.requests.conversation import MAX_NAME_LETTERS, MAX_PARTS, TemplateObject
from serving.requests.sampling_defaults import Sampled
from serving.requests.schemas import MAX_IGNORED_LETTERS, MAX_MESSAGES, MAX_TOOLS, ChatRequest, Count
from serving.requests.unsupported import CHAT, INSTEAD, refuse_used

MAX_METADATA, MAX_METADATA_LETTERS = 16, 512
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "background": (False,), "conversation": (), "include": ([],), "prompt": (), "truncation": ("disabled",),
    "top_logprobs": (0,), "moderation": (), "context_management": ([],), "input_transformations": ([],), "image": (),
}  # fmt: skip
_TAKEN_UNUSED = ("stream_options",)
"""Fields of the chat of which there is nothing to say here."""
_RENAMED = {
    "messages": "input",
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
}
"""What fields of the chat are called here."""
_INSTEAD = {**INSTEAD, **_RENAMED, "max_tokens": "max_output_tokens", "guided_json": "text.format"}
_INNER = {"tools": ("function",), "tool_choice": ("function", "allowed_tools"), "response_format": ("json_schema",)}


class InputPart(BaseModel):
    """A part of a message: a text, or what was refused."""

    type: Literal["input_text", "output_text", "text", "refusal"]
    text: str = ""
    refusal: str = ""

    @model_validator(mode="before")
    @classmethod
    def _only_text(cls, data: Any) -> Any:
        kind = data.get("type") if isinstance(data, dict) else None
        if isinstance(kind, str) and kind not in ("input_text", "output_text", "text", "refusal"):
            raise ValueError(f"parts of the type {kind[:64]} are not supported: a part is a text")
        said = "refusal" if kind == "refusal" else "text"
        if isinstance(kind, str) and said not in data:
            raise ValueError(f"a part of the type {kind} needs a {said}")
        return data

    def chat(self) -> dict[str, str]:
        """As chat has it."""
        return (
            {"type": "refusal", "refusal": self.refusal}
            if self.type == "refusal"
            else {"type": "text", "text": self.text}
        )


Said = Annotated[
    Annotated[str, Tag("<text>")]
    | Annotated[list[InputPart], Field(max_length=MAX_PARTS, fail_fast=True), Tag("<parts>")],
    Discriminator(lambda value: "<parts>" if isinstance(value, list) else "<text>"),
]


class InputItem(BaseModel):
    """A message, a function's call that the model made, or what came of one."""

    type: Literal["message", "function_call", "function_call_output"] = "message"
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: Said | None = None
    call_id: str | None = Field(None, max_length=MAX_NAME_LETTERS)
    name: str | None = Field(None, max_length=MAX_NAME_LETTERS)
    arguments: str | None = None
    output: Said | None = None

    @model_validator(mode="before")
    @classmethod
    def _known(cls, data: Any) -> Any:
        kind = data.get("type") if isinstance(data, dict) else None
        if isinstance(kind, str) and kind not in ("message", "function_call", "function_call_output"):
            raise ValueError(f"items of the type {kind[:64]} are not supported: an item is a message")
        return data

    @model_validator(mode="after")
    def _whole(self) -> "InputItem":
        needed = {
            "message": ("role", "content"),
            "function_call": ("call_id", "name", "arguments"),
            "function_call_output": ("call_id", "output"),
        }[self.type]
        for field in needed:
            if getattr(self, field) is None:
                raise ValueError(f"an item of the type {self.type} needs {field}")
        return self

    def chat(self) -> dict[str, Any]:
        """As a message of a chat."""
        if self.type == "function_call_output":
            return {"role": "tool", "tool_call_id": self.call_id, "content": _chat_content(self.output)}
        if self.type == "function_call":
            function = {"name": self.name, "arguments": self.arguments}
            return {"role": "assistant", "tool_calls": [{"id": self.call_id, "type": "function", "function": function}]}
        return {"role": self.role, "content": _chat_content(self.content)}


def _chat_content(said: str | list[InputPart] | None) -> str | list[dict[str, str]]:
    return said if isinstance(said, str) else [part.chat() for part in said or ()]


class Reasoning(BaseModel):
    """What is said of thinking: told to the chat template."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    summary: None = None


class TextConfig(BaseModel):
    """How the answer's text shall be."""

    format: TemplateObject | None = None
    verbosity: Literal["medium"] | None = None


class _Chat(ChatRequest):
    """The chat that is asked for. Its bound is called as here."""

    @property
    def wanted_tokens(self) -> tuple[str, int | None]:
        return "max_output_tokens", self.max_completion_tokens


class ResponsesRequest(Sampled):
    """POST /v1/responses. `store` is taken, and nothing is kept."""

    model_config = ConfigDict(extra="ignore", strict=False)

    model: str = Field(min_length=1, max_length=200)
    input: Annotated[
        Annotated[str, Tag("<text>")]
        | Annotated[list[InputItem], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True), Tag("<items>")],
        Discriminator(lambda value: "<items>" if isinstance(value, list) else "<text>"),
    ]
    instructions: str | None = None
    max_output_tokens: Count | None = None
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    stream: bool = False
    text: TextConfig = Field(default_factory=TextConfig)
    reasoning: Reasoning = Field(default_factory=Reasoning)
    tools: Annotated[list[TemplateObject], Field(max_length=MAX_TOOLS)] = Field(default_factory=list)
    tool_choice: (
        Annotated[
            Annotated[str, Tag("<word>")] | Annotated[TemplateObject, Tag("<object>")],
            Discriminator(lambda value: "<object>" if isinstance(value, dict) else "<word>"),
        ]
        | None
    ) = None
    parallel_tool_calls: bool | None = None
    metadata: (
        Annotated[
            dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=MAX_METADATA_LETTERS)]],
            Field(max_length=MAX_METADATA),
        ]
        | None
    ) = Field(None, description="said again in the answer")
    store: bool | None = Field(None, description="taken, and nothing is kept")
    user: str | None = Field(None, max_length=MAX_IGNORED_LETTERS)

    @field_validator("stream", "text", "reasoning", "tools", mode="before")
    @classmethod
    def _null_is_default(cls, value: Any, info: ValidationInfo) -> Any:
        assert info.field_name is not None
        return cls.model_fields[info.field_name].get_default(call_default_factory=True) if value is None else value

    @field_validator("tools")
    @classmethod
    def _only_functions(cls, value: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for tool in value:
            if tool.get("type") != "function":
                raise ValueError(
                    f"tools of the type {str(tool.get('type'))[:64]} are not supported: a tool is a function"
                )
        return value

    @model_validator(mode="before")
    @classmethod
    def _supported(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("previous_response_id") is not None:
            sentence = "answers are not kept here: send what was said before again, as items of input"
            raise refusal("previous_response_id", sentence)
        return refuse_used(refuse_used(data, _NEUTRAL), _of_chat_alone(), _INSTEAD)

    def chat(self, context: Mapping[str, Any]) -> ChatRequest:
        """The chat that is asked for; RequestValidationError, with fields called as here, if there can be none such."""
        instructed = [] if self.instructions is None else [{"role": "system", "content": self.instructions}]
        items = [{"role": "user", "content": self.input}] if isinstance(self.input, str) else _messages(self.input)
        asked: dict[str, Any] = {
            "model": self.model,
            "messages": [*instructed, *items],
            "max_completion_tokens": self.max_output_tokens,
            "stream": self.stream,
            "seed": self.seed,
            "reasoning_effort": self.reasoning.effort,
            "response_format": _response_format(self.text.format),
            "tools": [_tool(tool) for tool in self.tools] or None,
            "tool_choice": _tool_choice(self.tool_choice),
            "parallel_tool_calls": self.parallel_tool_calls,
            **{name: getattr(self, name) for name in Sampled.model_fields},
        }
        try:
            return _Chat.model_validate(
                {name: value for name, value in asked.items() if value is not None}, context=dict(context)
            )
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False)
            raise RequestValidationError([_renamed(dict(each)) for each in found]) from error

    def echoed(self) -> dict[str, Any]:
        """What the answer says again of the request."""
        said = self.text.format or {"type": "text"}
        return {
            "instructions": self.instructions,
            "metadata": self.metadata or {},
            "max_output_tokens": self.max_output_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "tools": self.tools,
            "tool_choice": self.tool_choice or "auto",
            "parallel_tool_calls": self.parallel_tool_calls is not False,
            "text": {"format": said},
            "reasoning": {"effort": self.reasoning.effort, "summary": None},
            "previous_response_id": None,
            "truncation": "disabled",
            "store": False,
            "background": False,
            "user": self.user,
        }


@cache
def _of_chat_alone() -> Mapping[str, tuple[Any, ...]]:
    """What the chat takes and this does not, by the values that ask for nothing there."""
    others = {**CHAT, **{name: _neutral(field) for name, field in ChatRequest.model_fields.items()}}
    ours = {*ResponsesRequest.model_fields, *_TAKEN_UNUSED}
    return {name: neutral for name, neutral in others.items() if name not in ours}


def _neutral(field: FieldInfo) -> tuple[Any, ...]:
    default = None if field.is_required() else field.get_default(call_default_factory=True)
    return (default, int(default)) if type(default) is float else (default,)


def renamed(param: str | None) -> str | None:
    """What a field of the chat is called here, as in tools.0.name."""
    return ".".join(map(str, _place(param.split(".")))) if param else param


def _place(chat: Sequence[str | int]) -> list[str | int]:
    """Where a field of the chat is here: what chat has in an object of its own stands beside its type."""
    first, *rest = chat
    if first == "messages":
        return [_RENAMED[first]]  # of which item a message was made is not known here
    return [_RENAMED.get(str(first), first), *(part for part in rest if part not in _INNER.get(str(first), ()))]


def _renamed(error: dict[str, Any]) -> dict[str, Any]:
    context = dict(error.get("ctx", {}))
    if "field" in context:
        context["field"] = renamed(context["field"])
    place = _place(error["loc"]) if error["loc"] else []
    return {**error, "loc": ("body", *place), "ctx": context}


def _messages(items: list[InputItem]) -> list[dict[str, Any]]:
    """As messages of a chat: calls in a row are one turn's."""
    found: list[dict[str, Any]] = []
    for item in items:
        message = item.chat()
        if item.type == "function_call" and found and found[-1]["role"] == "assistant":
            found[-1].setdefault("tool_calls", []).extend(message["tool_calls"])
        else:
            found.append(message)
    return found


def _response_format(said: dict[str, Any] | None) -> dict[str, Any] | None:
    if said is None or said.get("type") == "text":
        return None
    if said.get("type") == "json_schema":
        return {"type": "json_schema", "json_schema": {name: part for name, part in said.items() if name != "type"}}
    return said


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {name: part for name, part in tool.items() if name != "type"}}


def _tool_choice(said: Any) -> Any:
    match said:
        case {"type": "function"}:
            return {"type": "function", "function": {name: part for name, part in said.items() if name != "type"}}
        case {"type": "allowed_tools", **allowed}:
            tools = allowed.get("tools")
            if isinstance(tools, list):
                allowed["tools"] = [_tool_choice(tool) for tool in tools]
            return {"type": "allowed_tools", "allowed_tools": allowed}
    return said
