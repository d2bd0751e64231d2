"""Arguments as named values: what the grammar takes is read as JSON that keeps to the schema, in whatever pieces it comes."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llguidance import LLMatcher

from serving.answering.deltas import Answered, Delta
from serving.structure.calling import Calling
from serving.structure.checking import Unusable, checked_grammar
from serving.structure.formats import BY_NAME, CallFormat
from serving.structure.grammars import grammar_of
from serving.structure.reading import CallReader
from serving.structure.wanted import Tool, Wanted
from tests.serving.structure.matching import Vocabulary

_NAMED = [name for name, form in BY_NAME.items() if form.values is not None]
_PLAIN, _SPECIAL = Vocabulary(), Vocabulary("</arg_value>", "<arg_key>", "</parameter>")
_TEXT = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(
    ["", "\n", "\n\na\n", " a ", "{", "[1]", "null", "true", "-1.5e3", "7 ",
     "<", "</parameter", "</p</", "<b>\n</b>", '"', "\\"]
)  # fmt: skip
_IN_JSON = _TEXT.map(lambda text: "".join(letter for letter in text if letter == "\n" or letter.isprintable()))
_PAIR = {"type": "object", "properties": {"a": {"type": "string"}, "b": {"$ref": "#/$defs/unit"}}, "required": ["a"]}
_PROPERTIES: dict[str, tuple[dict[str, Any], st.SearchStrategy[Any]]] = {
    "text": ({"type": "string", "description": "any"}, _TEXT),
    "unit": ({"$ref": "#/$defs/unit"}, st.sampled_from(["C", "F\n"])),
    "short": ({"type": "string", "minLength": 1, "maxLength": 3}, st.text(st.sampled_from("a\n<é"), min_size=1, max_size=3)),
    "code": ({"type": "string", "pattern": "^[a-c]+/$"}, st.from_regex(r"[a-c]+/", fullmatch=True)),
    "at": ({"type": "string", "format": "date-time"}, st.datetimes(timezones=st.just(UTC)).map(datetime.isoformat)),
    "day": ({"type": "string", "format": "date"}, st.dates().map(str)),
    "id": ({"type": "string", "format": "uuid"}, st.uuids().map(str)),
    "where": ({"type": "string", "format": "uri"}, _TEXT),
    "count": ({"type": "integer", "minimum": -9}, st.integers(-9, 10**20)),
    "größe 2": ({"type": "number"}, st.floats(allow_nan=False, allow_infinity=False)),
    "loud": ({"type": "boolean"}, st.booleans()),
    "list": ({"type": "array", "items": {"type": "string"}}, st.lists(_IN_JSON, max_size=3)),
    "pair": (_PAIR, _IN_JSON.map(lambda text: {"a": text}) | _IN_JSON.map(lambda text: {"a": text, "b": "F\n"})),
    "maybe": ({"anyOf": [{"type": "string"}, {"type": "null"}]}, st.none() | _TEXT.filter(lambda text: text != "null")),
    "none": ({"type": ["integer", "null"]}, st.none() | st.integers()),
    "some": ({"enum": ["a", 1, None, True, ""]}, st.sampled_from(["a", 1, None, True, ""])),
    "either": (
        {"anyOf": [{"type": "string", "minLength": 2}, {"type": "array", "items": {"type": "integer"}}]},
        st.lists(st.integers(), max_size=3) | st.text(st.sampled_from("a<\n1]"), min_size=2, max_size=4),
    ),
}  # fmt: skip
_SCHEMA = {
    "$defs": {"unit": {"type": "string", "enum": ["C", "F\n"]}},
    "type": "object",
    "properties": {name: schema for name, (schema, _) in _PROPERTIES.items()},
    "required": ["text", "count"],
    "additionalProperties": False,
}
_TOOL = Tool("f", _SCHEMA, True, "tools.0")
_DRAWN = st.fixed_dictionaries(
    {name: _PROPERTIES[name][1] for name in ("text", "count")},
    optional={name: drawn for name, (_, drawn) in _PROPERTIES.items() if name not in ("text", "count")},
)


def _value(form: CallFormat, name: str, value: Any, blank: str = "") -> str:
    """As a model writes it: a string as it is, the rest in JSON."""
    values = form.values
    assert values is not None
    said = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    end = "\n" if values.lines else ""
    return f"{values.opening}{name}{blank.join(values.named)}{said}{end}{values.closing}"


def _written(form: CallFormat, arguments: Mapping[str, Any], blank: str) -> str:
    """A whole call."""
    told = [_value(form, name, value, blank) for name, value in arguments.items()]
    literals = [*form.begin, "".join(form.opening), "f", *form.named, *told, *form.closing, *form.end]
    at = len(form.begin) + 2 + len(form.named)
    return "".join(literals[:at]) + blank + blank.join(literals[at:])


def _read(form: CallFormat, pieces: Sequence[str], tool: Tool = _TOOL) -> str:
    reader, answer = CallReader(Calling(form, (tool,))), Answered()
    for piece in pieces:
        text, calls = reader.push(piece)
        answer.add(Delta(0, text, (), calls=calls))
    (call,) = answer.calls
    assert call.name == "f"
    return call.arguments


@cache
def _matcher(name: str, vocabulary: Vocabulary = _PLAIN) -> LLMatcher:
    return vocabulary.matcher(grammar_of(Wanted(None, (_TOOL,)), BY_NAME[name], vocabulary.special.get))


def _of(name: str, schema: Any, strict: bool = False) -> LLMatcher:
    wanted = Wanted(None, (Tool("f", schema, strict, "tools.0"),), required=True)
    return _PLAIN.matcher(checked_grammar(wanted, BY_NAME[name], _PLAIN.special.get))


@pytest.mark.parametrize("name", _NAMED)
@given(drawn=_DRAWN, blank=st.sampled_from(["", "\n"]), cuts=st.lists(st.integers(0, 600), max_size=12))
def test_what_a_model_writes_is_taken_and_read_the_same_however_it_is_cut(
    name: str, drawn: dict[str, Any], blank: str, cuts: list[int]
) -> None:
    form, arguments = BY_NAME[name], drawn
    text = _written(form, arguments, blank)
    assert _PLAIN.takes(_matcher(name), text, form)
    assert _SPECIAL.takes(_matcher(name, _SPECIAL), text, form)
    ends = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    read = _read(form, [text[begin:end] for begin, end in pairwise(ends)])
    assert json.loads(read) == arguments
    assert [type(value) for value in json.loads(read).values()] == [type(value) for value in arguments.values()]


@pytest.mark.parametrize("name", _NAMED)
@pytest.mark.parametrize(
    "wrong",
    [
        {"count": 1},
        {"text": "a"},
        {"text": "a", "text2": "a", "count": 1},
        {"text": "a", "count": -10},
        {"text": "a", "count": "x"},
        {"text": "a", "unit": "K", "count": 1},
        {"text": "a", "short": "", "count": 1},
        {"text": "a", "short": "aaaa", "count": 1},
        {"text": "a", "code": "abd/", "count": 1},
        {"text": "a", "at": "2026-01-01", "count": 1},
        {"text": "a", "day": "2026-13-01", "count": 1},
        {"text": "a", "id": "0", "count": 1},
        {"text": "a", "count": 1, "list": [1]},
        {"text": "a", "count": 1, "pair": {"b": "C"}},
        {"text": "a", "count": 1, "either": ["a"]},
        {"text": "a", "count": 1, "either": "a"},
        {"text": "a", "count": 1, "some": False},
    ],
    ids=json.dumps,
)
def test_a_call_that_does_not_keep_to_the_schema_is_not_taken(name: str, wrong: dict[str, Any]) -> None:
    assert not _PLAIN.takes(_matcher(name), _written(BY_NAME[name], wrong, "\n"), BY_NAME[name])


@pytest.mark.parametrize("name", _NAMED)
def test_each_is_given_once_and_more_than_can_be_counted_in_the_schemas_order(name: str) -> None:
    form, many = BY_NAME[name], [f"a{at}" for at in range(70)]
    wide = {"properties": {each: {"type": "string"} for each in many}, "required": many[::2]}
    twice = _written(form, {"text": "a"}, "").replace(
        part := _value(form, "text", "a"), part * 2 + _value(form, "count", 1)
    )
    assert not _PLAIN.takes(_matcher(name), twice, form)
    assert _PLAIN.takes(_of(name, wide), _written(form, dict.fromkeys(many, "x"), "\n"), form)
    assert _PLAIN.takes(_of(name, wide), _written(form, dict.fromkeys(many[::2], "x"), "\n"), form)
    assert not _PLAIN.takes(_of(name, wide), _written(form, dict.fromkeys(many[::-1], "x"), "\n"), form)
    assert not _PLAIN.takes(_of(name, wide), _written(form, {}, "\n"), form)


@pytest.mark.parametrize("name", _NAMED)
def test_long_strings_stream_as_they_come(name: str) -> None:
    """Others hold a file that is being written back until its end."""
    form = BY_NAME[name]
    text = _written(form, {"text": "a" * 100, "count": 1, "maybe": "so it is " * 10}, "\n")
    reader = CallReader(Calling(form, (_TOOL,)))
    pieces = [piece.arguments for letter in text for piece in reader.push(letter)[1]]
    assert pieces.count("a") > 90
    assert pieces.count("s") > 15


@pytest.mark.parametrize(
    ("schema", "written", "read"),
    [
        ({}, "7", 7),
        ({}, "seven", "seven"),
        ({}, '{"a": [1]}', {"a": [1]}),
        ({}, '{"a": [1]', '{"a": [1]'),
        ({}, "NaN", "NaN"),
        ({}, "[" * 100_000, "[" * 100_000),
        ({"description": "what it is"}, "null", None),
        ({"type": ["string", "integer"]}, "7", 7),
        ({"type": ["string", "integer"]}, "7.5", "7.5"),
        ({"type": ["string", "integer"]}, " 7", " 7"),
        ({"type": ["string", "number"]}, "7", 7),
        ({"type": ["string", "null"]}, "7", "7"),
        ({"type": ["string", "null"]}, '"7"', '"7"'),
        ({"type": "string"}, '{"a": 1}', '{"a": 1}'),
        ({"allOf": [{"$ref": "#/properties/x"}]}, "1", "1"),
    ],
    ids=lambda value: json.dumps(value)[:30],
)
def test_a_value_is_what_its_schema_says_and_else_what_it_is_in_json(schema: Any, written: str, read: Any) -> None:
    tool = Tool("f", {"properties": {"x": {"type": "string"}, "a": schema}, "required": ["a"]}, False, "tools.0")
    form = BY_NAME["glm"]
    text = f"<tool_call>f<arg_key>a</arg_key><arg_value>{written}</arg_value></tool_call>"
    assert _PLAIN.takes(_of("glm", tool.schema), text, form)
    assert json.loads(_read(form, [text], tool)) == {"a": read}


def test_a_line_end_in_front_of_a_closing_tag_is_none_of_the_value() -> None:
    """Models that were taught to write it leave it out now and then."""
    form, start = BY_NAME["qwen-xml"], "<tool_call><function=f><parameter=text>\n"
    rest = "</parameter><parameter=count>\n1</parameter></function></tool_call>"
    for written, read in (("a\n", "a"), ("a", "a"), ("\na\n\n", "\na\n"), ("\n", ""), ("", "")):
        assert _PLAIN.takes(_matcher("qwen-xml"), start + written + rest, form)
        assert json.loads(_read(form, [start + written + rest]))["text"] == read


@pytest.mark.parametrize(
    ("schema", "taken", "refused"),
    [
        ({}, {"a": 1, "b": "so"}, None),
        ({"properties": {}}, {}, {"a": 1}),
        ({"additionalProperties": False}, {}, {"a": 1}),
        ({"properties": {"a": {}}, "additionalProperties": {"type": "integer"}}, {"a": "x", "b": 1}, {"a": "x", "b": "x"}),
        ({"properties": {"a": {}, "b": False}}, {"a": 1}, {"b": 1}),
        ({"required": ["a"], "additionalProperties": False}, {"a": 1}, {}),
        ({"anyOf": [{"properties": {"a": {"type": "string"}}}, {"properties": {"b": {}}}]}, {"a": "x", "b": 1}, {"c": 1}),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"properties": {"a": {"type": "string"}}}}}, {"a": "x"}, {"b": "x"}),
    ],
    ids=lambda value: json.dumps(value)[:50],
)  # fmt: skip
def test_which_names_may_be_given(schema: Any, taken: Any, refused: Any) -> None:
    for name in ("glm", "qwen-xml"):
        assert _PLAIN.takes(_of(name, schema), _written(BY_NAME[name], taken, "\n"), BY_NAME[name])
        if refused is not None:
            assert not _PLAIN.takes(_of(name, schema), _written(BY_NAME[name], refused, "\n"), BY_NAME[name])


def _doubling(times: int) -> dict[str, Any]:
    """A schema whose alternatives are two to this power."""
    more = {f"d{at}": {"anyOf": [{"$ref": f"#/$defs/d{at + 1}"}] * 2} for at in range(times)}
    return {"$defs": {**more, f"d{times}": {"type": "string"}}, "properties": {"a": {"$ref": "#/$defs/d0"}}}


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"properties": {"a": {"type": "string", "not": {}}}}, 'Unimplemented keys: ["not"]'),
        ({"properties": {"a": {"type": ["string", "integer"], "minimum": 1}}}, 'Unimplemented keys: ["minimum"]'),
        ({"properties": {"a": {"type": "integer", "not": {}}}}, 'Unimplemented keys: ["not"]'),
        ({"properties": {}, "patternProperties": {}}, 'Unimplemented keys: ["patternProperties"]'),
        ({"anyOf": [{"properties": {}}, {"required": ["a"]}]}, 'Unimplemented keys: ["anyOf"]'),
        (
            {"properties": {"a": {"type": "string", "minLength": 1, "allOf": [{"minLength": 2}]}}},
            "minLength is said twice",
        ),
    ],
    ids=lambda value: json.dumps(value)[:60],
)
def test_what_cannot_be_kept_to_is_refused_if_strict_and_else_passed_over(schema: Any, said: str) -> None:
    with pytest.raises(Unusable) as refused:
        _of("glm", schema, strict=True)
    assert said in str(refused.value)
    assert refused.value.param == "tools.0"
    assert _of("glm", schema)


def _pointing(times: int) -> dict[str, Any]:
    """A schema with much that so many parameters point to."""
    much = {"type": "object", "description": "a" * 20_000}
    return {
        "$defs": {"much": much},
        "properties": {f"a{at}": {"$ref": "#/$defs/much", "maxProperties": at} for at in range(times)},
    }


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"properties": {"a": {"$ref": "#/$defs/nowhere"}}}, "does not exist"),
        ({"properties": {"a": {"$ref": "http://nowhere.example/x"}}}, "nothing is fetched"),
        ({"properties": {"a": {"$ref": "#/properties/a"}}}, "too many, or nested too deeply"),
        (_doubling(16), "too many, or nested too deeply"),
        ({"anyOf": [{}] * 900, **{f"w{at}": 1 for at in range(900)}}, "too many, or nested too deeply"),
        ({"anyOf": [{"required": [f"a{at}"]} for at in range(300)]}, "too many, or nested too deeply"),
        (_pointing(400), "more than the 262144 letters"),
        ({"properties": {"a>": {}}}, "cannot be written"),
        ({"properties": {"a": {"type": "string", "pattern": "("}}}, "regex parse error"),
        ({"properties": {"a": {"type": "string", "minLength": "x"}}}, ""),
        ({"properties": {"a": {"type": 7}}}, "an enum or a type is none"),
        ({"properties": {"a": {"enum": 7}}}, "an enum or a type is none"),
        ({"properties": {"a": {"enum": ["a"] * 3000}, "b": {"anyOf": [{"$ref": "#/properties/a"}] * 30}}}, "too many"),
        ({"properties": {"a": {"anyOf": {}}}}, "a list of schemas is none"),
        ({"properties": {"a": 7}}, "a schema is no object"),
        ({"properties": 7}, "properties are none"),
        ({"required": "a"}, "required is no list of names"),
        ({"properties": {"a": False}, "required": ["a"]}, "no value can be given for a"),
    ],
    ids=lambda value: json.dumps(value)[-60:],
)
def test_what_is_no_schema_is_refused_by_the_tool_whose_it_is(schema: Any, said: str) -> None:
    tools = (_TOOL, Tool("g", schema, False, "tools.1"))
    with pytest.raises(Unusable) as refused:
        checked_grammar(Wanted(None, tools), BY_NAME["glm"], _PLAIN.special.get)
    assert said in str(refused.value)
    assert refused.value.param == "tools.1"


def test_the_call_of_a_tool_that_is_numbered_has_the_id_that_the_model_wrote() -> None:
    reader = CallReader(Calling(BY_NAME["kimi"], (_TOOL,)))
    _, pieces = reader.push(
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.f:12<|tool_call_argument_begin|>{}<|tool_call_end|>"
    )
    assert [piece.id for piece in pieces][:1] == ["functions.f:12"]
