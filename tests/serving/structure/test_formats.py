"""Calls of tools as models write them: what the grammar takes the reader reads, in whatever pieces it comes."""

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.stage.choosing import grammars
from serving.answering.deltas import Answered, Delta
from serving.structure import checking
from serving.structure.calling import Calling
from serving.structure.checking import Unusable, checked_grammar
from serving.structure.formats import BY_NAME, PLAIN, CallFormat, format_of
from serving.structure.grammars import grammar_of
from serving.structure.reading import CallReader
from serving.structure.wanted import Form, Tool, Wanted
from tests.serving.structure.matching import Vocabulary

_CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
_TOOLS = (
    Tool("get", _CITY, True, "tools.0.function.parameters"),
    Tool("get-all", {}, False, "tools.1.function.parameters"),
)
_VOCABULARY = Vocabulary("[TOOL_CALLS]", "[ARGS]", "<|python_tag|>", "<|tool_call|>", "<seed:tool_call>")
_SPECIAL = _VOCABULARY.special
_TWO = (("get", '{"city": "P"}'), ("get-all", '{"a": [1, "}\\""]}'))
_OBJECTS = '[{"name": "get", "arguments": {"city": "P"}}, {"name": "get-all", "arguments": {"a": [1, "}\\""]}}]'
_TAGGED = """<tool_call>
{"name": "get", "arguments": {"city": "P"}}
</tool_call>
<tool_call>{"name":"get-all","arguments":{"a": [1, "}\\""]}}</tool_call>"""
_WRITTEN = {
    "plain": _TAGGED,
    "hermes": _TAGGED,
    "llama": '{"name": "get", "parameters": {"city": "P"}}; {"name": "get-all", "parameters": {"a": [1, "}\\""]}}',
    "mistral": f"[TOOL_CALLS] {_OBJECTS}",
    "mistral-args": '[TOOL_CALLS]get[ARGS]{"city": "P"}[TOOL_CALLS]get-all[ARGS]{"a": [1, "}\\""]}',
    "granite": f"<|tool_call|>{_OBJECTS}",
    "phi": f"<|tool_call|>{_OBJECTS}<|/tool_call|>",
    "phi-tags": _TAGGED.replace("<tool_call>", "<|tool_call|>").replace("</tool_call>", "<|/tool_call|>"),
    "qwen-xml": """<tool_call>
<function=get>
<parameter=city>
P
</parameter>
</function>
</tool_call>
<tool_call><function=get-all><parameter=a>
[1, "}\\""]</parameter></function></tool_call>""",
    "seed-xml": """<seed:tool_call>
<function=get>
<parameter=city>P</parameter>
</function>
</seed:tool_call><seed:tool_call><function=get-all><parameter=a>[1, "}\\""]</parameter></function></seed:tool_call>""",
    "minimax": """<minimax:tool_call>
<invoke name="get">
<parameter name="city">P</parameter>
</invoke>
<invoke name="get-all"><parameter name="a">[1, "}\\""]</parameter></invoke>
</minimax:tool_call>""",
    "glm": """<tool_call>get
<arg_key>city</arg_key>
<arg_value>P</arg_value>
</tool_call><tool_call>get-all<arg_key>a</arg_key><arg_value>[1, "}\\""]</arg_value></tool_call>""",
    "deepseek-fenced": """<CALLS><CALL>function<SEP>get
```json
{"city": "P"}
```<END>
<CALL>function<SEP>get-all
```json
{"a": [1, "}\\""]}
```<END><ENDS>""",
    "deepseek": '<CALLS><CALL>get<SEP>{"city": "P"}<END><CALL>get-all<SEP>{"a": [1, "}\\""]}<END><ENDS>',
    "kimi": """<|tool_calls_section_begin|><|tool_call_begin|>functions.get:0<|tool_call_argument_begin|>{"city": "P"}\
<|tool_call_end|><|tool_call_begin|>functions.get-all:1<|tool_call_argument_begin|>{"a": [1, "}\\""]}<|tool_call_end|>\
<|tool_calls_section_end|>""",
}
for _short, _words in (
    ("CALLS", "calls begin"), ("CALL", "call begin"), ("SEP", "sep"), ("END", "call end"), ("ENDS", "calls end"),
):  # fmt: skip
    _token = f"<\uff5ctool {_words}\uff5c>".replace(" ", "\u2581")
    _WRITTEN |= {name: text.replace(f"<{_short}>", _token) for name, text in _WRITTEN.items() if "deepseek" in name}


