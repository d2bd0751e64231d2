"""Conversations with all that OpenAI's clients put into them, as a model's own template gets them."""

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import render_jinja_template

from serving.prompts.tokenizing import Refusal
from serving.requests.conversation import RESERVED
from serving.requests.schemas import ChatRequest
from tests.serving.tokenizers import CHATML, LocalText, byte_files

HI = {"role": "user", "content": "hi"}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
PLAIN = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
CALLED = '<tool_call>\n{"name": "f", "arguments": %s}\n</tool_call>'
F = {"type": "function", "function": {"name": "f"}}
NAMED = [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "{{ tools[0].function.name }}"}]


def rendered(
    template: Any, folder: Path, messages: list[dict[str, Any]] | None = None, may_call: bool = False, **fields: Any
) -> str:
    """What the template makes of a request."""
    request = ChatRequest.model_validate({"model": "m", "messages": messages or [HI], **fields})
    prompts = LocalText(folder, byte_files(chat_template=template)).prompts
    return prompts.render([message.plain() for message in request.messages], request.template_arguments, may_call)


@pytest.mark.parametrize(
    ("turn", "text"),
    [
        ({"role": "assistant", "content": None, "refusal": "no"}, "<assistant>no"),
        ({"role": "assistant", "refusal": "no"}, "<assistant>no"),
        ({"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}, "<assistant>no"),
        ({"role": "assistant", "content": None, "tool_calls": [CALL]}, "<assistant>" + CALLED % '{"a": 1}'),
        ({"role": "assistant", "content": "a", "tool_calls": [CALL]}, "<assistant>a\n" + CALLED % '{"a": 1}'),
        ({"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}}, "<assistant>" + CALLED % "{}"),
        ({"role": "assistant", "content": "a", "refusal": None, "audio": None}, "<assistant>a"),
        ({"role": "developer", "content": "be brief"}, "<system>be brief"),
    ],
)
def test_a_history_may_hold_what_apis_put_into_it(turn: dict[str, Any], text: str, tmp_path: Path) -> None:
    """An assistant's turn without content, as one is that called a tool or refused, made the conversation a 400."""
    assert rendered(PLAIN, tmp_path, [HI, turn, HI]) == f"<user>hi{text}<user>hi"


@pytest.mark.parametrize(
    "turn",
    [
        {"role": "tool", "tool_call_id": "c1", "content": "4"},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "4"}]},
        {"role": "function", "name": "f", "content": "4"},
    ],
)
def test_results_are_one_turn_of_the_users_where_a_template_knows_no_calls(
    turn: dict[str, Any], tmp_path: Path
) -> None:
    result = "<tool_response>\n4\n</tool_response>"
    called = {"role": "assistant", "tool_calls": [CALL, CALL]}
    said = rendered(
        "{% for m in messages[2:] %}<{{ m.role }}>{{ m.content }}{% endfor %}", tmp_path, [HI, called, turn, turn, HI]
    )
    assert said == f"<user>{result}\n{result}\nhi"
    own = "{# tool_calls #}{% for m in messages[2:] %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    assert rendered(own, tmp_path, [HI, called, turn]) == "<tool>4"


@pytest.mark.parametrize(
    ("template", "messages", "said"),
    [
        ("", [HI], "<system>%s<user>hi"),
        ("", [{"role": "system", "content": "be brief"}, HI], "<system>be brief\n\n%s<user>hi"),
        ("{# System role not supported #}", [HI], "<user>%s\n\nhi"),
        ("{# System role not supported #}", [{"role": "assistant", "content": "a"}], "<user>%s<assistant>a"),
    ],
)
def test_a_model_whose_template_knows_no_tools_is_told_of_them(
    template: str, messages: list[dict[str, Any]], said: str, tmp_path: Path
) -> None:
    found = rendered(template + PLAIN, tmp_path, messages, may_call=True, tools=[F])
    before, _, rest = found.partition("# Tools")
    told, _, after = rest.rpartition("</tool_call>")
    assert json.dumps(F) in told
    assert f"{before}%s{after}" == said
    assert "# Tools" not in rendered(template + PLAIN, tmp_path, messages, tools=[F])


def test_a_template_that_knows_tools_tells_of_them_itself(tmp_path: Path) -> None:
    own = "{% if tools %}<tool_call>{{ tools[0].function.name }}{% endif %}{{ messages[0].content }}"
    assert rendered(own, tmp_path, may_call=True, tools=[F]) == "<tool_call>fhi"
    others = own + "{# <function= #}"
    assert rendered(others, tmp_path, may_call=True, tools=[F]).startswith("# Tools")


def test_phis_template_gets_tools_beside_the_system_message_and_calls_between_its_own_tokens(tmp_path: Path) -> None:
    """It took no notice of tools that were an argument, as for all others."""
    phi = (
        "{% for message in messages %}"
        "{% if message['role'] == 'system' and 'tools' in message and message['tools'] is not none %}"
        "{{ '<|' + message['role'] + '|>' + message['content'] + '<|tool|>' + message['tools'] + '<|/tool|>' + '<|end|>' }}"
        "{% else %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endif %}{% endfor %}"
    )
    turns = [
        HI,
        {"role": "assistant", "tool_calls": [CALL, CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "4"},
    ]
    one = '{"name": "f", "arguments": {"a": 1}}'
    said = f"<|user|>hi<|end|><|assistant|><|tool_call|>[{one}, {one}]<|/tool_call|><|end|><|tool_response|>4<|end|>"
    helpful = "You are a helpful assistant with some tools."
    told = f"<|tool|>{json.dumps([F['function']])}<|/tool|><|end|>"
    assert rendered(phi, tmp_path, turns, may_call=True, tools=[F]) == f"<|system|>{helpful}{told}{said}"
    assert (
        rendered(phi, tmp_path, [{"role": "system", "content": "so"}, *turns], tools=[F]) == f"<|system|>so{told}{said}"
    )
    assert rendered(phi, tmp_path, turns) == said


def test_calls_and_their_results_reach_the_template(tmp_path: Path) -> None:
    template = "{# tool_calls #}{% for m in messages %}{{ m | tojson }}\n{% endfor %}"
    history = [
        {**HI, "name": "Ann"},
        {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning_content": "hm"},
        {"role": "tool", "tool_call_id": "c1", "content": "4"},
        {"role": "assistant", "content": None, "function_call": {"name": "g", "arguments": "no JSON"}},
    ]
    user, called, answered, old = map(json.loads, rendered(template, tmp_path, history).splitlines())
    assert user == {**HI, "name": "Ann"}
    assert called["tool_calls"] == [{**CALL, "function": {"name": "f", "arguments": {"a": 1}}}]
    assert called["reasoning_content"] == "hm"
    assert answered == {"role": "tool", "tool_call_id": "c1", "content": "4"}
    assert old["tool_calls"] == [{"type": "function", "function": {"name": "g", "arguments": "no JSON"}}]


@pytest.mark.parametrize(
    "template", ["{{ arguments | tojson }}", "{{ '' + arguments }}", "{{ arguments['a'] is defined }}"]
)
def test_arguments_of_calls_are_objects_and_text_for_templates_that_need_text(template: str, tmp_path: Path) -> None:
    """Templates disagree: of a text, `tojson` makes a text in quotes, and nothing can be added to an object."""
    get = "{% set arguments = messages[0].tool_calls[0].function.arguments %}"
    turn = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    assert rendered(get + template, tmp_path, [turn]) in ('{"a": 1}', "True")


def test_a_call_without_any_arguments_has_an_empty_object_of_them(tmp_path: Path) -> None:
    """Clients send an empty text, and templates that go through arguments by name failed on it."""
    turn = {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": {"name": "f"}}]}
    items = (
        "{# tool_calls #}{% for name, value in messages[0].tool_calls[0].function.arguments | items %}.{% endfor %}so"
    )
    assert rendered(items, tmp_path, [turn]) == "so"


def test_a_template_gets_what_clients_hand_it(tmp_path: Path) -> None:
    """`enable_thinking` was passed over in silence, as were documents and tools."""
    template = "{{ enable_thinking }} {{ reasoning_effort }} {{ documents[0].text }} {{ tools[0].function.name }}"
    fields = {
        "chat_template_kwargs": {"enable_thinking": False},
        "reasoning_effort": "low",
        "documents": [{"text": "Once"}],
        "tools": [F],
        "tool_choice": "none",
    }
    assert rendered(template, tmp_path, **fields) == "False low Once f"
    assert rendered("{{ add_generation_prompt }}", tmp_path) == "True"
    assert rendered("{{ add_generation_prompt }}", tmp_path, add_generation_prompt=False) == "False"
    assert rendered("{{ tools is none and documents is none }}", tmp_path, tools=[], documents=None) == "True"


def test_an_answer_may_go_on_with_the_last_message(tmp_path: Path) -> None:
    begun = [HI, {"role": "assistant", "content": "Well,"}]
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>{% endfor %}"
    assert rendered(template, tmp_path, begun, continue_final_message=True) == "<user>hi<end><assistant>Well,"
    assert rendered(CHATML, tmp_path, begun).endswith("<assistant>Well,<answer>")


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "d"), ({"tools": [F], "tool_choice": "none"}, "f"), ({"chat_template": "default"}, "d"),
        ({"tools": [F], "tool_choice": "none", "chat_template": "default"}, "d"),
    ],
)  # fmt: skip
def test_of_several_templates_one_is_taken_by_its_name(fields: dict[str, Any], text: str, tmp_path: Path) -> None:
    assert rendered(NAMED, tmp_path, **fields) == text


@pytest.mark.parametrize(
    ("template", "fields", "names"),
    [
        ([{"name": "chat", "template": "c"}, {"name": "rag", "template": "r"}], {}, "chat, rag"),
        (NAMED, {"chat_template": "chat"}, "default, tool_use"),
        ("one", {"chat_template": "chat"}, "default"),
    ],
)
def test_a_template_that_there_is_not_is_refused_with_those_there_are(
    template: Any, fields: dict[str, Any], names: str, tmp_path: Path
) -> None:
    with pytest.raises(Refusal, match=f"it has {names}$") as refused:
        rendered(template, tmp_path, **fields)
    assert refused.value.param == "chat_template"


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages[0]['content'] + 1 }}", "{{ 1 // 0 }}", "{{ messages[7].content.x }}", "{% for",
        "{{ raise_exception('no') }}",
        "{{ raise_exception('\\ud83d') }}", "{{ '\\ud83d' }}", "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
        "{{ strftime_now('%') + 1 }}", "{{ ''.__class__.__mro__ }}", "{{ range(10**9) | list }}",
    ],
)  # fmt: skip
def test_whatever_a_template_raises_is_a_refusal_that_can_be_told(template: str, tmp_path: Path) -> None:
    """What is told once had half of a character in it, which ended the process instead of the request."""
    with pytest.raises(Refusal) as refused:
        rendered(template, tmp_path)
    assert "chat template" in str(refused.value)
    assert refused.value.param == "messages"
    str(refused.value).encode()


def test_the_reserved_names_are_all_that_transformers_takes_for_itself() -> None:
    own = {name for call in (PreTrainedTokenizerFast.apply_chat_template, render_jinja_template)
           for name in inspect.signature(call).parameters}  # fmt: skip
    assert own | {"messages"} == RESERVED
