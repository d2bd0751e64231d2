"""What a request says of its answer's structure: the form of its text, and the tools that may be called."""

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

import jiter
from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

from serving.requests.complaints import refusal
from serving.requests.conversation import TemplateObject, plain
from serving.requests.unsupported import STRUCTURED, refuse_used
from serving.structure.wanted import Form, Tool

MAX_TOOLS = 128
MAX_CHOSEN = 1024
MAX_SCHEMA_LETTERS = 1 << 17
"""Of all schemas of a request together, in JSON; and of each text that is a pattern or a grammar."""
MAX_DESCRIPTION_LETTERS = 1 << 16
_NAME = r"^[a-zA-Z0-9_-]{1,64}$"
_JSON, _REGEX, _CHOICE, _GRAMMAR = "json", "regex", "choice", "grammar"
_NO_ARGUMENTS = {"type": "object", "properties": {}, "additionalProperties": False}


def _short(value: dict[str, Any]) -> dict[str, Any]:
    if letters_of(value) > MAX_SCHEMA_LETTERS:
        raise ValueError(f"it has more than {MAX_SCHEMA_LETTERS} letters")
    return value


def letters_of(schema: Any) -> int:
    """How long it is in JSON."""
    return len(json.dumps(schema))


def schema_of(value: Any) -> Any:
    """A schema that may also have come as its JSON, which is read as bodies are: nothing in it is nested by hundreds."""
    if not isinstance(value, str):
        return value
    if len(value) > MAX_SCHEMA_LETTERS:
        raise ValueError(f"it has more than {MAX_SCHEMA_LETTERS} letters")
    try:
        return jiter.from_json(value.encode(), allow_inf_nan=False, cache_mode="none", catch_duplicate_keys=True)
    except ValueError as error:
        raise ValueError(f"it is no JSON that is taken: {error}") from error


Name = Annotated[str, Field(pattern=_NAME)]
Schema = Annotated[TemplateObject, AfterValidator(_short)]
Pattern = Annotated[str, Field(min_length=1, max_length=MAX_SCHEMA_LETTERS)]
Chosen = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=MAX_CHOSEN)]],
    Field(min_length=1, max_length=MAX_CHOSEN, fail_fast=True),
]


class _Told(BaseModel):
    """What else is said of it is for the chat template."""

    model_config = ConfigDict(extra="allow")

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, data: Any) -> Any:
        for field, value in data.items() if isinstance(data, dict) else ():
            if field not in cls.model_fields:
                plain(value)
        return data


class Function(_Told):
    """A function that may be called; its arguments are an object by `parameters`, an empty one if they are missing."""

    name: Name
    description: str | None = Field(None, max_length=MAX_DESCRIPTION_LETTERS)
    parameters: Schema | None = None
    strict: bool | None = None

    @field_validator("parameters")
    @classmethod
    def _of_an_object(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value and value.get("type", "object") != "object":
            raise ValueError("arguments are an object: its type is not object")
        return value


class FunctionTool(_Told):
    """A tool; only functions are taken."""

    type: Literal["function"]
    function: Function


class _Named(BaseModel):
    name: Name


class ChosenFunction(BaseModel):
    """The function that is to be called."""

    type: Literal["function"]
    function: _Named


class _AllowedTools(BaseModel):
    mode: Literal["auto", "required"]
    tools: list[ChosenFunction] = Field(min_length=1, max_length=MAX_TOOLS)


class AllowedTools(BaseModel):
    """Those of the tools that may be called."""

    type: Literal["allowed_tools"]
    allowed_tools: _AllowedTools


def _kind_of_choice(value: Any) -> str:
    if not isinstance(value, dict):
        return "<word>"
    return "<tools>" if value.get("type") == "allowed_tools" else "<function>"


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("<word>")]
    | Annotated[ChosenFunction, Tag("<function>")]
    | Annotated[AllowedTools, Tag("<tools>")],
    Discriminator(_kind_of_choice),
]