def _takes(wanted: Wanted, form: CallFormat, text: str) -> bool:
    """Whether the grammar takes the text as a whole answer."""
    return _VOCABULARY.takes(_VOCABULARY.matcher(grammar_of(wanted, form, _SPECIAL.get)), text, form)


def _read(pieces: Sequence[str], form: CallFormat) -> tuple[str, list[tuple[str, str]]]:
    reader, answer = CallReader(Calling(form, _TOOLS)), Answered()
    for piece in pieces:
        text, calls = reader.push(piece)
        answer.add(Delta(0, text, (), calls=calls))
    assert reader.called == bool(answer.calls)
    return answer.text + reader.flush(), [(call.name, call.arguments) for call in answer.calls]


@pytest.mark.parametrize("name", _WRITTEN)
def test_calls_are_taken_and_read(name: str) -> None:
    form, text = BY_NAME[name], _WRITTEN[name]
    assert _takes(Wanted(None, _TOOLS), form, text)
    assert _takes(Wanted(None, _TOOLS, required=True), form, text)
    assert _takes(Wanted(Form("json", {"type": "integer"}, True, "response_format"), _TOOLS), form, text)
    assert not _takes(Wanted(None, _TOOLS, parallel=False), form, text)
    assert not _takes(Wanted(None, _TOOLS[:1]), form, text)
    assert not _takes(Wanted(None, _TOOLS), form, text.replace("city", "town"))
    assert _read([text], form) == ("", list(_TWO))


@pytest.mark.parametrize("name", _WRITTEN)
@given(cuts=st.lists(st.integers(0, 200), max_size=12), before=st.sampled_from(["", "Let me see < [TOOL <tool.\n"]))
def test_however_it_is_cut_it_is_read_the_same(name: str, cuts: list[int], before: str) -> None:
    form = BY_NAME[name]
    text = _WRITTEN[name] if form.at_start else before + _WRITTEN[name]
    ends = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    pieces = [text[begin:end] for begin, end in pairwise(ends)]
    assert _read(pieces, form) == ("" if form.at_start else before.rstrip(), list(_TWO))


@pytest.mark.parametrize("name", _WRITTEN)
def test_text_is_text_and_comes_at_once(name: str) -> None:
    form = BY_NAME[name]
    for text in ("", "Hello", "It is a < b, [so] it is.", "See:\n\n"):
        assert _takes(Wanted(None, _TOOLS), form, text)
        assert not _takes(Wanted(None, _TOOLS, required=True), form, text)
        assert _read(list(text), form) == (text, [])
    assert CallReader(Calling(form, ())).push("Hello")[0] == "Hello"


@pytest.mark.parametrize("name", ["plain", "granite", "mistral"])
def test_text_may_stand_before_calls_and_nothing_behind_them(name: str) -> None:
    form = BY_NAME[name]
    assert _takes(Wanted(None, _TOOLS), form, "Well: " + _WRITTEN[name])
    assert not _takes(Wanted(None, _TOOLS), form, _WRITTEN[name] + " so")
    assert not _takes(Wanted(None, _TOOLS), form, form.triggers[0] + "so")


@pytest.mark.parametrize("required", [False, True])
def test_qwens_outer_tags_may_be_missing(required: bool) -> None:
    """Qwen3-Coder leaves them out now and then; what it called was taken for text."""
    form, written = BY_NAME["qwen-xml"], _WRITTEN["qwen-xml"]
    for missing in (("<tool_call>", ""), ("</tool_call>", ""), ("<tool_call>\n", ""), ("<tool_call><", "<")):
        text = written.replace(*missing).lstrip()
        assert _takes(Wanted(None, _TOOLS, required=required), form, text)
        for before in ("",) if required else ("", "So <it> is:\n"):
            assert _takes(Wanted(None, _TOOLS, required=required), form, before + text)
            assert _read(list(before + text), form) == (before.rstrip(), list(_TWO))
    bare = written.replace("<tool_call>", "").replace("</tool_call>", "").lstrip()
    special = Vocabulary("<tool_call>", "</tool_call>")
    matcher = special.matcher(grammar_of(Wanted(None, _TOOLS), form, special.special.get))
    for text in (written, bare, "So: " + written, "So: " + bare, "So."):
        assert special.takes(matcher, text, form)
    assert not special.takes(matcher, "So: <function=so", form)


