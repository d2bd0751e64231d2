"""What a value may be that stands as it is, between tags: patterns in Lark, out of a parameter's schema."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from llguidance import regex_to_lark

from serving.structure.parameters import (
    CONTAINERS,
    STRING,
    NotKept,
    Parameter,
    Schema,
    beyond,
    literals_of,
    type_of,
    types_of,
)

_ANY_TEXT = "/(?s:.*)/"
_NO_CONTAINER = r"/([^\[{](?s:.*))?/"
_ONE_LINE_LESS = r"/((?s:.*)[^\n])?/"
"""Texts that do not end with a line's end."""
_OF_TYPE = {
    "null": '"null"',
    "boolean": '"true" | "false"',
    "integer": "/-?(0|[1-9][0-9]*)/",
    "number": r"/-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?/",
}
_DATE = r"[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
_TIME = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]+)?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
_FORMATS = {
    "date": f"/{_DATE}/",
    "time": f"/{_TIME}/",
    "date-time": f"/{_DATE}T{_TIME}/",
    "uuid": "/[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}/",
}
"""As RFC 3339 and RFC 9562 have them."""


@dataclass(frozen=True)
class Strings:
    """Of a parameter that may be a string. NotKept if it cannot be kept to, of a strict tool also if not to all of it."""

    parameter: Parameter
    strict: bool

    def pattern(self, beside_containers: bool, lines: bool) -> str | None:
        """Strings, numbers and JSON's words, whatever of these it may be; None: any text. An object or an array stands
        elsewhere if `beside_containers`. With `lines` there may be one more line's end."""
        if self.parameter.anything:
            return None
        texts = [self._text(branch) for branch in self.parameter.branches if STRING in types_of(branch)]
        if set(texts) == {_ANY_TEXT} and self.parameter.types == {STRING}:
            return None
        strings = [f"({' | '.join(texts)})"]
        if plain := sorted(self.parameter.types & _OF_TYPE.keys()):
            strings.append(f"~({' | '.join(map(_OF_TYPE.__getitem__, plain))})")
        if beside_containers:
            strings.append(_NO_CONTAINER)
        text = " | ".join([" & ".join(strings), *self._others()])
        return f'({text}) "\\n" | ({text}) & {_ONE_LINE_LESS}' if lines else text

    def _text(self, branch: Schema) -> str:
        """Strings of the branch."""
        self._check(branch, of_texts=True)
        if "const" in branch or "enum" in branch:
            found = [json.dumps(value) for value in literals_of(branch) if isinstance(value, str)]
            return f"({' | '.join(found)})"
        found = [_pattern(branch["pattern"])] if "pattern" in branch else []
        found += [_FORMATS[known] for known in [branch.get("format")] if known in _FORMATS]
        least, most = branch.get("minLength", 0), branch.get("maxLength", "")
        if least or most != "":
            found.append(f"/(?s:.{{{int(least)},{int(most) if most != '' else ''}}})/")
        return f"({' & '.join([*found, _ANY_TEXT])})" if found else _ANY_TEXT

    def _others(self) -> Iterator[str]:
        """What else it may be that is no object or array."""
        for branch in self.parameter.branches:
            if "const" in branch or "enum" in branch:
                values = [value for value in literals_of(branch) if type_of(value) not in {STRING, *CONTAINERS}]
                yield from map(json.dumps, map(json.dumps, values))
                continue
            kinds = types_of(branch) & _OF_TYPE.keys()
            if kinds & {"integer", "number"}:
                self._check(branch, of_texts=STRING in types_of(branch))
            yield from (_OF_TYPE[kind] for kind in sorted(kinds))

    def _check(self, branch: Schema, of_texts: bool) -> None:
        if self.strict and (words := beyond(branch, of_texts)):
            raise NotKept(f"Unimplemented keys: {json.dumps(words)}")


def without(literal: str) -> str:
    """A pattern of the texts that do not hold the literal, whose first letter comes once in it. Far cheaper than what
    llguidance makes of a text that is not one that holds it."""
    first, more = literal[0], ""
    for letter in reversed(literal[1:]):
        other = f"[^{_escaped(first)}{_escaped(letter)}][^{_escaped(first)}]*"
        more = f"({other}|{_escaped(letter)}{more})?" if more else f"({other})?"
    return f"/[^{_escaped(first)}]*({_escaped(first)}{more})*/"


def _pattern(pattern: str) -> str:
    """What a schema's pattern is found in: it may lie anywhere, but for where it says where."""
    begun, ended = pattern.startswith("^"), pattern.endswith("$") and not pattern.endswith("\\$")
    inner = pattern[1 if begun else 0 : -1 if ended else None]
    around = ("" if begun else "(?s:.*)", "" if ended else "(?s:.*)")
    return f"/{around[0]}({regex_to_lark(inner, 'dw')}){around[1]}/"


def _escaped(letter: str) -> str:
    return re.escape(letter).replace("/", r"\/")
