"""Structures kept to by a small real model, as OpenAI's client and LangChain ask for them. It has no sense to speak of: what
is tested is that what it says is of the form, whole and streamed alike."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import httpx
import openai
import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, ConfigDict, Field

from storage_tiers.checkpoint import Checkpoint
from storage_tiers.model_store import ModelStore
from storage_tiers.publishing.publish import publish
from tests.asking import NO_AUTHORITIES
from tests.serving.structure.test_templates import QWEN_CODER
from tests.serving.tokenizers import byte_files
from tests.tiny import make_tiny

_ASKED: Any = [{"role": "user", "content": "What is the weather in Paris?"}]
_SHORT: Any = {"max_tokens": 160, "seed": 1, "temperature": 0.0}


class Weather(BaseModel):
    """The weather of a place."""

    place: Literal["Paris", "London"]
    degrees: int = Field(ge=-50, le=50)
    kind: Literal["sun", "rain"]


class Looked(BaseModel):
    """Arguments of all kinds."""

    model_config = ConfigDict(extra="forbid")

    text: str = Field(pattern=r"^[<>a-c\n]{3,9}$")
    city: Literal["Paris", "London"] | None
    days: list[Annotated[int, Field(ge=1, le=9)]] = Field(min_length=1, max_length=2)


_TOOL: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Look the weather of a city up.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"enum": ["Paris", "London"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 9},
            },
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
_ANOTHER: Any = {"type": "function", "function": {"name": "get_time"}}


@tool
def look_up(city: Literal["Paris", "London"]) -> str:
    """The weather of a city."""
    return f"It rains in {city}."


@pytest.fixture(scope="module")
def chat(frontend: str, smollm2: Checkpoint) -> Iterator[ChatOpenAI]:
    with httpx.Client(verify=NO_AUTHORITIES) as http:
        yield ChatOpenAI(
            model=smollm2.name, base_url=f"{frontend}/v1", api_key="none", max_retries=0, timeout=120, http_client=http,
            temperature=0.0, seed=1, max_completion_tokens=160,
        )  # type: ignore[call-arg, arg-type]  # fmt: skip


# ---- OpenAI's client


def test_what_is_parsed_is_what_was_modelled(api: openai.OpenAI, smollm2: Checkpoint) -> None:
    whole = api.chat.completions.parse(model=smollm2.name, messages=_ASKED, response_format=Weather, **_SHORT)
    assert isinstance(whole.choices[0].message.parsed, Weather)
    assert whole.choices[0].finish_reason == "stop"
    with api.chat.completions.stream(model=smollm2.name, messages=_ASKED, response_format=Weather, **_SHORT) as stream:
        streamed = stream.get_final_completion()
    assert streamed.choices[0].message.parsed == whole.choices[0].message.parsed


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_a_tool_that_is_to_be_called_is_called(api: openai.OpenAI, smollm2: Checkpoint, choice: Any) -> None:
    asked: Any = {
        "model": smollm2.name, "messages": _ASKED, "tools": [_TOOL], "tool_choice": choice, "parallel_tool_calls": False,
        **_SHORT,
    }  # fmt: skip
    whole = api.chat.completions.create(**asked, n=2).choices
    for answered in whole:
        (call,) = answered.message.tool_calls
        assert call.function.name == "get_weather"
        found = json.loads(call.function.arguments)
        assert found.keys() == {"city", "days"}
        assert answered.message.content is None
        assert answered.finish_reason == "tool_calls"
    with api.chat.completions.stream(**asked) as stream:
        (streamed,) = stream.get_final_completion().choices
    (call,) = streamed.message.tool_calls or ()
    assert call.function.arguments == whole[0].message.tool_calls[0].function.arguments
    assert streamed.finish_reason == "tool_calls"


def test_a_call_is_streamed_in_pieces_its_name_first(api: openai.OpenAI, smollm2: Checkpoint) -> None:
    chunks = api.chat.completions.create(
        model=smollm2.name, messages=_ASKED, tools=[_TOOL], tool_choice="required", parallel_tool_calls=False, stream=True,
        **_SHORT,
    )  # fmt: skip
    first, *rest = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
    assert (first.index, first.type, first.function.name, first.function.arguments) == (
        0,
        "function",
        "get_weather",
        "",
    )
    assert first.id.startswith("call_")
    assert len(rest) > 1
    assert all(piece.id is None and piece.function.name is None for piece in rest)
    json.loads("".join(piece.function.arguments for piece in rest))


def test_a_call_whose_values_stand_one_by_one_comes_as_one_object(
    api: openai.OpenAI, shared_store: ModelStore, tmp_path: Path
) -> None:
    """A model without sense, with Qwen3-Coder's own template: what was written goes back into the next turn."""
    source = make_tiny("llama", tmp_path / "source", vocab_size=257, max_position_embeddings=4096)
    for file, data in byte_files(chat_template=QWEN_CODER).items():
        (source / file).write_bytes(data)
    name = publish(str(source), "writes-values", shared_store).name
    tool: Any = {
        "type": "function",
        "function": {"name": "f", "parameters": Looked.model_json_schema(), "strict": True},
    }
    asked: Any = {"model": name, "tools": [tool], "tool_choice": "required", "parallel_tool_calls": False, **_SHORT}
    asked |= {"max_tokens": 400}
    (whole,) = api.chat.completions.create(messages=_ASKED, **asked).choices
    (call,) = whole.message.tool_calls
    assert whole.finish_reason == "tool_calls"
    assert Looked.model_validate_json(call.function.arguments, strict=True)
    with api.chat.completions.stream(messages=_ASKED, **asked) as stream:
        (streamed,) = stream.get_final_completion().choices
    assert (streamed.message.tool_calls or ())[0].function.arguments == call.function.arguments
    history = [*_ASKED, whole.message, {"role": "tool", "tool_call_id": call.id, "content": "so"}]
    more = api.chat.completions.create(messages=history, **{**asked, "max_tokens": 1})
    assert more.usage.prompt_tokens > len(call.function.arguments)


