"""Arguments that stand as values by name, strings as they are: how they are marked off, and the grammar of them."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from llguidance import regex_to_lark

from serving.structure.parameters import (
    CONTAINERS,
    SHARED,
    STRING,
    NotKept,
    Parameter,
    Parameters,
    Schema,
    beyond,
    literals_of,
    type_of,
    types_of,
)

SpecialOf = Callable[[str], int | None]
"""A special token's number by what it is called; None if there is none of that name."""
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
_UNCLOSED, _ANY_STRING = "UNCLOSED", "any-string"
_MOST_UNORDERED = 64
_OTHER_NAME = r"/[A-Za-z_][A-Za-z0-9_.-]{0,63}/"


@dataclass(frozen=True)
class Values:
    """`opening` stands before a value's name, `named` between the two, with nothing else around them but blanks before those
    of `named` behind the first, and `closing` behind the value.

    A string is what stands between, to the letter; with `lines` a line's end before `closing` is none of it. Everything else
    is in JSON. No string holds `closing`, in which the first letter comes once.
    """

    opening: str
    named: tuple[str, ...]
    closing: str
    lines: bool = False

    @property
    def literals(self) -> tuple[str, ...]:
        """All that is written beside names and values."""
        return (self.opening, *self.named, self.closing)


class ValueRules:
    """The grammar's rules for one tool's arguments; their names begin with `prefix`, and the first is called so.

    `json_rule` makes one of a schema.
    """

    def __init__(
        self,
        values: Values,
        parameters: Parameters,
        prefix: str,
        strict: bool,
        special_of: SpecialOf,
        json_rule: Callable[[Mapping[str, Any]], str],
    ) -> None:
        self._values, self._parameters, self._prefix, self._strict = values, parameters, prefix, strict
        self._special_of, self._json_rule = special_of, json_rule

    def rules(self) -> list[str]:
        """Each that is known at most once, in any order; those that are many in the schema's."""
        prefix, known, found = self._prefix, self._parameters.known, list[str]()
        for index, each in enumerate(known):
            found += self._rules_of(each, f"{prefix}-{index}", _name(each.name))
        if self._parameters.others is not None:
            called = f"{prefix}-x-name".upper()
            taken = " | ".join(json.dumps(each.name) for each in known)
            found += [f"{called}: {_OTHER_NAME}" + (f" & ~({taken})" if taken else "")]
            found += self._rules_of(self._parameters.others, f"{prefix}-x", called)
        return [*(self._unordered() if 0 < len(known) <= _MOST_UNORDERED else [self._ordered()]), *found]

    def _unordered(self) -> list[str]:
        """Which were given already is a number, a bit for each; those that are required have the lowest."""
        prefix, known = self._prefix, self._parameters.known
        order = sorted(range(len(known)), key=lambda index: not known[index].required)
        required = sum(each.required for each in known)
        ways = ['""' + (f" %if is_ones([0:{required}])" if required else "")]
        ways += [f"W? {prefix}-{at} {prefix}-more::set_bit({bit}) %if bit_clear({bit})" for bit, at in enumerate(order)]
        ways += [f"W? {prefix}-x {prefix}-more::_"] if self._parameters.others is not None else []
        return [f"{prefix}: {prefix}-more::0x0", f"{prefix}-more::_: " + "\n  | ".join(ways)]

    def _ordered(self) -> str:
        prefix = self._prefix
        parts = [
            f"W? {prefix}-{index}" if known.required else f"(W? {prefix}-{index})?"
            for index, known in enumerate(self._parameters.known)
        ]
        parts += [f"(W? {prefix}-x)*"] if self._parameters.others is not None else []
        return f"{prefix}: " + (" ".join(parts) or '""')

    def shared(self) -> list[str]:
        """Rules that those of all tools are made of."""
        return [f"{_UNCLOSED}: /{_without(self._values.closing)}/", *self._closed(_ANY_STRING, _UNCLOSED)]

    def _rules_of(self, parameter: Parameter, rule: str, name: str) -> Iterator[str]:
        between = " W? ".join(map(self._literal, self._values.named))
        begun = f"{rule}: {self._literal(self._values.opening)} {name} {between}"
        closed = f"W? {self._literal(self._values.closing)}"
        if STRING not in parameter.types:
            yield f"{begun} {rule}-json {closed}"
            yield f"{rule}-json: {self._json_rule(parameter.schema)}"
            return
        containers = [] if parameter.anything else list(_only(CONTAINERS, parameter))
        text = self._unclosed(parameter, bool(containers))
        text_rule = f"{rule}-text" if text is not None else _ANY_STRING
        yield f"{begun} ({text_rule} | {rule}-json {closed})" if containers else f"{begun} {text_rule}"
        if containers:
            shared = {word: parameter.schema[word] for word in SHARED if word in parameter.schema}
            yield f"{rule}-json: {self._json_rule({**shared, 'anyOf': containers})}"
        if text is not None:
            yield from self._closed(text_rule, f"({text}) & {_UNCLOSED}")

    def _closed(self, rule: str, text: str) -> Iterator[str]:
        """A value that stands as it is, and what closes it."""
        number, terminal = self._special_of(self._values.closing), rule.upper()
        if number is not None:
            yield f"{rule}: {terminal} <[{number}]>"
            yield f"{terminal}: {text}"
        else:  # the first that comes closes it
            yield f"{rule}[lazy]: {terminal}"
            yield f"{terminal}: ({text}) {json.dumps(self._values.closing)}"

    def _unclosed(self, parameter: Parameter, beside_containers: bool) -> str | None:
        """What a value may be that stands as it is; None: any string."""
        if parameter.anything:
            return None
        texts = [self._text(branch) for branch in parameter.branches if STRING in types_of(branch)]
        if set(texts) == {_ANY_TEXT} and parameter.types == {STRING}:
            return None
        strings = [f"({' | '.join(texts)})"]
        if plain := sorted(parameter.types & _OF_TYPE.keys()):
            strings.append(f"~({' | '.join(map(_OF_TYPE.__getitem__, plain))})")
        if beside_containers:
            strings.append(_NO_CONTAINER)
        text = " | ".join([" & ".join(strings), *self._others(parameter)])
        return f'({text}) "\\n" | ({text}) & {_ONE_LINE_LESS}' if self._values.lines else text

    def _text(self, branch: Schema) -> str:
        """Strings of the branch."""
        self._check(branch, of_texts=True)
        if "const" in branch or "enum" in branch:
            found = [json.dumps(value) for value in literals_of(branch) if isinstance(value, str)]
            return f"({' | '.join(found)})"
        found = [_pattern(branch["pattern"])] if "pattern" in branch else []
        least, most = branch.get("minLength", 0), branch.get("maxLength", "")
        if least or most != "":
            found.append(f"/(?s:.{{{int(least)},{int(most) if most != '' else ''}}})/")
        return f"({' & '.join([*found, _ANY_TEXT])})" if found else _ANY_TEXT

    def _others(self, parameter: Parameter) -> Iterator[str]:
        """What else it may be that is no object or array."""
        for branch in parameter.branches:
            if "const" in branch or "enum" in branch:
                values = [value for value in literals_of(branch) if type_of(value) not in {STRING, *CONTAINERS}]
                yield from map(json.dumps, map(json.dumps, values))
                continue
            kinds = types_of(branch) & _OF_TYPE.keys()
            if kinds & {"integer", "number"}:
                self._check(branch, of_texts=STRING in types_of(branch))
            yield from (_OF_TYPE[kind] for kind in sorted(kinds))

    def _check(self, branch: Schema, of_texts: bool) -> None:
        if self._strict and (words := beyond(branch, of_texts)):
            raise NotKept(f"Unimplemented keys: {json.dumps(words)}")

    def _literal(self, literal: str) -> str:
        number = self._special_of(literal)
        return json.dumps(literal) if number is None else f"<[{number}]>"


