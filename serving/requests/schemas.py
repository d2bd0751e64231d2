"""The OpenAI requests that we take. A field that we do not support is refused by name when it is used."""

import secrets
from typing import Annotated, Any, Literal, Self

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

from cluster.wire.requests import Sampling
from serving.requests.complaints import refusal
from serving.requests.conversation import Message, TemplateArguments, TemplateObject
from serving.requests.sampling_defaults import Sampled, SamplingDefaults
from serving.requests.structured import (
    MAX_TOOLS,
    Chosen,
    FunctionTool,
    Pattern,
    ResponseFormat,
    Schema,
    StructuredOutputs,
    ToolChoice,
    check_tools,
    forms_of,
    schema_of,
    tools_of,
)
from serving.requests.unsupported import CHAT, COMPLETION, refuse_used
from serving.structure.wanted import Form, Wanted

MAX_CHOICES = "max_choices"
"""In the context of a validation: how many answers a request may ask for, its prompts times n."""
MAX_MESSAGES = 2048
MAX_BIASED = 300
MAX_STOP_TOKENS = 256
MAX_IGNORED_LETTERS = 1024
MAX_TEMPLATE_NAME_LETTERS = 64
COMPLETION_TOKENS = 16
"""OpenAI's bound for a completion that sets none."""
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
Stop = Annotated[list[Annotated[str, Field(max_length=256)]], Field(max_length=16, fail_fast=True)]
StopTokens = Annotated[
    list[Annotated[int, Field(ge=0, le=2**31 - 1)]], Field(max_length=MAX_STOP_TOKENS, fail_fast=True)
]
LogitBias = Annotated[
    dict[Annotated[int, Field(ge=0)], Annotated[float, Field(ge=-100.0, le=100.0)]], Field(max_length=MAX_BIASED)
]


class StreamOptions(BaseModel):
    """What a stream carries beside the text."""

    include_usage: bool = False

    @field_validator("include_usage", mode="before")
    @classmethod
    def _null_is_false(cls, value: Any) -> Any:
        return False if value is None else value


