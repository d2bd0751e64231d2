"""What a tool's schema says of its arguments one by one, for formats that write each by itself."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from serving.structure.wanted import Tool

Schema = Mapping[str, Any]
STRING, CONTAINERS = "string", frozenset({"object", "array"})
_TYPES = frozenset({STRING, "integer", "number", "boolean", "null", *CONTAINERS})
_TOLD = frozenset(
    {"title", "description", "default", "example", "examples", "deprecated", "readOnly", "writeOnly", "$comment"}
)
_SAID = _TOLD | {"format", "$schema", "$id", "$defs", "definitions"}
"""Words that bind no value; the former are for whoever reads the schema."""
_OF_TEXTS = _SAID | {"type", "enum", "const", "pattern", "minLength", "maxLength"}
_OF_OBJECTS = _SAID | {"type", "properties", "required", "additionalProperties"}
SHARED = ("$defs", "definitions")
"""Words under which a schema has parts that it points to."""
_MOST_STEPS = 1 << 16
"""Words that are looked at: some tens of milliseconds."""
_MOST_DEPTH = 32
_TOO_MUCH = "its alternatives are too many, or nested too deeply"


class NotKept(Exception):
    """A schema asks for what cannot be kept to where values stand by themselves."""


@dataclass(frozen=True)
class Parameter:
    """An argument; `branches` are schemas without references and alternatives, of which one holds. `schema` is the whole."""

    name: str
    schema: Schema
    required: bool
    branches: tuple[Schema, ...]

    @cached_property
    def types(self) -> frozenset[str]:
        """What it may be, in JSON Schema's words."""
        return frozenset[str]().union(*map(types_of, self.branches))

    @property
    def anything(self) -> bool:
        """Whether the schema does not say what it is: it is what its text is in JSON, and a string if that is none."""
        return any(types_of(branch) == _TYPES for branch in self.branches)

    def in_json(self, text: str) -> str:
        """A value that stands as it is, and is no object or array but for one that may be anything."""
        found = _read(text)
        if self.anything:
            return quoted(text) if found is None else text.strip()
        others = self.types - {STRING, *CONTAINERS}
        taken = found in others or (found == "integer" and "number" in others)
        return text if taken and text == text.strip() else quoted(text)


@dataclass(frozen=True)
class Parameters:
    """A tool's, in its schema's order. `others` is what may be given beside them, under any name; None: nothing."""

    known: tuple[Parameter, ...]
    others: Parameter | None

    def named(self, name: str) -> Parameter | None:
        """None: nothing of this name may be given."""
        return next((known for known in self.known if known.name == name), self.others)


def parameters_of(tool: Tool) -> Parameters:
    """NotKept if the schema cannot be taken apart, or, of a strict tool, not without passing over something."""
    return _Taking(tool).parameters()


def types_of(branch: Schema) -> frozenset[str]:
    """What a schema without references and alternatives lets a value be."""
    if "const" in branch or "enum" in branch:
        return frozenset(map(type_of, literals_of(branch)))
    told = branch.get("type", list(_TYPES))
    return frozenset([told] if isinstance(told, str) else told)


def literals_of(branch: Schema) -> Sequence[Any]:
    """All values that it takes, if it names them."""
    values: Sequence[Any] = [branch["const"]] if "const" in branch else branch.get("enum", ())
    told = branch.get("type")
    if told is None:
        return values
    types = types_of({"type": told})
    return [value for value in values if {type_of(value), "number" if _numeric(value) else ""} & types]


