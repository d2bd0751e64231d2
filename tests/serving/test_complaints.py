"""Whatever is wrong with a field is told in our words, with the field's name; what checks fields has others."""

import re
from typing import Any

import pytest
from fastapi.exceptions import RequestValidationError
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from serving.door.bodies import validated
from serving.embedding.schemas import EmbeddingRequest
from serving.errors import BadRequest
from serving.requests.complaints import complaint
from serving.requests.conversation import Message
from serving.requests.responses import ResponsesRequest
from serving.requests.schemas import MAX_CHOICES, ChatRequest, CompletionRequest
from serving.requests.unsupported import CHAT, COMPLETION

_NOT_OURS = re.compile(
    r"(?i)input should|field required|value error|valid \w+|unable to|pydantic|extra inputs|type=|assertion|should have at|"
    r"should match|<\w+>|\{\w*\}|none of the|tagged"
)
_HI = {"role": "user", "content": "hi"}
_CHAT = {"model": "m", "messages": [_HI]}
_COMPLETION = {"model": "m", "prompt": "hi"}
_ANOTHER = {"model": "m", "input": "hi"}
_FIELDS = sorted(
    [(ChatRequest, field) for field in ChatRequest.model_fields.keys() | CHAT.keys()]
    + [(CompletionRequest, field) for field in CompletionRequest.model_fields.keys() | COMPLETION.keys()]
    + [(ResponsesRequest, field) for field in ResponsesRequest.model_fields]
    + [(EmbeddingRequest, field) for field in EmbeddingRequest.model_fields],
    key=lambda each: (each[0].__name__, each[1]),
)
_SCALARS = (
    st.none() | st.booleans() | st.integers(-3, 3) | st.integers() | st.sampled_from([2**31, -(2**63) - 1, 2**64, 10**40])
    | st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from(["", "0", "1e999", "x", "{{ x }}", "none", "auto"])
    | st.text(max_size=3)
)  # fmt: skip
_NAMES = st.sampled_from(["type", "text", "content", "role", "messages", "function", "0", "<x>", "{x}"]) | st.text(
    max_size=3
)
_JSON = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=3), max_leaves=6
)


def refused(kind: type[BaseModel], body: Any) -> BadRequest | None:
    """What is told of the body, None if it is taken."""
    try:
        taken = validated(body, kind, {MAX_CHOICES: 128})
        if isinstance(taken, ResponsesRequest):
            taken.chat({})
    except RequestValidationError as error:
        return complaint(error.errors()[0])
    return None


def check(error: BadRequest | None, field: str) -> None:
    if error is not None:
        said = str(error)
        assert error.param is not None
        assert error.param.startswith(field[:200])
        assert said.startswith(error.param)
        assert _NOT_OURS.search(said.removeprefix(error.param)) is None, said


@pytest.mark.parametrize(("kind", "field"), _FIELDS, ids=lambda part: getattr(part, "__name__", part))
@settings(max_examples=30)
@given(value=_JSON)
def test_every_field_that_is_refused_is_named_in_a_sentence_of_ours(
    kind: type[BaseModel], field: str, value: Any
) -> None:
    """Clients were told of `messages.0.content.str` that 'Input should be a valid string', and of a field that is not
    supported without its `param`."""
    body = {**{ChatRequest: _CHAT, CompletionRequest: _COMPLETION}.get(kind, _ANOTHER), field: value}
    check(refused(kind, body), field)


@pytest.mark.parametrize("field", sorted(Message.model_fields))
@settings(max_examples=30)
@given(value=_JSON, role=st.sampled_from(["user", "assistant", "tool"]))
def test_so_is_every_field_of_a_message(field: str, value: Any, role: str) -> None:
    error = refused(ChatRequest, {"model": "m", "messages": [_HI, {"role": role, "content": "x", field: value}]})
    check(error, f"messages.1.{field}")


def _of(content: Any, **fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": content, **fields}]}


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        ({"messages": [_HI]}, "model", "it is needed, and is not there"),
        ({**_CHAT, "temperature": 3}, "temperature", "it is more than 2.0"),
        ({**_CHAT, "n": 0}, "n", "it is less than 1"),
        ({**_CHAT, "stop": ["x"] * 17}, "stop", "it has more than 16 entries"),
        ({**_CHAT, "stop": ["x" * 257]}, "stop.0", "it has more than 256 letters"),
        ({**_CHAT, "seed": "x"}, "seed", "it is not a whole number"),
        ({**_CHAT, "logit_bias": {"-1": 0}}, "logit_bias.-1", "it is less than 0"),
        ({**_CHAT, "stop_token_ids": 5}, "stop_token_ids", "it is not a list"),
        ({**_CHAT, "chat_template": "{{ 1 }}"}, "chat_template", "the name of one of the model's own templates"),
        ({**_CHAT, "chat_template_kwargs": {"tools": []}}, "chat_template_kwargs", "tools cannot be set here"),
        ({**_CHAT, "tools": [{"type": "function"}]}, "tools.0.function", "it is needed, and is not there"),
        ({**_CHAT, "tool_choice": "required"}, "tool_choice", "it needs tools"),
        ({**_CHAT, "functions": [{}]}, "functions", "functions is not supported: use tools"),
        (_of(None), "messages.0.content", "it is null or missing"),
        (_of(5), "messages.0.content", "it is not a text"),
        (_of([5]), "messages.0.content.0", "it is not an object"),
        (_of([{"type": "text"}]), "messages.0.content.0", "a part of the type text needs a text"),
        (_of([{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "data:,"}}]), "messages.0.content.1",
         "images are not supported"),
        (_of([{"type": "input_audio", "input_audio": {}}]), "messages.0.content.0", "audio is not supported"),
        (_of([{"type": "file", "file": {}}]), "messages.0.content.0", "files are not supported"),
        (_of([{"type": "smell"}]), "messages.0.content.0.type", "it is not 'text' or 'refusal'"),
        (_of("x", role="robot"), "messages.0.role", "it is not 'system', 'developer', 'user'"),
    ],
)  # fmt: skip
def test_a_refusal_says_what_is_wrong_and_where(body: Any, param: str, said: str) -> None:
    error = refused(ChatRequest, body)
    assert error is not None
    assert error.param == param
    assert said in str(error)
    check(error, param)
