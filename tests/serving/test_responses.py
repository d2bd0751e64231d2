"""POST /v1/responses: which chat it asks for, what it refuses by name, and the events of its streams."""

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi.exceptions import RequestValidationError

from cluster.wire.requests import Submit
from serving.answering.ask import Ask
from serving.answering.deltas import Answered, CallPiece, Delta
from serving.answering.responses import ResponseShape
from serving.door.bodies import validated
from serving.errors import BadRequest, Unavailable
from serving.requests.complaints import complaint
from serving.requests.responses import ResponsesRequest, renamed
from tests.cluster.groups import GREEDY

USER = {"role": "user", "content": "hi"}
FUNCTION = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}}


def _body(**fields: Any) -> ResponsesRequest:
    found = validated({"model": "m", "input": "hi", **fields}, ResponsesRequest, {})
    assert isinstance(found, ResponsesRequest)
    return found


def _refused(**fields: Any) -> BadRequest:
    """What a client is told of it."""
    with pytest.raises(RequestValidationError) as caught:
        _body(**fields).chat({})
    return complaint(caught.value.errors()[0])


# ---- the chat that is asked for


@pytest.mark.parametrize(
    ("fields", "messages"),
    [
        ({}, [USER]),
        ({"instructions": "Be brief."}, [{"role": "system", "content": "Be brief."}, USER]),
        ({"input": [USER]}, [USER]),
        (
            {"input": [
                {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "a"}]},
                {"role": "assistant", "content": [{"type": "output_text", "text": "b", "annotations": []}]},
                {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
            ]},
            [
                {"role": "system", "content": "a"}, {"role": "assistant", "content": "b"},
                {"role": "assistant", "content": "no"},
            ],
        ),
    ],
    ids=["text", "instructions", "message", "parts"],
)  # fmt: skip
def test_input_becomes_messages(fields: dict[str, Any], messages: list[dict[str, str]]) -> None:
    assert [message.plain() for message in _body(**fields).chat({}).messages] == messages


def test_calls_and_what_came_of_them_are_turns_of_the_conversation() -> None:
    items: list[dict[str, Any]] = [
        USER,
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}", "id": "fc_1", "status": "completed"},
        {"type": "function_call", "call_id": "c2", "name": "g", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "7"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "8"}]},
    ]
    _, calling, came, other = (message.plain() for message in _body(input=items).chat({}).messages)
    assert other == {"role": "tool", "content": "8", "tool_call_id": "c2"}
    assert [call["id"] for call in calling["tool_calls"]] == ["c1", "c2"]
    assert came == {"role": "tool", "content": "7", "tool_call_id": "c1"}


def test_bounds_and_sampling_are_the_chats() -> None:
    chat = _body(max_output_tokens=9, temperature=0.5, top_p=0.9, seed=3, stream=True, top_k=4).chat({})
    assert chat.wanted_tokens == ("max_output_tokens", 9)
    assert (chat.temperature, chat.top_p, chat.seed, chat.stream, chat.top_k) == (0.5, 0.9, 3, True, 4)


def test_tools_and_formats_are_the_chats() -> None:
    chat = _body(tools=[FUNCTION], tool_choice={"type": "function", "name": "f"}).chat({})
    assert chat.tools is not None
    assert chat.tools[0].function.name == "f"
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    said = _body(text={"format": {"type": "json_schema", "name": "x", "schema": schema}}).chat({}).response_format
    assert said is not None
    assert said.json_schema is not None
    assert (said.json_schema.name, said.json_schema.schema_) == ("x", schema)


