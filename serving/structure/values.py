"""Arguments that stand as values by name, strings as they are: how they are marked off, and the grammar of them."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cluster.wire.requests import GRAMMAR_CHARACTERS
from serving.structure.parameters import (
    CONTAINERS,
    SHARED,
    STRING,
    NotKept,
    Parameter,
    Parameters,
    Schema,
    literals_of,
    type_of,
    types_of,
)
from serving.structure.strings import Strings, without

SpecialOf = Callable[[str], int | None]
"""A special token's number by what it is called; None if there is none of that name."""
JsonRule = Callable[[Mapping[str, Any]], str]
"""What of a grammar is JSON of a schema."""
_UNCLOSED = "UNCLOSED"
_OTHER_NAME = r"/[A-Za-z_][A-Za-z0-9_.-]{0,63}/"
_MOST_UNORDERED = 64


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
    """The grammar's rules for the arguments of one answer's tools. What several values may be is one rule."""

    def __init__(self, values: Values, special_of: SpecialOf) -> None:
        self._values, self._special_of = values, special_of
        self._shared: dict[str, str] = {}
        self._letters = 0

    def shared(self) -> list[str]:
        """What those of the tools refer to, once all of them are made."""
        rules = [f"{name}: {body}" for body, name in self._shared.items()]
        return [f"{_UNCLOSED}: {without(self._values.closing)}", *rules]

    def of_tool(self, prefix: str, parameters: Parameters, strict: bool, json_rule: JsonRule) -> list[str]:
        """Each that is known at most once, in any order; those that are many in the schema's. The names of these rules begin
        with `prefix`, and the first is called so. NotKept if the arguments cannot be."""
        known, found = parameters.known, list[str]()
        for index, each in enumerate(known):
            found.append(self._rule(f"{prefix}-{index}", _name(each.name), self._value(each, strict, json_rule)))
        if parameters.others is not None:
            called, taken = f"{prefix}-x-name".upper(), " | ".join(json.dumps(each.name) for each in known)
            found.append(f"{called}: {_OTHER_NAME}" + (f" & ~({taken})" if taken else ""))
            found.append(self._rule(f"{prefix}-x", called, self._value(parameters.others, strict, json_rule)))
        few = 0 < len(known) <= _MOST_UNORDERED
        return [*(_unordered(prefix, parameters) if few else [_ordered(prefix, parameters)]), *found]

    def _rule(self, rule: str, name: str, value: str) -> str:
        between = " W? ".join(map(self._literal, self._values.named))
        return f"{rule}: {self._literal(self._values.opening)} {name} {between} {value}"

    def _value(self, parameter: Parameter, strict: bool, json_rule: JsonRule) -> str:
        """What it may be, and what closes it."""
        closed = f"W? {self._literal(self._values.closing)}"
        if STRING not in parameter.types:
            return f"{self._share('json', json_rule(parameter.schema))} {closed}"
        containers = [] if parameter.anything else list(_only(CONTAINERS, parameter))
        text = self._text(Strings(parameter, strict).pattern(bool(containers), self._values.lines))
        if not containers:
            return text
        pointed = {word: parameter.schema[word] for word in SHARED if word in parameter.schema}
        return f"({text} | {self._share('json', json_rule({**pointed, 'anyOf': containers}))} {closed})"

    def _text(self, pattern: str | None) -> str:
        """One that stands as it is, any if there is no pattern, and what closes it: the first that comes."""
        text = _UNCLOSED if pattern is None else f"({pattern}) & {_UNCLOSED}"
        number = self._special_of(self._values.closing)
        if number is not None:
            return f"{self._share('TEXT', text)} <[{number}]>"
        return self._share("text", self._share("TEXT", f"({text}) {json.dumps(self._values.closing)}"), "[lazy]")

    def _share(self, kind: str, body: str, how: str = "") -> str:
        """What the rule with this body is called."""
        if body not in self._shared:
            self._letters += len(body)
            if self._letters > GRAMMAR_CHARACTERS:
                raise NotKept(
                    f"written as a grammar it has more than the {GRAMMAR_CHARACTERS} letters that one may have"
                )
            self._shared[body] = f"{kind}-{len(self._shared)}{how}"
        return self._shared[body].removesuffix(how)

    def _literal(self, literal: str) -> str:
        number = self._special_of(literal)
        return json.dumps(literal) if number is None else f"<[{number}]>"


def _unordered(prefix: str, parameters: Parameters) -> list[str]:
    """Which were given already is a number, a bit for each; those that are required have the lowest."""
    known = parameters.known
    order = sorted(range(len(known)), key=lambda index: not known[index].required)
    required = sum(each.required for each in known)
    ways = ['""' + (f" %if is_ones([0:{required}])" if required else "")]
    ways += [f"W? {prefix}-{at} {prefix}-more::set_bit({bit}) %if bit_clear({bit})" for bit, at in enumerate(order)]
    ways += [f"W? {prefix}-x {prefix}-more::_"] if parameters.others is not None else []
    return [f"{prefix}: {prefix}-more::0x0", f"{prefix}-more::_: " + "\n  | ".join(ways)]


def _ordered(prefix: str, parameters: Parameters) -> str:
    names = [(f"W? {prefix}-{index}", known.required) for index, known in enumerate(parameters.known)]
    parts = [name if required else f"({name})?" for name, required in names]
    parts += [f"(W? {prefix}-x)*"] if parameters.others is not None else []
    return f"{prefix}: " + (" ".join(parts) or '""')


def _name(name: str) -> str:
    """A parameter's in the grammar; NotKept if it would not be read again."""
    if not name or name != name.strip() or re.search(r"[<>\"\n]", name):
        raise NotKept(f"{json.dumps(name)} cannot be written as this model names arguments")
    return json.dumps(name)


def _only(kinds: frozenset[str], parameter: Parameter) -> Iterator[Schema]:
    """Its branches as far as they are of these kinds."""
    for branch in parameter.branches:
        if "const" in branch or "enum" in branch:
            values = [value for value in literals_of(branch) if type_of(value) in kinds]
            if values:
                yield {"enum": values}
        elif found := sorted(types_of(branch) & kinds):
            yield {**branch, "type": found}
