"""What requests may say: every limit, every default, and every field that is refused by name."""

from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from cluster.wire.requests import Sampling, Submit
from cluster.wire.vocabulary import pack, unpack
from serving.requests.sampling_defaults import SamplingDefaults
from serving.requests.schemas import ChatRequest, CompletionRequest, GenerationRequest, StreamOptions

_HI: dict[str, Any] = {"role": "user", "content": "hi"}
_BOTH = pytest.mark.parametrize("kind", ["chat", "completion"])


def _chat(**fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({"model": "m", "messages": [_HI], **fields})


def _completion(**fields: Any) -> CompletionRequest:
    return CompletionRequest.model_validate({"model": "m", "prompt": "hi", **fields})


def _request(kind: str, **fields: Any) -> GenerationRequest:
    return _chat(**fields) if kind == "chat" else _completion(**fields)


_WITHIN = {
    "model": ["m", "org/m", "x" * 200],
    "temperature": [0, 0.7, 2],
    "top_p": [1e-9, 0.5, 1],
    "top_k": [0, 1, 2**31 - 1],
    "min_p": [0, 0.05, 1],
    "n": [1, 16],
    "seed": [-(2**63), 0, 2**63 - 1],
    "max_tokens": [1, 10**9],
    "stop": [[], ["x"], ["x"] * 16, "x"],
    "presence_penalty": [-2, 0, 2],
    "frequency_penalty": [-2, 0, 2],
    "repetition_penalty": [1e-300, 1, 2],
    "logit_bias": [{}, {"0": -100, "50256": 100}, {str(token): 0.5 for token in range(300)}],
    "stream": [True, False],
    "stream_options": [{"include_usage": True}, {}],
    "user": ["someone"],
}
_BEYOND = {
    "model": ["", "x" * 201, None, 5],
    "temperature": [-0.01, 2.01, "hot", float("nan"), float("inf")],
    "top_p": [0, -1, 1.01, float("nan")],
    "top_k": [-1, 0.5, 2**31],
    "min_p": [-0.01, 1.01, float("nan"), "little"],
    "n": [0, -1, 17, 1.5],
    "seed": [-(2**63) - 1, 2**63, "x", 0.5],
    "max_tokens": [0, -1, 1.5],
    "stop": [["x"] * 17, 5, [5], {"x": 1}],
    "presence_penalty": [-2.01, 2.01, "much"],
    "frequency_penalty": [-2.01, 2.01, "much"],
    "repetition_penalty": [0, -1, 2.01, float("nan"), "much"],
    "logit_bias": [
        {"5": 100.1},
        {"5": -100.1},
        {"5": float("nan")},
        {"5": None},
        {"5": "much"},
        {"-1": 1},
        {"a": 1},
        {"": 1},
        {"1.5": 1},
        [[5, 1]],
        "5",
        {str(token): 1 for token in range(301)},
    ],
    "stream": ["perhaps", 2],
    "stream_options": [True, "include_usage"],
}


def _pairs(table: dict[str, list[Any]]) -> list[tuple[str, Any]]:
    return [(field, value) for field, values in table.items() for value in values]


@_BOTH
@pytest.mark.parametrize(("field", "value"), _pairs(_WITHIN))
def test_what_is_within_the_limits_is_taken(kind: str, field: str, value: Any) -> None:
    _request(kind, **{field: value})


@_BOTH
@pytest.mark.parametrize(("field", "value"), _pairs(_BEYOND))
def test_what_is_beyond_a_limit_is_refused_at_that_field(kind: str, field: str, value: Any) -> None:
    with pytest.raises(ValidationError) as refused:
        _request(kind, **{field: value})
    assert {error["loc"][0] for error in refused.value.errors()} == {field}


@_BOTH
def test_a_model_must_be_named(kind: str) -> None:
    model = ChatRequest if kind == "chat" else CompletionRequest
    with pytest.raises(ValidationError, match="model"):
        model.model_validate({"messages": [_HI]} if kind == "chat" else {"prompt": "hi"})


@_BOTH
def test_null_is_the_same_as_nothing(kind: str) -> None:
    optional = [
        "temperature", "top_p", "top_k", "n", "seed", "max_tokens", "stop", "presence_penalty", "frequency_penalty",
        "stream", "stream_options", "return_token_ids", "user", "logprobs", "logit_bias", "min_p", "repetition_penalty",
    ]  # fmt: skip
    assert _request(kind, **dict.fromkeys(optional)) == _request(kind)
    more = ["min_tokens", "stop_token_ids", "ignore_eos", "echo" if kind == "completion" else "chat_template_kwargs"]
    assert _request(kind, **dict.fromkeys(more)) == _request(kind)
    assert _request(kind, stream_options={"include_usage": None}).stream_options == StreamOptions()


def test_the_defaults_are_openais() -> None:
    chat, completion = _chat(), _completion()
    assert (chat.max_tokens, chat.max_completion_tokens, completion.max_tokens) == (None, None, None)
    for request in (chat, completion):
        assert (request.n, request.stream, request.stop, request.min_tokens) == (1, False, [], 0)
        (sampling,) = request.samplings(SamplingDefaults())
        assert replace(sampling, seed=0) == Sampling()


@_BOTH
def test_stop_is_one_string_or_several(kind: str) -> None:
    assert _request(kind, stop="x").stop == ["x"]
    assert _request(kind, stop=["x", "y"]).stop == ["x", "y"]


@_BOTH
def test_a_field_that_nobody_knows_is_ignored(kind: str) -> None:
    assert _request(kind, store=False, metadata={"a": "b"}) == _request(kind)


_CHAT_REFUSED = {
    "functions": [[{"name": "f"}]],
    "function_call": ["f"],
    "audio": [{"voice": "alloy"}],
    "regex": ["a+"],
    "use_beam_search": [True],
    "echo": [True],
    "logits_processors": [["x"]],
    "max_output_tokens": [5],
    "instructions": ["be brief"],
}
_CHAT_NEUTRAL = {
    "tools": [[], None], "functions": [[]], "function_call": ["none", "auto"], "tool_choice": [None],
    "logprobs": [False], "audio": [None],
}  # fmt: skip
_COMPLETION_REFUSED = {
    "suffix": ["end"], "best_of": [2], "prompt_logprobs": [0], "grammar": ["a"], "max_completion_tokens": [5],
    "messages": [[_HI]], "tools": [[{}]], "tool_choice": ["required"],
}  # fmt: skip
_COMPLETION_NEUTRAL = {"suffix": ["", None], "echo": [False], "logprobs": [None], "best_of": [1]}


@pytest.mark.parametrize(("field", "value"), _pairs(_CHAT_REFUSED))
def test_what_a_chat_cannot_do_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=f"{field} is not supported"):
        _chat(**{field: value})