class GenerationRequest(Sampled):
    """What chat and plain completions share. What it does not say of `Sampled` is as the model's defaults have it."""

    model_config = ConfigDict(extra="ignore", strict=False)

    model: str = Field(min_length=1, max_length=200)
    n: int = Field(1, ge=1, le=16)
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    max_tokens: Count | None = None
    min_tokens: int = Field(0, ge=0, le=2**31 - 1, description="no end of the answer before that")
    stop: Stop = Field(default_factory=list)
    stop_token_ids: StopTokens = Field(default_factory=list)
    ignore_eos: bool = Field(False, description="go on where the model would end")
    presence_penalty: float = Field(0.0, ge=-2.0, le=2.0)
    frequency_penalty: float = Field(0.0, ge=-2.0, le=2.0)
    logit_bias: LogitBias = Field(default_factory=dict, description="by token, added to its logit")
    stream: bool = False
    stream_options: StreamOptions | None = None
    return_token_ids: bool = Field(False, description="also give each choice's tokens, as token_ids")
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = Field(None, description="as vLLM names it, like guided_*")
    guided_json: Schema | None = Field(None, description="an answer in JSON of this schema")
    guided_regex: Pattern | None = Field(None, description="an answer that this matches")
    guided_choice: Chosen | None = Field(None, description="one of these texts")
    guided_grammar: Pattern | None = Field(None, description="an answer of this grammar, in Lark or GBNF")
    user: str | None = Field(None, max_length=MAX_IGNORED_LETTERS)

    @field_validator("stop", "stop_token_ids", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any, info: ValidationInfo) -> Any:
        if value is None:
            return []
        return [value] if isinstance(value, str) and info.field_name == "stop" else value

    @field_validator("logit_bias", mode="before")
    @classmethod
    def _few_or_null(cls, value: Any) -> Any:
        if isinstance(value, dict) and len(value) > MAX_BIASED:
            raise ValueError(f"at most {MAX_BIASED} tokens")  # before each is looked at
        return {} if value is None else value

    @field_validator(
        "n", "min_tokens", "ignore_eos", "presence_penalty", "frequency_penalty", "stream", "return_token_ids",
        mode="before",
    )  # fmt: skip
    @classmethod
    def _null_is_default(cls, value: Any, info: Any) -> Any:
        return cls.model_fields[info.field_name].default if value is None else value

    @field_validator("guided_json", mode="before")
    @classmethod
    def _read_schema(cls, value: Any) -> Any:
        return schema_of(value)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        forms = self._forms()
        if len(forms) > 1:
            raise refusal(forms[1].param, f"the answer has a form already, by {forms[0].param}")
        wanted = self.wanted
        if wanted is None:
            return self
        if self.ignore_eos:
            raise refusal("ignore_eos", "an answer that keeps to a structure ends where that does")
        if self.min_tokens:
            raise refusal("min_tokens", "an answer that keeps to a structure ends where that does")
        if wanted.tools and wanted.form is not None and wanted.form.kind == "grammar":
            raise refusal(wanted.form.param, "an answer of a grammar of its own can call no tools")
        return self

    def _forms(self) -> list[Form]:
        """All that is said of the form of the answer's text."""
        asked = self.response_format.form() if self.response_format is not None else None
        named = self.structured_outputs.forms() if self.structured_outputs is not None else []
        guided = (self.guided_json, self.guided_regex, self.guided_choice, self.guided_grammar)
        return [*([asked] if asked is not None else []), *named, *forms_of("guided_", *guided)]

    @property
    def wanted(self) -> Wanted | None:
        """What the answer shall keep to, None if to nothing."""
        forms = self._forms()
        return Wanted(forms[0]) if forms else None

    @field_validator("n")
    @classmethod
    def _few_choices(cls, value: int, info: ValidationInfo) -> int:
        _check_choices(1, value, info)
        return value

    @property
    def likeliest_told(self) -> int | None:
        """How many of the likeliest tokens to tell with each token's log probability; None: tell none at all."""
        return None

    @property
    def wanted_tokens(self) -> tuple[str, int | None]:
        """The field that bounds the answer, and its bound in tokens, None if there is none."""
        return "max_tokens", self.max_tokens

    def samplings(self, defaults: SamplingDefaults) -> list[Sampling]:
        """How each of the n choices is drawn; a request without a seed gets one."""
        seed = self.seed if self.seed is not None else secrets.randbits(63)
        chosen = {
            name: getattr(defaults, name) if (value := getattr(self, name)) is None else value
            for name in Sampled.model_fields
        }
        return [
            Sampling(
                **chosen,
                seed=seed + index,
                presence_penalty=self.presence_penalty,
                frequency_penalty=self.frequency_penalty,
                logit_bias=tuple(self.logit_bias.items()),
                logprobs=self.likeliest_told,
            )
            for index in range(self.n)
        ]


def _check_choices(prompts: int, n: int, info: ValidationInfo) -> None:
    most = (info.context or {}).get(MAX_CHOICES)
    if most is not None and prompts * n > most:
        raise ValueError(f"{prompts} prompts with n = {n}: at most {most} choices are taken (frontend.max_choices)")