class JsonSchema(BaseModel):
    """A form of JSON texts, by name."""

    name: Name
    description: str | None = Field(None, max_length=MAX_DESCRIPTION_LETTERS)
    schema_: Schema | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(BaseModel):
    """What an answer's text shall be."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="before")
    @classmethod
    def _schema_in_its_place(cls, data: Any) -> Any:
        """Others take one beside the other types, and an answer would not keep to it here."""
        for field in ("schema", "json_schema") if isinstance(data, dict) else ():
            if data.get(field) is not None and (field == "schema" or data.get("type") in ("text", "json_object")):
                raise refusal(field, "a schema is taken where type is json_schema alone")
        return data

    @model_validator(mode="after")
    def _with_schema(self) -> Self:
        if self.type == "json_schema" and self.json_schema is None:
            raise refusal("json_schema", "it is needed where type is json_schema")
        return self

    def form(self) -> Form | None:
        """None: any text."""
        if self.type == "text":
            return None
        if self.type == "json_object" or self.json_schema is None:
            return Form(_JSON, {"type": "object"}, True, "response_format")
        # who does not say is told what cannot be kept to
        strict = self.json_schema.strict is not False
        return Form(_JSON, self.json_schema.schema_ or {}, strict, "response_format.json_schema.schema")


class StructuredOutputs(BaseModel):
    """The same as vLLM and others name it."""

    json_: Schema | None = Field(None, alias="json")
    regex: Pattern | None = None
    choice: Chosen | None = None
    grammar: Pattern | None = None
    json_object: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _supported(cls, data: Any) -> Any:
        return refuse_used(data, STRUCTURED)

    @field_validator("json_", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        return schema_of(value)

    def forms(self) -> list[Form]:
        """What is said of it."""
        return forms_of(
            "structured_outputs.", self.json_, self.regex, self.choice, self.grammar, bool(self.json_object)
        )


def forms_of(
    prefix: str,
    schema: Any,
    regex: str | None,
    choice: Sequence[str] | None,
    grammar: str | None,
    any_json: bool = False,
) -> list[Form]:
    """What fields of these kinds say, whose names begin so."""
    given = {_JSON: schema, _REGEX: regex, _CHOICE: choice, _GRAMMAR: grammar}
    found = [Form(kind, value, True, prefix + kind) for kind, value in given.items() if value is not None]
    return found + [Form(_JSON, {"type": "object"}, True, f"{prefix}json_object")] * any_json


def tools_of(tools: Sequence[FunctionTool], choice: Any) -> tuple[tuple[Tool, ...], bool]:
    """The tools that may be called by what was chosen, and whether one must be. `check_tools` has passed them."""
    found = tuple(
        Tool(
            name=tool.function.name,
            schema=tool.function.parameters or dict(_NO_ARGUMENTS),
            strict=bool(tool.function.strict),
            param=f"tools.{index}.function.parameters",
        )
        for index, tool in enumerate(tools)
    )
    match choice:
        case "none":
            return (), False
        case ChosenFunction():
            return tuple(tool for tool in found if tool.name == choice.function.name), True
        case AllowedTools(allowed_tools=allowed):
            names = {tool.function.name for tool in allowed.tools}
            return tuple(tool for tool in found if tool.name in names), allowed.mode == "required"
    return found, choice == "required"


def check_tools(tools: Sequence[FunctionTool], choice: Any) -> None:
    """A refusal if what was chosen is not there, or which of two is meant cannot be told."""
    names = set[str]()
    for tool in tools:
        if tool.function.name in names:
            raise refusal("tools", f"two functions are called {tool.function.name}")
        names.add(tool.function.name)
    if sum(letters_of(tool.function.parameters) for tool in tools) > MAX_SCHEMA_LETTERS:
        raise refusal("tools", f"their parameters have more than {MAX_SCHEMA_LETTERS} letters together")
    if not names and choice not in (None, "none", "auto"):
        raise refusal("tool_choice", "it needs tools")
    chosen = choice.allowed_tools.tools if isinstance(choice, AllowedTools) else [choice]
    for each in chosen:
        if isinstance(each, ChosenFunction) and each.function.name not in names:
            raise refusal("tool_choice", f"none of the tools is called {each.function.name}")