@pytest.mark.parametrize(("field", "value"), _pairs(_COMPLETION_REFUSED))
def test_what_a_completion_cannot_do_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=f"{field} is not supported"):
        _completion(**{field: value})


@pytest.mark.parametrize(("field", "value"), _pairs(_CHAT_NEUTRAL))
def test_a_chat_may_say_that_it_wants_none_of_it(field: str, value: Any) -> None:
    assert _chat(**{field: value}) == _chat()


@pytest.mark.parametrize(("field", "value"), _pairs(_COMPLETION_NEUTRAL))
def test_a_completion_may_say_that_it_wants_none_of_it(field: str, value: Any) -> None:
    assert _completion(**{field: value}) == _completion()


@pytest.mark.parametrize(
    "messages",
    [
        [],
        None,
        "hi",
        [{"role": "user"}],
        [{"role": "robot", "content": "x"}],
        [{"role": "user", "content": None}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}],
        [{"content": "hi"}],
    ],
)
def test_messages_must_be_turns_of_text(messages: Any) -> None:
    with pytest.raises(ValidationError, match="messages"):
        _chat(messages=messages)


def test_a_message_in_parts_is_their_text_in_a_row_and_a_developer_is_the_system() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    request = _chat(messages=[{"role": "developer", "content": parts}, _HI])
    assert [message.plain() for message in request.messages] == [{"role": "system", "content": "ab"}, _HI]


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("hi", ["hi"]),
        ("", [""]),
        (["a", "b"], ["a", "b"]),
        ([1, 2, 3], [[1, 2, 3]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
        ([], [[]]),
    ],
)
def test_a_prompt_is_text_or_tokens_one_or_several(prompt: Any, prompts: Any) -> None:
    """An empty list once was a request for nothing, answered with no choices; now it is one empty prompt."""
    assert _completion(prompt=prompt).prompts() == prompts


@pytest.mark.parametrize("prompt", [None, 5, {"text": "hi"}, [None], [1, "a"], [[1], "a"], [2**32], [[1], [2**70]]])
def test_any_other_prompt_is_refused(prompt: Any) -> None:
    with pytest.raises(ValidationError, match="prompt"):
        _completion(prompt=prompt)