def test_a_response_calls_a_tool_whole_and_streamed(api: openai.OpenAI, smollm2: Checkpoint) -> None:
    tools: Any = [{"type": "function", **_TOOL["function"], "strict": True}]
    asked: Any = {"model": smollm2.name, "input": _ASKED[0]["content"], "tools": tools, "tool_choice": "required"}
    asked |= {"temperature": 0.0, "max_output_tokens": 160}
    (call,) = api.responses.create(**asked, parallel_tool_calls=False).output
    assert (call.type, call.name) == ("function_call", "get_weather")
    assert set(json.loads(call.arguments)) == {"city", "days"}
    events = list(api.responses.create(**asked, parallel_tool_calls=False, stream=True))
    pieces = "".join(event.delta for event in events if event.type == "response.function_call_arguments.delta")
    assert pieces == call.arguments
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[-1].type == "response.completed"


def test_who_may_call_may_also_just_answer(api: openai.OpenAI, smollm2: Checkpoint) -> None:
    (answered,) = api.chat.completions.create(
        model=smollm2.name, messages=_ASKED, tools=[_TOOL, _ANOTHER], stop=["."], **_SHORT
    ).choices
    assert answered.message.content or answered.message.tool_calls


def test_a_call_that_is_cut_off_says_so(api: openai.OpenAI, smollm2: Checkpoint) -> None:
    (answered,) = api.chat.completions.create(
        model=smollm2.name, messages=_ASKED, tools=[_TOOL], tool_choice="required", max_tokens=24
    ).choices
    assert answered.finish_reason == "length"
    assert answered.message.tool_calls[0].function.name == "get_weather"
    assert not answered.message.tool_calls[0].function.arguments.endswith("}")