def _name(name: str) -> str:
    """A parameter's in the grammar; NotKept if it would not be read again."""
    if not name or name != name.strip() or re.search(r"[<>\"\n]", name):
        raise NotKept(f"{json.dumps(name)} cannot be written as this model names arguments")
    return json.dumps(name)


def _only(kinds: frozenset[str], parameter: Parameter) -> Iterator[Schema]:
    for branch in parameter.branches:
        if "const" in branch or "enum" in branch:
            values = [value for value in literals_of(branch) if type_of(value) in kinds]
            if values:
                yield {"enum": values}
        elif found := sorted(types_of(branch) & kinds):
            yield {**branch, "type": found}


def _pattern(pattern: str) -> str:
    """What a schema's pattern is found in: it may lie anywhere, but for where it says where."""
    begun, ended = pattern.startswith("^"), pattern.endswith("$") and not pattern.endswith("\\$")
    inner = pattern[1 if begun else 0 : -1 if ended else None]
    around = ("" if begun else "(?s:.*)", "" if ended else "(?s:.*)")
    return f"/{around[0]}({regex_to_lark(inner, 'dw')}){around[1]}/"


def _without(literal: str) -> str:
    """A pattern of the texts that do not hold the literal, whose first letter comes once in it."""
    first, more = literal[0], ""
    for letter in reversed(literal[1:]):
        other = f"[^{_escaped(first)}{_escaped(letter)}][^{_escaped(first)}]*"
        more = f"({other}|{_escaped(letter)}{more})?" if more else f"({other})?"
    return f"[^{_escaped(first)}]*({_escaped(first)}{more})*"


def _escaped(letter: str) -> str:
    return re.escape(letter).replace("/", r"\/")
