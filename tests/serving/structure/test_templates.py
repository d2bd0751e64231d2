"""Models' own chat templates, as far as they write calls: which format they are known by, and that calls which they write of
earlier turns are such as the grammar takes and the reader reads. The texts are excerpts of what was published with each."""

import json
from pathlib import Path
from typing import Any

import pytest

from serving.answering.deltas import Answered, Delta
from serving.structure.calling import Calling
from serving.structure.formats import format_of
from serving.structure.grammars import grammar_of
from serving.structure.reading import CallReader
from serving.structure.wanted import Tool, Wanted
from tests.serving.structure.matching import Vocabulary
from tests.serving.test_conversation import rendered

_QWEN_CODER = r"""
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.function is defined %}
                {%- set tool_call = tool_call.function %}
            {%- endif %}
            {{- '\n<tool_call>\n<function=' + tool_call.name + '>\n' }}
            {%- if tool_call.arguments is defined %}
                {%- for args_name, args_value in tool_call.arguments|items %}
                    {{- '<parameter=' + args_name + '>\n' }}
                    {%- set args_value = args_value | tojson | safe if args_value is mapping or (args_value is sequence and
                        args_value is not string) else args_value | string %}
                    {{- args_value }}
                    {{- '\n</parameter>\n' }}
                {%- endfor %}
            {%- endif %}
            {{- '</function>\n</tool_call>' }}
        {%- endfor %}"""
_SEED = r"""
{%- set toolcall_begin_token   = '<seed:tool_call>'         -%}
{%- set toolcall_end_token     = '</seed:tool_call>'        -%}
{%- for tool_call in message.tool_calls %}
{%- if tool_call.function is defined %}{% set tool_call = tool_call.function %}{% endif %}
{{ "\n" + toolcall_begin_token + "\n<function=" + tool_call.name + ">\n" }}
{%- if tool_call.arguments is defined %}
{%- for arg_name, arg_value in tool_call.arguments | items %}
{{ "<parameter=" + arg_name + ">" }}
{%- set arg_value = arg_value if arg_value is string else arg_value | string %}
{{ arg_value+"</parameter>\n" }}
{%- endfor %}
{%- endif %}
{{ "</function>\n" + toolcall_end_token }}
{%- endfor %}"""
_GLM_46 = r"""
{% for tc in message.tool_calls %}
{%- if tc.function %}
    {%- set tc = tc.function %}
{%- endif %}
{{ '\n<tool_call>' + tc.name }}
{% set _args = tc.arguments or {} %}
{% for k, v in _args.items() %}
<arg_key>{{ k }}</arg_key>
<arg_value>{{ v | tojson(ensure_ascii=False) if v is not string else v }}</arg_value>
{% endfor %}
</tool_call>{% endfor %}"""
_GLM_47 = r"""
{% for tc in message.tool_calls %}
{%- if tc.function %}
    {%- set tc = tc.function %}
{%- endif %}
{{- '<tool_call>' ~ tc.name -}}
{% set _args = tc.arguments %}{% for k, v in _args.items() %}<arg_key>{{ k }}</arg_key><arg_value>{{
 v | tojson(ensure_ascii=False) if v is not string else v }}</arg_value>{% endfor %}</tool_call>{% endfor %}"""
_MINIMAX_M2 = r"""
{%- set toolcall_begin_token   = '<minimax:tool_call>'         -%}
{%- set toolcall_end_token     = '</minimax:tool_call>'        -%}
            {{- '\n' ~ toolcall_begin_token ~ '\n' }}
            {%- for tool_call in message.tool_calls -%}
                {%- if tool_call.function %}
                    {%- set tool_call = tool_call.function %}
                {%- endif %}
                {{- '<invoke name="' + tool_call.name + '">\n' }}
                {% set _args = tool_call.arguments %}
                {%- for k, v in _args|items %}
                {{- '<parameter name="' + k + '">' }}
                {{- v | tojson | string if v is not string else v }}
                {{- '</parameter>' }}
                {% endfor %}
                {{- '</invoke>' ~ '\n' }}
            {%- endfor -%}
            {{- toolcall_end_token}}"""
_KIMI_K2 = r"""
    <|tool_calls_section_begin|>
    {%- for tool_call in message['tool_calls'] -%}
      {%- set formatted_id = tool_call['id'] -%}
      <|tool_call_begin|>{{ formatted_id }}<|tool_call_argument_begin|>{% if tool_call['function']['arguments'] is string %}
      {{- tool_call['function']['arguments'] }}{% else %}{{ tool_call['function']['arguments'] | tojson }}{% endif -%}
      <|tool_call_end|>
    {%- endfor -%}
    <|tool_calls_section_end|>"""


def _deepseek(text: str) -> str:
    """With the bars and blanks that its tokens are called with."""
    return text.replace("<|", "<\uff5c").replace("|>", "\uff5c>")


_DEEPSEEK_V3 = _deepseek(r"""
        {%- for tool in message['tool_calls'] %}
            {%- if not ns.is_first %}
                {{- message['content'] + '<|tool▁calls▁begin|><|tool▁call▁begin|>' + tool['type'] + '<|tool▁sep|>' +
                tool['function']['name'] + '\n' + '```json' + '\n' + tool['function']['arguments']|tojson + '\n' + '```' +
                '<|tool▁call▁end|>'}}
            {%- set ns.is_first = true -%}
            {%- else %}
                {{- '\n' + '<|tool▁call▁begin|>' + tool['type'] + '<|tool▁sep|>' + tool['function']['name'] + '\n' +
                '```json' + '\n' + tool['function']['arguments']|tojson + '\n' + '```' + '<|tool▁call▁end|>'}}
            {%- endif %}
        {%- endfor %}
        {{- '<|tool▁calls▁end|>'}}""")