def test_what_the_chat_takes_as_nothing_is_nothing_here() -> None:
    nothing: dict[str, Any] = {"n": 1, "stop": [], "presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}}
    options = {"stream_options": {"include_obfuscation": False}}
    assert len(_body(**nothing, logprobs=False, max_tokens=None, **options).chat({}).messages) == 1


def test_some_of_the_tools_may_be_allowed() -> None:
    tools = [{**FUNCTION, "name": name} for name in "fgh"]
    named = [{"type": "function", "name": name} for name in "fh"]
    wanted = (
        _body(tools=tools, tool_choice={"type": "allowed_tools", "mode": "required", "tools": named}).chat({}).wanted
    )
    assert wanted is not None
    assert ([tool.name for tool in wanted.tools], wanted.required) == (["f", "h"], True)


@pytest.mark.parametrize(
    "field",
    ["tools", "tool_choice", "text", "reasoning", "metadata", "store", "include", "background", "previous_response_id"],
)
def test_null_asks_for_nothing(field: str) -> None:
    assert [message.plain() for message in _body(**{field: None}).chat({}).messages] == [USER]


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id", "answers are not kept here"),
        ({"background": True}, "background", "not supported"),
        ({"include": ["reasoning.encrypted_content"]}, "include", "not supported"),
        ({"conversation": "conv_1"}, "conversation", "not supported"),
        ({"prompt": {"id": "p"}}, "prompt", "not supported"),
        ({"truncation": "auto"}, "truncation", "not supported"),
        ({"tools": [{"type": "web_search"}]}, "tools", "tools of the type web_search are not supported"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input.0", "items of the type item_reference are not"),
        ({"input": [{"type": "message", "role": "user"}]}, "input.0", "needs content"),
        ({"input": [{"type": "function_call", "name": "f"}]}, "input.0", "needs call_id"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input.0.content.0", "input_image"),
        ({"input": []}, "input", "fewer entries"),
        ({"max_output_tokens": 0}, "max_output_tokens", "less than 1"),
        ({"text": {"verbosity": "low"}}, "text.verbosity", ""),
        ({"metadata": {"a": 1}}, "metadata.a", "not a text"),
        ({"text": {"format": {"type": "nothing"}}}, "text.format.type", "'json_schema'"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.name", "needed"),
        ({"tools": [{"type": "function"}]}, "tools.0.name", "needed"),
        ({"tools": [FUNCTION], "tool_choice": {"type": "function", "name": "g"}}, "tool_choice", "called g"),
        (
            {
                "tools": [FUNCTION],
                "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function"}]},
            },
            "tool_choice.tools.0.name",
            "needed",
        ),
        ({"tool_choice": 5}, "tool_choice", "not a text"),
        ({"tools": [{**FUNCTION, "x": float("inf")}], "tool_choice": "none"}, "tools.0", "beyond all bounds"),
        ({"reasoning": {"summary": "auto"}}, "reasoning.summary", "not supported"),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input.0.content.0", "needs a text"),
        ({"max_tokens": 5}, "max_tokens", "not supported: use max_output_tokens"),
        ({"messages": [USER]}, "messages", "not supported: use input"),
        ({"response_format": {"type": "json_object"}}, "response_format", "not supported: use text.format"),
        ({"stop": ["x"]}, "stop", "not supported"),
        (
            {
                "instructions": "a",
                "input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": ""}] * 129,
            },
            "input",
            "more than 128",
        ),
        ({"suffix": "x", "guided_regex": "x"}, "guided_regex", "not supported"),
    ],
    ids=range(30),
)
def test_what_is_not_taken_is_refused_by_name(fields: dict[str, Any], param: str, said: str) -> None:
    told = _refused(**fields)
    assert told.param is not None
    assert told.param.startswith(param)
    assert said in str(told)


def test_what_is_wrong_with_the_chat_is_told_by_the_names_of_here() -> None:
    assert [renamed(name) for name in ("messages", "messages.0", "model", None)] == ["input", "input", "model", None]


# ---- events


def _asked() -> Ask:
    model = SimpleNamespace(name="m", text=None)
    submit, echoed = Submit("r.0", (1, 2), 2, 9, (), GREEDY), _body(metadata={"a": "b"}).echoed()
    return Ask("resp_1", "response", model, (submit,), 1, (), 0.0, False, False, echoed=echoed)  # type: ignore[arg-type]