class ChatRequest(GenerationRequest):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(fail_fast=True)] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_completion_tokens: Count | None = None
    logprobs: bool = Field(False, strict=True)
    top_logprobs: int | None = Field(None, ge=0, le=20, strict=True)
    tools: Annotated[list[FunctionTool], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    documents: list[TemplateObject] | None = Field(None, max_length=MAX_MESSAGES, description="for the chat template")
    chat_template: str | None = Field(
        None, max_length=MAX_TEMPLATE_NAME_LETTERS, description="which of the model's own templates, by name"
    )
    chat_template_kwargs: TemplateArguments = Field(default_factory=dict, description="more for the chat template")
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = Field(
        None, description="for the chat template"
    )
    add_generation_prompt: bool | None = Field(None, description="whether the template begins the assistant's turn")
    continue_final_message: bool = Field(False, description="whether the answer goes on with the last message")

    @field_validator("logprobs", "continue_final_message", mode="before")
    @classmethod
    def _null_is_false(cls, value: Any) -> Any:
        return False if value is None else value

    @field_validator("tools", "documents")
    @classmethod
    def _none_is_nothing(cls, value: list[Any] | None) -> list[Any] | None:
        return value or None

    @field_validator("chat_template_kwargs", mode="before")
    @classmethod
    def _null_is_nothing(cls, value: Any) -> Any:
        return {} if value is None else value

    @field_validator("chat_template")
    @classmethod
    def _only_a_name(cls, value: str | None) -> str | None:
        if value is not None and ("{" in value or "\n" in value):
            raise ValueError(
                "it is the name of one of the model's own templates: others are not taken, they are programs"
            )
        return value

    @field_validator("continue_final_message")
    @classmethod
    def _goes_on_or_begins(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("add_generation_prompt"):
            raise ValueError(
                "the answer either goes on with the last message or, with add_generation_prompt, begins one"
            )
        return value

    @field_validator("top_logprobs")
    @classmethod
    def _with_logprobs(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value and not info.data.get("logprobs", True):
            raise ValueError("needs logprobs: true")
        return value

    @model_validator(mode="before")
    @classmethod
    def _supported(cls, data: Any) -> Any:
        return refuse_used(data, CHAT)

    @model_validator(mode="after")
    def _tools_are_there(self) -> Self:
        check_tools(self.tools or (), self.tool_choice)
        return self

    @property
    def wanted(self) -> Wanted | None:
        plain = super().wanted
        tools, required = tools_of(self.tools or (), self.tool_choice)
        if not tools:
            return plain
        form = plain.form if plain is not None else None
        return Wanted(form, tools, required, self.parallel_tool_calls is not False)

    @property
    def likeliest_told(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def wanted_tokens(self) -> tuple[str, int | None]:
        if self.max_completion_tokens is not None:
            return "max_completion_tokens", self.max_completion_tokens
        return super().wanted_tokens

    @property
    def template_arguments(self) -> dict[str, Any]:
        """What the chat template is handed beside the messages."""
        begins = self.add_generation_prompt
        given = {
            "tools": [tool.model_dump(exclude_unset=True) for tool in self.tools] if self.tools else None,
            "documents": self.documents,
            "chat_template": self.chat_template,
            "reasoning_effort": self.reasoning_effort,
            "add_generation_prompt": not self.continue_final_message if begins is None else begins,
            "continue_final_message": self.continue_final_message or None,
        }
        return {**{name: value for name, value in given.items() if value is not None}, **self.chat_template_kwargs}


def _kind_of_prompt(value: Any) -> str | None:
    if isinstance(value, str):
        return "<text>"
    if not isinstance(value, list):
        return None
    first = value[0] if value else None
    return "<texts>" if isinstance(first, str) else "<lists of tokens>" if isinstance(first, list) else "<tokens>"


_Token = Annotated[int, Field(ge=-(2**31), le=2**31 - 1)]
_Tokens = Annotated[list[_Token], Field(fail_fast=True)]
Prompt = Annotated[
    Annotated[str, Tag("<text>")]
    | Annotated[list[str], Field(fail_fast=True), Tag("<texts>")]
    | Annotated[_Tokens, Tag("<tokens>")]
    | Annotated[list[_Tokens], Field(fail_fast=True), Tag("<lists of tokens>")],
    Discriminator(
        _kind_of_prompt,
        custom_error_type="prompt_kind",
        custom_error_message="it is not a text, a list of texts, tokens, or a list of lists of tokens",
    ),
]


class CompletionRequest(GenerationRequest):
    """POST /v1/completions. A prompt is a text or its tokens."""

    prompt: Prompt
    logprobs: int | None = Field(None, ge=0, le=5, strict=True)
    echo: bool = Field(False, description="begin the text with the prompt")
    best_of: Count | None = Field(None, description="1, or n: the best of more answers is not looked for")

    @field_validator("echo", mode="before")
    @classmethod
    def _null_is_false(cls, value: Any) -> Any:
        return False if value is None else value

    @field_validator("echo")
    @classmethod
    def _text_alone(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("logprobs") is not None:
            raise ValueError("echo together with logprobs is not supported")
        return value

    @field_validator("best_of")
    @classmethod
    def _as_many_as_asked(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value not in (None, 1, info.data.get("n", value)):
            raise ValueError(
                "best_of is not supported, unless it is 1 or n: the best of more answers is not looked for"
            )
        return None

    @field_validator("prompt", mode="before")
    @classmethod
    def _few_prompts(cls, value: Any, info: ValidationInfo) -> Any:
        several = _kind_of_prompt(value) in ("<texts>", "<lists of tokens>")
        _check_choices(len(value) if several else 1, info.data.get("n", 1), info)
        return value

    @model_validator(mode="before")
    @classmethod
    def _supported(cls, data: Any) -> Any:
        return refuse_used(data, COMPLETION)

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