@_BOTH
def test_each_choice_has_a_seed_of_its_own_after_the_one_given(kind: str) -> None:
    samplings = _request(kind, n=3, seed=7, temperature=0.5, top_p=0.9, top_k=5).samplings(SamplingDefaults())
    assert samplings == [Sampling(temperature=0.5, top_p=0.9, top_k=5, seed=seed) for seed in (7, 8, 9)]


@_BOTH
def test_without_a_seed_every_request_is_drawn_anew(kind: str) -> None:
    assert len({_request(kind).samplings(SamplingDefaults())[0].seed for _ in range(20)}) == 20


@pytest.mark.parametrize("seed", [-(2**63), 2**63 - 1])
def test_every_seed_fits_the_wire(seed: int) -> None:
    for sampling in _chat(n=16, seed=seed).samplings(SamplingDefaults()):
        submit = Submit("r", (1,), 1, 1, (), sampling)
        assert unpack(pack(submit)) == submit


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, None), ({"top_logprobs": 0}, None), ({"logprobs": True}, 0), ({"logprobs": True, "top_logprobs": None}, 0),
        ({"logprobs": True, "top_logprobs": 20}, 20),
    ],
)  # fmt: skip
def test_a_chat_says_with_two_fields_how_many_likely_tokens_it_wants_to_know(fields: Any, told: int | None) -> None:
    assert _chat(**fields).samplings(SamplingDefaults())[0].logprobs == told


@pytest.mark.parametrize("told", [None, 0, 5])
def test_a_completion_says_with_one_how_many_likely_tokens_it_wants_to_know(told: int | None) -> None:
    assert _completion(logprobs=told).samplings(SamplingDefaults())[0].logprobs == told


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("logprobs", {"logprobs": 1}), ("logprobs", {"logprobs": "true"}),
        ("top_logprobs", {"top_logprobs": 1}), ("top_logprobs", {"top_logprobs": 1, "logprobs": False}),
        ("top_logprobs", {"logprobs": True, "top_logprobs": 21}), ("top_logprobs", {"logprobs": True, "top_logprobs": -1}),
        ("top_logprobs", {"logprobs": True, "top_logprobs": True}),
    ],
)  # fmt: skip
def test_log_probabilities_of_a_chat_are_asked_for_in_its_own_way(field: str, fields: Any) -> None:
    with pytest.raises(ValidationError) as refused:
        _chat(**fields)
    assert {error["loc"] for error in refused.value.errors()} == {(field,)}


@pytest.mark.parametrize("value", [-1, 6, True, "5"])
def test_log_probabilities_of_a_completion_are_asked_for_in_its_own_way(value: Any) -> None:
    with pytest.raises(ValidationError, match="logprobs"):
        _completion(logprobs=value)


@_BOTH
def test_what_changes_the_odds_reaches_the_engine(kind: str) -> None:
    request = _request(kind, n=2, seed=1, min_p=0.1, repetition_penalty=1.2, logit_bias={"7": -100, "0": 2.5})
    changed = Sampling(seed=1, min_p=0.1, repetition_penalty=1.2, logit_bias=((7, -100.0), (0, 2.5)))
    assert request.samplings(SamplingDefaults()) == [changed, replace(changed, seed=2)]
    submit = Submit("r", (1,), 1, 1, (), changed)
    assert unpack(pack(submit)) == submit


_F: Any = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
_OF_F: Any = {"type": "function", "function": {"name": "f"}}
_OF_G: Any = {"type": "function", "function": {"name": "g"}}