def test_what_begins_like_a_call_is_one_where_calls_have_no_mark() -> None:
    llama = BY_NAME["llama"]
    assert not _takes(Wanted(None, _TOOLS), llama, '{"a": 1}')
    assert _takes(Wanted(None, _TOOLS), llama, "<|python_tag|>" + _WRITTEN["llama"])
    assert _read(["<|python", "_tag|>", _WRITTEN["llama"]], llama) == ("", list(_TWO))
    assert _read([" ", "<", "b>"], llama) == (" <b>", [])


def test_a_call_that_is_cut_off_is_read_as_far_as_it_came() -> None:
    text = '<tool_call>\n{"name": "get", "arguments": {"city": "P'
    assert _read([text], PLAIN) == ("", [("get", '{"city": "P')])
    assert _read(['<tool_call>\n{"name": "ge'], PLAIN) == ("", [])
    assert _read(["<tool"], PLAIN) == ("<tool", [])
    only = CallReader(Calling(PLAIN, _TOOLS, only=True))
    assert (*only.push("<tool"), only.flush()) == ("", (), "")


def test_blanks_are_bounded() -> None:
    wanted = Wanted(Form("json", {"type": "object"}, True, "response_format"))
    assert _takes(wanted, PLAIN, json.dumps({"a": {"b": [1, {"c": None}]}}, indent=2))
    assert _takes(wanted, PLAIN, '{"a":1}')
    assert not _takes(wanted, PLAIN, '{"a":  1}')
    assert not _takes(wanted, PLAIN, '{"a":\n' + " " * 30 + "1}")


@pytest.mark.parametrize(
    ("form", "text", "wrong"),
    [
        (Form("choice", ['a"\né', "b"], True, "x"), 'a"\né', "a"),
        (Form("choice", ["-]/^$.*+?(){}|[ \\", "\x00😀"], True, "x"), "-]/^$.*+?(){}|[ \\", "-]/^$.*+?(){}|[ /"),
        (Form("choice", [str(number) for number in range(1024)], True, "x"), "1023", "1024"),
        (Form("regex", "a/b+\\d", True, "x"), "a/bb7", "a/b"),
        (Form("grammar", 'start: "a" /[0-9]+/', True, "x"), "a12", "a"),
        (Form("grammar", 'root ::= "a" [0-9]+', True, "x"), "a12", "a"),
        (Form("json", {"oneOf": [{"type": "integer"}, {"type": "null"}]}, True, "x"), "null", '""'),
        (Form("json", {"type": "integer", "x-guidance": {"whitespace_pattern": "("}}, True, "x"), "1", "x"),
    ],
)
def test_a_text_is_of_its_form(form: Form, text: str, wrong: str) -> None:
    assert _takes(Wanted(form), PLAIN, text)
    assert not _takes(Wanted(form), PLAIN, wrong)


def test_arguments_are_always_an_object() -> None:
    wanted = Wanted(None, (Tool("f", {"properties": {"a": {"type": "integer"}}}, False, "x"),), required=True)
    assert _takes(wanted, PLAIN, '<tool_call>{"name":"f","arguments":{"a":1}}</tool_call>')
    assert not _takes(wanted, PLAIN, '<tool_call>{"name":"f","arguments":1}</tool_call>')


_LARGE = {"type": "object", "properties": {f"p{number}": {"type": "integer"} for number in range(150)}}
_DEAD_END = {"type": "object", "properties": {"a": {"$ref": "#/properties/a"}}, "required": ["a"]}
"""Stages refused these when a model had been started for them, and had written a brace or a key."""