def type_of(value: Any) -> str:
    """In JSON Schema's words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, str):
        return STRING
    if isinstance(value, int):
        return "integer"
    return "number" if isinstance(value, float) else "array" if isinstance(value, list) else "object"


def quoted(text: str) -> str:
    """As a string in JSON."""
    return json.dumps(text, ensure_ascii=False)


def beyond(branch: Schema, of_texts: bool) -> list[str]:
    """Words that are not kept to in a value that stands as it is: of a text, or of a number beside texts."""
    return sorted(branch.keys() - (_OF_TEXTS if of_texts else _SAID | {"type", "enum", "const"}))


class _Taking:
    """Takes one tool's schema apart, in a bounded number of steps: schemas come from anybody."""

    def __init__(self, tool: Tool) -> None:
        self._tool, self._steps = tool, 0

    def parameters(self) -> Parameters:
        root = self._tool.schema
        wholes = [whole for whole in self._branches(root, 0) if "object" in types_of(whole)]
        if not wholes:
            raise NotKept("nothing can be written that keeps to it")
        unkept = sorted({word for whole in wholes for word in whole.keys() - _OF_OBJECTS})
        if self._tool.strict and (unkept or len(wholes) > 1):
            raise NotKept(f"Unimplemented keys: {json.dumps(unkept or ['anyOf'])}")
        others = [self._others(whole) for whole in wholes]
        any_other = next((other for other in others if other is not None), None)
        known = list(self._known(wholes))
        return Parameters(tuple(known), None if any_other is None else self._parameter("", any_other, False))

    def _known(self, wholes: Sequence[Schema]) -> Iterator[Parameter]:
        names = dict.fromkeys(name for whole in wholes for name in _names(whole))
        always = frozenset(names).intersection(*map(_required, wholes))
        for name in names:
            self._spend(len(wholes))
            schemas = [whole["properties"][name] for whole in wholes if name in (whole.get("properties") or ())]
            schema = schemas[0] if len(schemas) == 1 else {"anyOf": schemas} if schemas else {}
            found = self._parameter(name, schema, name in always)
            if found.branches:
                yield found
            elif found.required:
                raise NotKept(f"no value can be given for {name}")

    def _parameter(self, name: str, schema: Any, required: bool) -> Parameter:
        whole = _object(schema) if schema is not False else {}
        pointing = '"$ref"' in json.dumps(whole)
        shared = {word: self._tool.schema[word] for word in SHARED if pointing and word in self._tool.schema}
        told = {word: value for word, value in whole.items() if word not in _TOLD}
        return Parameter(name, {**told, **shared}, required, tuple(self._branches(schema, 0)))

    def _others(self, whole: Schema) -> Any:
        """What may be given under other names than are known: what the schema says of them, or anything if it names none."""
        said = whole.get("additionalProperties", None if "properties" in whole else True)
        return None if said is None or said is False else said

    def _branches(self, schema: Any, depth: int) -> list[Schema]:
        """The schema without references and alternatives."""
        self._spend(1)
        if depth > _MOST_DEPTH:
            raise NotKept(_TOO_MUCH)
        if schema is False:
            return []
        schema = _object(schema)
        if "$ref" in schema:
            rest = {word: value for word, value in schema.items() if word != "$ref"}
            return self._branches(self._merged([self._pointed(schema["$ref"]), rest]), depth + 1)
        if "allOf" in schema:
            rest = {word: value for word, value in schema.items() if word != "allOf"}
            return self._branches(self._merged([*self._list(schema["allOf"]), rest]), depth + 1)
        for word in ("anyOf", "oneOf"):
            if word in schema:
                rest = {other: value for other, value in schema.items() if other != word}
                found = [self._merged([each, rest]) for each in self._list(schema[word]) if each is not False]
                return [branch for each in found for branch in self._branches(each, depth + 1)]
        named, told = schema.get("enum", []), schema.get("type", [])
        if not isinstance(named, list) or not isinstance(told, list | str):
            raise NotKept("an enum or a type is none")
        self._spend(len(named) + len(told))
        return [schema] if types_of(schema) else []

    def _spend(self, steps: int) -> None:
        self._steps += steps
        if self._steps > _MOST_STEPS:
            raise NotKept(_TOO_MUCH)

    def _list(self, schemas: Any) -> list[Any]:
        if not isinstance(schemas, list):
            raise NotKept("a list of schemas is none")
        return schemas

    def _merged(self, schemas: Sequence[Any]) -> dict[str, Any]:
        """All of them at once. Where two say different things by the same word the first is taken."""
        found: dict[str, Any] = {}
        for schema in map(_object, schemas):
            self._spend(len(schema))
            for word, value in schema.items():
                if self._tool.strict and word not in _SAID and found.get(word, value) != value:
                    raise NotKept(f"{word} is said twice of the same value")
                found.setdefault(word, value)
        return found

    def _pointed(self, pointer: Any) -> Any:
        found: Any = self._tool.schema
        if not isinstance(pointer, str) or not (pointer == "#" or pointer.startswith("#/")):
            raise NotKept(f"{json.dumps(pointer)} is not in the schema: nothing is fetched")
        for part in pointer.split("/")[1:]:
            self._spend(1)
            name = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, dict) or name not in found:
                raise NotKept(f"{json.dumps(pointer)} does not exist")
            found = found[name]
        return found


def _names(whole: Schema) -> Iterator[str]:
    properties = whole.get("properties") or {}
    if not isinstance(properties, dict):
        raise NotKept("properties are none")
    yield from properties
    yield from _required(whole)


def _required(whole: Schema) -> list[str]:
    names = whole.get("required") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise NotKept("required is no list of names")
    return names


def _object(schema: Any) -> dict[str, Any]:
    if schema is True:
        return {}
    if not isinstance(schema, dict):
        raise NotKept("a schema is no object")
    return schema


def _numeric(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _read(text: str) -> str | None:
    """What it is in JSON, None if it is none."""
    try:
        return type_of(json.loads(text, parse_constant=_no_constant))
    except (ValueError, RecursionError):
        return None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