def _events(*deltas: Delta) -> list[dict[str, Any]]:
    shape, answer = ResponseShape(), Answered()

    def written() -> Iterator[bytes]:
        yield from shape.begin(_asked())
        for delta in deltas:
            answer.add(delta)
            yield from shape.go_on(_asked(), delta)
        yield from shape.end(_asked(), [answer])

    return [_event(each) for each in written()]


def _event(written: bytes) -> dict[str, Any]:
    head, data = written.decode().strip().split("\n")
    found: dict[str, Any] = json.loads(data.removeprefix("data: "))
    assert head == f"event: {found['type']}"
    return found


def test_a_streams_events_are_numbered_and_end_with_what_a_whole_answer_says() -> None:
    deltas = [Delta(0, "a", (5,)), Delta(0, "", (6,)), Delta(0, "b", (7,), "stop")]
    events = _events(*deltas)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created", "in_progress", "output_item.added", "content_part.added", "output_text.delta", "output_text.delta",
        "output_text.done", "content_part.done", "output_item.done", "completed",
    ]  # fmt: skip
    answer = Answered()
    for delta in deltas:
        answer.add(delta)
    whole, last = ResponseShape().whole(_asked(), [answer]), events[-1]["response"]
    assert {**last, "output": []} == {**whole, "output": [], "created_at": last["created_at"]}
    assert [part["text"] for response in (whole, last) for part in response["output"][0]["content"]] == ["ab", "ab"]
    assert (last["usage"]["input_tokens"], last["usage"]["output_tokens"], last["metadata"]) == (2, 3, {"a": "b"})


def test_an_answer_that_reached_its_bound_is_incomplete() -> None:
    last = _events(Delta(0, "a", (5,), "length"))[-1]
    assert last["type"] == "response.incomplete"
    assert last["response"]["incomplete_details"] == {"reason": "max_output_tokens"}


def test_an_empty_answer_is_an_empty_message() -> None:
    response = _events(Delta(0, "", (5,), "stop"))[-1]["response"]
    assert [part["text"] for part in response["output"][0]["content"]] == [""]


def test_calls_of_functions_are_items_in_the_order_in_which_they_began() -> None:
    first, more = CallPiece(0, "c1", "f", '{"a"'), CallPiece(0, None, None, ":1}")
    second = CallPiece(1, "c2", "g", "{}")
    deltas = [Delta(0, "so", (5,)), Delta(0, "", (6,), calls=(first,)), Delta(0, "", (7,), calls=(more, second))]
    events = _events(*deltas, Delta(0, "", (), "tool_calls"))
    added = [event for event in events if event["type"] == "response.output_item.added"]
    assert [event["output_index"] for event in added] == [0, 1, 2]
    output = events[-1]["response"]["output"]
    assert [item["type"] for item in output] == ["message", "function_call", "function_call"]
    assert [(item["call_id"], item["name"], item["arguments"]) for item in output[1:]] == [
        ("c1", "f", '{"a":1}'), ("c2", "g", "{}"),
    ]  # fmt: skip
    assert [event["item"]["id"] for event in added] == [item["id"] for item in output]


def test_an_answer_of_calls_alone_has_no_message() -> None:
    output = _events(Delta(0, "", (6,), "tool_calls", calls=(CallPiece(0, "c1", "f", "{}"),)))[-1]["response"]["output"]
    assert [item["type"] for item in output] == ["function_call"]


def test_a_stream_that_breaks_off_says_that_it_failed_and_one_that_never_began_says_why() -> None:
    shape = ResponseShape()
    begun = [_event(each) for each in shape.begin(_asked())]
    (failed,) = (_event(each) for each in shape.fail(_asked(), Unavailable("gone")))
    assert (failed["type"], failed["response"]["status"]) == ("response.failed", "failed")
    assert failed["response"]["error"] == {"code": "model_unavailable", "message": "gone"}
    assert failed["sequence_number"] == len(begun)
    (refused,) = (_event(each) for each in ResponseShape().refuse(BadRequest("no", "input")))
    assert (refused["type"], refused["param"], refused["error"]["message"]) == ("error", "input", "no")