@pytest.mark.parametrize(
    ("asked", "form"),
    [
        ({"response_format": {"type": "json_object"}}, None),
        ({"guided_choice": ["sunny", "rainy"]}, "sunny|rainy"),
        ({"guided_regex": "[a-c]{3} [0-9]/[0-9]"}, "[a-c]{3} [0-9]/[0-9]"),
        ({"guided_json": {"enum": [1, 2]}}, "[12]"),
        ({"structured_outputs": {"grammar": 'root ::= "yes" | "no"'}}, "yes|no"),
        ({"guided_grammar": 'start: "x" /[0-9]{2}/'}, "x[0-9]{2}"),
    ],
)
def test_a_text_is_of_the_form_that_was_asked_for(
    api: openai.OpenAI, smollm2: Checkpoint, asked: Any, form: str | None
) -> None:
    (choice,) = api.chat.completions.create(
        model=smollm2.name, messages=_ASKED, extra_body=asked, **{**_SHORT, "max_tokens": 40}
    ).choices
    text = choice.message.content
    assert choice.finish_reason == "stop" or form is None
    assert text.startswith("{") if form is None else re.fullmatch(form, text)
    (plain,) = api.completions.create(
        model=smollm2.name, prompt="The weather:", extra_body=asked, **{**_SHORT, "max_tokens": 40}
    ).choices
    assert plain.text.startswith("{") if form is None else re.fullmatch(form, plain.text)


def test_log_probabilities_are_those_of_the_text(api: openai.OpenAI, smollm2: Checkpoint) -> None:
    asked: Any = {"model": smollm2.name, "messages": _ASKED, "logprobs": True, **_SHORT}
    (text,) = api.chat.completions.create(**asked, extra_body={"guided_choice": ["sunny"]}).choices
    assert bytes(byte for told in text.logprobs.content for byte in told.bytes or ()) == b"sunny"
    (call,) = api.chat.completions.create(**asked, tools=[_TOOL], tool_choice="required").choices
    assert call.logprobs.content == []


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "object", "properties": {"a": {"not": {"type": "string"}}}}, 'Unimplemented keys: ["not"]'),
        ({"$ref": "#/$defs/nowhere"}, "does not exist"),
        ({"type": "string", "pattern": "("}, "regex parse error"),
        ({"type": "integer", "multipleOf": 7919 * 7907}, "the grammar of what is asked of the answer"),
    ],
)
def test_a_schema_that_cannot_be_kept_to_is_refused_and_harms_nobody(
    api: openai.OpenAI, smollm2: Checkpoint, schema: Any, said: str
) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    for _ in range(2):  # as often as a model's process may fail
        with pytest.raises(openai.BadRequestError) as refused:
            api.chat.completions.create(model=smollm2.name, messages=_ASKED, response_format=form, **_SHORT)
        assert said in refused.value.message
        assert refused.value.param == "response_format.json_schema.schema"
    api.chat.completions.create(model=smollm2.name, messages=_ASKED, max_tokens=1)


# ---- LangChain


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # LangChain's of OpenAI's client's own value
@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_langchain_gets_what_it_modelled(chat: ChatOpenAI, method: Any) -> None:
    bound = chat.with_structured_output(Weather, method=method)
    whole = bound.invoke("What is the weather in Paris?")
    assert isinstance(whole, Weather)
    assert list(bound.stream("What is the weather in Paris?"))[-1] == whole


def test_langchain_gets_json(chat: ChatOpenAI) -> None:
    """Whatever object it is, streamed as far as it is there."""
    bound = chat.with_structured_output(None, method="json_mode")
    assert isinstance(next(iter(bound.stream('Answer with JSON: {"rain": true}'))), dict)


@pytest.mark.parametrize("streamed", [False, True])
def test_an_agent_calls_its_tool_and_answers(chat: ChatOpenAI, streamed: bool) -> None:
    messages: list[Any] = [HumanMessage("What is the weather in Paris?")]

    def ask(model: Any) -> AIMessage:
        if not streamed:
            said = model.invoke(messages)
            assert isinstance(said, AIMessage)
            return said
        pieces = list(model.stream(messages))
        assert len(pieces) > 1
        whole = sum(pieces[1:], pieces[0])
        assert isinstance(whole, AIMessageChunk)
        return whole

    called = ask(chat.bind_tools([look_up], tool_choice="required", parallel_tool_calls=False))
    messages.append(called)
    for call in called.tool_calls:
        result = look_up.invoke(call)
        assert isinstance(result, ToolMessage)
        messages.append(result)
    assert [message.type for message in messages][2:] == ["tool"]
    final = ask(chat.bind_tools([look_up], tool_choice="none"))
    assert final.content
    assert not final.tool_calls