@pytest.mark.parametrize(
    ("wanted", "param", "said"),
    [
        (Wanted(Form("json", {"not": {}}, True, "a")), "a", 'Unimplemented keys: ["not"]'),
        (Wanted(Form("json", {"$ref": "#"}, True, "a")), "a", "nothing can be written"),
        (Wanted(Form("json", {"$ref": "http://nowhere.example/x"}, True, "a")), "a", "does not fetch"),
        (
            Wanted(Form("json", {"type": "string", "pattern": "^(?=a)b"}, True, "a")),
            "a",
            "regex parse error: look-around",
        ),
        (Wanted(Form("json", {"const": "\ud800"}, True, "a")), "a", ""),
        (Wanted(Form("regex", "(", True, "r")), "r", "regex parse error: unclosed group"),
        (
            Wanted(Form("choice", [f"{i:04}" + "x" * 1020 for i in range(1024)], True, "c")),
            "c",
            "letters, more than the 262144",
        ),
        (Wanted(Form("json", _LARGE, True, "a")), "a", "too much may follow at one place"),
        (Wanted(Form("json", _DEAD_END, True, "a")), "a", "nothing can be written"),
        (Wanted(None, (_TOOLS[0], Tool("f", _DEAD_END, False, "tools.1"))), "tools.1", "nothing can be written"),
        (Wanted(None, (_TOOLS[0], Tool("f", _LARGE, False, "tools.1"))), "tools.1", "too much may follow at one place"),
        (Wanted(Form("grammar", "start: nowhere", True, "g")), "g", 'unknown name: "nowhere"'),
        (Wanted(Form("grammar", "start: <|im_end|>", True, "g")), "g", "it cannot be read"),
        (Wanted(Form("grammar", "%%", True, "g")), "g", "Expected name"),
        (
            Wanted(None, (_TOOLS[0], Tool("f", {"type": "object", "not": {}}, True, "tools.1"))),
            "tools.1",
            "Unimplemented",
        ),
    ],
)
def test_what_cannot_be_kept_to_is_said_of_the_field_that_asks_for_it(wanted: Wanted, param: str, said: str) -> None:
    with pytest.raises(Unusable) as refused:
        checked_grammar(wanted, PLAIN, _SPECIAL.get)
    assert refused.value.param == param
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_is_not_strict_is_kept_to_as_far_as_can_be() -> None:
    schema = {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}
    assert checked_grammar(Wanted(Form("json", schema, False, "a")), PLAIN, _SPECIAL.get)
    with pytest.raises(Unusable, match="uniqueItems"):
        checked_grammar(Wanted(Form("json", schema, True, "a")), PLAIN, _SPECIAL.get)


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{% if tools %}<tools>{{ tools | tojson }}</tools> within <tool_call></tool_call>{% endif %}", "hermes"),
        ("{%- for t in tools %}{% endfor %}<|start_header_id|>{\"name\": function name, \"parameters\": {}}", "llama"),
        ("{% if tools %}[AVAILABLE_TOOLS]{% endif %}{{ '[TOOL_CALLS] [' }}", "mistral"),
        ("{% if tools is defined %}{{ '[TOOL_CALLS]' + name + '[ARGS]' }}{% endif %}", "mistral-args"),
        ("<|start_of_role|>{% if tools %}{% endif %}<|tool_call|>", "granite"),
        ("{% if tools %}<tool_call><function=x>{% endif %}", "plain"),
        ("{% if tools %}<tool_call><function=x><parameter=a>{% endif %}", "qwen-xml"),
        ("{% if tools %}<|tool_call|>{}<|/tool_call|>{% endif %}", "phi-tags"),
        ("{{ message['tools'] }}<tool_call>", "plain"),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "plain"),
        ("", "plain"),
    ],
)  # fmt: skip
def test_a_format_is_known_by_the_template(template: str, name: str) -> None:
    assert format_of(template).name == name


def test_ids_are_such_as_templates_take() -> None:
    assert len(BY_NAME["mistral"].new_id()) == 9
    assert PLAIN.new_id().startswith("call_")
    assert PLAIN.new_id() != PLAIN.new_id()


def test_what_is_wanted_survives_the_way_to_a_text_process() -> None:
    wanted: Any = Wanted(Form("choice", ["a"], True, "x"), _TOOLS, True, False)
    assert Wanted.read(wanted.written()) == wanted
    assert Wanted.read(Wanted().written()) == Wanted()


@pytest.mark.parametrize(
    "bound",
    [
        "max_items_in_row", "initial_lexer_fuel", "step_lexer_fuel", "step_max_items", "max_lexer_states",
        "max_grammar_size",
    ],
)  # fmt: skip
def test_what_is_tried_is_held_to_bounds_no_wider_than_where_tokens_are_chosen(bound: str) -> None:
    """A grammar passed with rows of 2,000 items, and was refused by the stage, which takes 500."""
    assert 0 < getattr(checking.LIMITS, bound) <= getattr(grammars._LIMITS, bound)
