"""What is wanted of an answer as a grammar for llguidance, over the tokens of one model."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from llguidance import regex_to_lark
from llguidance.gbnf_to_lark import any_to_lark

from serving.structure.formats import CallFormat
from serving.structure.parameters import parameters_of
from serving.structure.values import SpecialOf, ValueRules
from serving.structure.wanted import Form, Tool, Wanted

BLANKS = r"\x20|\x0A\x20{0,24}"
"""Between the parts of JSON: none, or so many; without a bound small models may run away in blanks."""
_TERMINALS = r"""
W: /[ \n]{1,4}/
TEXT: /(.|\n)+/
"""
_NUMBER = "/[0-9]{1,6}/"
"""Of a call."""


def grammar_of(wanted: Wanted, form: CallFormat, special_of: SpecialOf) -> str:
    """A grammar in Lark as llguidance reads it. Special tokens are in it by their numbers.

    With tools text may stand before calls, unless it is to be of a form; that a call has begun is told by `form`'s trigger,
    and from there on nothing but calls may come.
    """
    if wanted.form is not None and wanted.form.kind == "grammar":
        lark: str = any_to_lark(wanted.form.value)
        return lark
    text = None if wanted.form is None else _of_form(wanted.form)
    rules = _Calls(wanted, form, special_of).rules(text) if wanted.tools else [f"start: {text or 'TEXT'}"]
    return "\n".join(rules) + _TERMINALS


def _of_form(form: Form) -> str:
    match form.kind:
        case "json":
            return _json(form.value, form.strict)
        case "regex":
            return f"/{regex_to_lark(form.value, 'dw')}/"
        case _:
            return f"/(?:{'|'.join(map(_as_pattern, form.value))})/"


def _as_pattern(text: str) -> str:
    """What matches the text alone. Of many one pattern is one thing that may follow; as literals each were one of its own,
    of which stages take no more than five hundred."""
    return "".join(letter if letter.isalnum() or ord(letter) > 127 else f"\\x{{{ord(letter):x}}}" for letter in text)


def _json(schema: Mapping[str, Any], strict: bool) -> str:
    """What the schema itself says of how it is to be read is left out."""
    how = {"whitespace_pattern": BLANKS, "coerce_one_of": True, "lenient": not strict}
    return f"%json {json.dumps({**schema, 'x-guidance': how})}"


class _Calls:
    """The rules of an answer that may call tools."""

    def __init__(self, wanted: Wanted, form: CallFormat, special_of: SpecialOf) -> None:
        self._wanted, self._format, self._special_of = wanted, form, special_of

    def rules(self, text: str | None) -> list[str]:
        """Those beside the terminals; `text` is what stands instead of calls, None if it is free."""
        form = self._format
        free = text is None and not self._wanted.required and not form.at_start
        heads, ways = [], []
        for index, opening in enumerate(form.openings):
            trigger, *rest = (*form.begin, *opening)
            first = self._literal(trigger)
            if free and self._special_of(trigger) is None:  # text is text up to the first of them
                first = f"head-{index}"
                heads.append(f"{first}[lazy]: /(.|\\n)*{re.escape(trigger)}/")
            elif free:
                first = f"TEXT? {first}"
            ways.append(" W? ".join([first, *map(self._literal, rest)]))
        mark = f"({self._literal(form.mark)} W?)? " if form.mark is not None else ""
        return [
            f"calls: {mark}({' | '.join(ways)}) named {self._closed()} {self._more()} {self._behind(form.end)}",
            f"named: {self._named()}",
            *self._values(),
            *heads,
            *self._start(text),
        ]

    def _start(self, text: str | None) -> list[str]:
        """Calls, or what stands instead of them."""
        if self._wanted.required:
            return ["start: calls"]
        if text is not None:
            return [f"start: {text} | calls"]
        if self._format.at_start:
            first = re.escape(self._format.triggers[0][0])
            return ["start: OTHER? | calls", f"OTHER: /[ \\n]*[^ \\n{first}](.|\\n)*/"]
        return ["start: TEXT? | calls"]

    def _more(self) -> str:
        """Further calls."""
        if not self._wanted.parallel:
            return ""
        rows = [" W? ".join(map(self._literal, (*self._format.between, *opening))) for opening in self._format.openings]
        return f"(W? ({' | '.join(rows)}) named {self._closed()})*"

    def _closed(self) -> str:
        """What stands behind a call."""
        closed, loose = map(self._behind, self._format.closings)
        return f"{closed} ({loose})?" if loose else closed

    def _named(self) -> str:
        """A call's name, and arguments that it takes."""
        between = self._behind(self._format.named)
        if self._format.numbered is not None:
            between = f"{self._literal(self._format.numbered)} {_NUMBER} {between}"
        calls = [
            f"{json.dumps(tool.name)} {between} {self._arguments(index, tool)}"
            for index, tool in enumerate(self._wanted.tools)
        ]
        return "\n  | ".join(calls)

    def _arguments(self, index: int, tool: Tool) -> str:
        if self._format.values is not None:
            return _values_of(index)
        return f"W? {_json({**tool.schema, 'type': 'object'}, tool.strict)}"

    def _values(self) -> Iterator[str]:
        """Rules of arguments that stand by themselves."""
        if self._format.values is None:
            return
        rules = ValueRules(self._format.values, self._special_of)
        for index, tool in enumerate(self._wanted.tools):
            json_rule = partial(_json, strict=tool.strict)
            yield from rules.of_tool(_values_of(index), parameters_of(tool), tool.strict, json_rule)
        yield from rules.shared()

    def _behind(self, literals: Sequence[str]) -> str:
        return " ".join(f"W? {self._literal(literal)}" for literal in literals)

    def _literal(self, literal: str) -> str:
        number = self._special_of(literal)
        return json.dumps(literal) if number is None else f"<[{number}]>"


def _values_of(index: int) -> str:
    """What the rule for the arguments of the tool at this place is called."""
    return f"v{index}"