@pytest.mark.parametrize(
    ("fields", "field", "said"),
    [
        ({"response_format": {"type": "json_schema"}}, "json_schema", "it is needed where type is json_schema"),
        ({"response_format": {"type": "xml"}}, "type", "literal"),
        ({"response_format": {"type": "json_object"}, "guided_regex": "a"}, "guided_regex", "by response_format"),
        ({"guided_regex": "a", "guided_choice": ["b"]}, "guided_choice", "by guided_regex"),
        ({"guided_json": "{"}, "guided_json", "it is no JSON"),
        ({"guided_json": '{"a":' * 600 + "1" + "}" * 600}, "guided_json", "it is no JSON that is taken: recursion"),
        ({"guided_json": '{"minimum": 1e999}'}, "guided_json", "a number beyond all bounds"),
        ({"structured_outputs": {"json": '{"a": NaN}'}}, "json", "it is no JSON"),
        ({"structured_outputs": {"structural_tag": "{}"}}, "structural_tag", "not supported"),
        ({"response_format": {"type": "json_object", "schema": {"type": "object"}}}, "schema", "json_schema alone"),
        ({"response_format": {"type": "text", "json_schema": {"name": "x"}}}, "json_schema", "json_schema alone"),
        ({"tools": [{**_F, "x": [2**70]}]}, "tools", "a number beyond all bounds"),
        ({"tools": [{"type": "function", "function": {"name": "f", "x": float("inf")}}]}, "function", "beyond all bounds"),
        ({"guided_json": {"a": "x" * (1 << 17)}}, "guided_json", "more than 131072 letters"),
        ({"guided_choice": []}, "guided_choice", "at least 1"),
        ({"guided_regex": "a", "ignore_eos": True}, "ignore_eos", "ends where that does"),
        ({"guided_regex": "a", "min_tokens": 1}, "min_tokens", "ends where that does"),
        ({"tools": [_F], "ignore_eos": True}, "ignore_eos", "ends where that does"),
        ({"tools": [_F], "guided_grammar": "start: /a/"}, "guided_grammar", "can call no tools"),
        ({"tools": [_F, _F]}, "tools", "two functions are called f"),
        ({"tools": [_F] * 129}, "tools", "at most 128"),
        ({"tools": [{**_F, "type": "retrieval"}]}, "type", "literal"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "name", "pattern"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}]},
         "parameters", "an object"),
        ({"tool_choice": "required"}, "tool_choice", "it needs tools"),
        ({"tool_choice": _OF_F}, "tool_choice", "it needs tools"),
        ({"tools": [_F], "tool_choice": "perhaps"}, "tool_choice", "literal"),
        ({"tools": [_F], "tool_choice": _OF_G}, "tool_choice", "none of the tools is called g"),
        ({"tools": [_F], "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [_OF_G]}}},
         "tool_choice", "none of the tools is called g"),
    ],
)  # fmt: skip
def test_what_cannot_be_kept_to_or_combined_is_refused(fields: dict[str, Any], field: str, said: str) -> None:
    with pytest.raises(ValidationError) as refused:
        _chat(**fields)
    (error,) = refused.value.errors()
    told = str(error.get("ctx", {}).get("field", error["loc"]))
    assert field in told
    assert said in f"{error['type']} {error['msg']}"


@pytest.mark.parametrize(
    ("fields", "names", "required"),
    [
        ({}, ["f", "g"], False),
        ({"tool_choice": "auto"}, ["f", "g"], False),
        ({"tool_choice": "required"}, ["f", "g"], True),
        ({"tool_choice": _OF_G}, ["g"], True),
        (
            {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [_OF_F]}}},
            ["f"],
            True,
        ),
    ],
)
def test_the_tools_that_may_be_called_are_those_that_were_chosen(
    fields: dict[str, Any], names: list[str], required: bool
) -> None:
    wanted = _chat(tools=[_F, _OF_G], parallel_tool_calls=False, **fields).wanted
    assert wanted is not None
    assert ([tool.name for tool in wanted.tools], wanted.required, wanted.parallel) == (names, required, False)
    assert wanted.tools[-1].schema["type"] == "object"


def test_who_chooses_none_is_told_of_tools_and_calls_none() -> None:
    request = _chat(tools=[_F], tool_choice="none", ignore_eos=True)
    assert request.wanted is None
    assert request.template_arguments["tools"] == [_F]


@pytest.mark.parametrize(
    ("fields", "kind", "param"),
    [
        ({"response_format": {"type": "json_object"}}, "json", "response_format"),
        ({"guided_json": '{"type": "integer"}'}, "json", "guided_json"),
        ({"guided_grammar": "start: /a/"}, "grammar", "guided_grammar"),
        ({"structured_outputs": {"choice": ["a"]}}, "choice", "structured_outputs.choice"),
        ({"structured_outputs": {"json_object": True}}, "json", "structured_outputs.json_object"),
    ],
)
def test_a_form_may_be_asked_for_by_several_names(fields: dict[str, Any], kind: str, param: str) -> None:
    for wanted in (_chat(**fields).wanted, _completion(**fields).wanted):
        assert wanted is not None
        assert wanted.form is not None
        assert (wanted.form.kind, wanted.form.param) == (kind, param)
    for nothing in ({"response_format": {"type": "text"}}, {"structured_outputs": {}}):
        assert _chat(**nothing).wanted is None