_DEEPSEEK_V31 = _deepseek(r"""
    {%- for tool in message['tool_calls'] -%}
      {%- if not ns.is_first -%}
        {%- if message['content'] is none -%}{{'<|tool▁calls▁begin|><|tool▁call▁begin|>'+ tool['function']['name'] +
          '<|tool▁sep|>' + tool['function']['arguments'] + '<|tool▁call▁end|>'}}
          {%- else -%}{{message['content'] + '<|tool▁calls▁begin|><|tool▁call▁begin|>' + tool['function']['name'] +
          '<|tool▁sep|>' + tool['function']['arguments'] + '<|tool▁call▁end|>'}}
        {%- endif -%}
        {%- set ns.is_first = true -%}
        {%- else -%}{{'<|tool▁call▁begin|>'+ tool['function']['name'] + '<|tool▁sep|>' + tool['function']['arguments'] +
        '<|tool▁call▁end|>'}}
      {%- endif -%}
    {%- endfor -%}{{'<|tool▁calls▁end|>'}}""")
_TOLD = "{% if tools %}{{ tools | tojson }}\n{% endif %}"
_TEMPLATES = {
    "qwen-coder": (_QWEN_CODER, "qwen-xml"),
    "seed-oss": (_SEED, "seed-xml"),
    "glm-4.6": (_GLM_46, "glm"),
    "glm-4.7": (_GLM_47, "glm"),
    "minimax-m2": (_MINIMAX_M2, "minimax"),
    "kimi-k2": (_KIMI_K2, "kimi"),
    "deepseek-v3": (_DEEPSEEK_V3, "deepseek-fenced"),
    "deepseek-v3.1": (_DEEPSEEK_V31, "deepseek"),
}


def _whole(calls: str) -> str:
    """A template that tells of tools and writes what was called, and content beside it."""
    said = f"{{% if message.tool_calls %}}{calls}{{% else %}}{{{{ message.content }}}}{{% endif %}}"
    return f"{_TOLD}{{% set ns = namespace(is_first=false) %}}{{% for message in messages %}}{said}{{% endfor %}}"


QWEN_CODER = _whole(_QWEN_CODER)
_TOOLS = (
    Tool(
        "look",
        {
            "properties": {
                "place": {"type": "string"},
                "days": {"type": "integer"},
                "kinds": {"type": "array", "items": {"type": "integer"}},
            },
            "required": ["place"],
        },
        False,
        "tools.0",
    ),
    Tool("now", {"properties": {}}, False, "tools.1"),
)
_ASKED: list[dict[str, Any]] = [{"place": "Paris <b>\n{", "days": 3, "kinds": [1, 2]}, {}]
_VOCABULARY = Vocabulary()


def _turn(first: dict[str, Any] | str, second: dict[str, Any] | str) -> dict[str, Any]:
    named = (("look", first), ("now", second))
    calls = [
        {"id": f"functions.{name}:{index}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for index, (name, arguments) in enumerate(named)
    ]
    return {"role": "assistant", "content": None, "tool_calls": calls}


@pytest.mark.parametrize("name", _TEMPLATES)
def test_calls_of_earlier_turns_are_written_as_new_ones_are_read(name: str, tmp_path: Path) -> None:
    text, known = _TEMPLATES[name]
    template = _whole(text)
    form = format_of(template)
    assert form.name == known
    turn = _turn(json.dumps(_ASKED[0]), "" if name in ("qwen-coder", "glm-4.6") else "{}")
    said = rendered(template, tmp_path, [turn]).strip()
    matcher = _VOCABULARY.matcher(grammar_of(Wanted(None, _TOOLS, required=True), form, _VOCABULARY.special.get))
    assert _VOCABULARY.takes(matcher, said, form), said
    reader, answer = CallReader(Calling(form, _TOOLS)), Answered()
    shown, calls = reader.push(said)
    answer.add(Delta(0, shown, (), calls=calls))
    assert [(call.name, json.loads(call.arguments)) for call in answer.calls] == list(
        zip(("look", "now"), _ASKED, strict=True)
    )
    if name == "kimi":
        assert [call.id for call in answer.calls] == ["functions.look:0", "functions.now:1"]


def test_a_template_that_leaves_calls_out_has_them_told_as_text(tmp_path: Path) -> None:
    """DeepSeek R1's distilled models never saw what they had called."""
    r1 = (
        "{%- for message in messages %}{%- if message['role'] == 'assistant' and message['content'] is none %}"
        "{%- for tool in message['tool_calls']%}{{ tool['function']['name'] }}{%- endfor %}{%- endif %}"
        "{%- if message['role'] == 'assistant' and message['content'] is not none %}{{ message['content'] }}{%- endif %}"
        "{%- endfor %}"
    )
    said = rendered(r1, tmp_path, [_turn("{}", "{}")])
    assert said.count("<tool_call>") == 2
    assert '{"name": "look", "arguments": {}}' in said


@pytest.mark.parametrize("name", ["deepseek-v3", "deepseek-v3.1"])
def test_a_template_that_writes_calls_but_tells_of_no_tools_has_them_told_as_text(name: str) -> None:
    assert format_of(_TEMPLATES[name][0]).name == "plain"
