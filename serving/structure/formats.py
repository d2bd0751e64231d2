"""How models write calls of tools: a row of literals, names and arguments for each format that is known."""

import re
import secrets
import string
from dataclasses import dataclass
from typing import Any

from serving.structure.values import Values

NAME_LETTERS = frozenset(string.ascii_letters + string.digits + "_-")
"""What functions' names are written with."""


@dataclass(frozen=True)
class CallFormat:
    """`begin` stands once before all calls, `opening` before each call's name, `named` between the name and its arguments,
    `closing` behind them, `between` two calls, `end` once behind all.

    Between two literals there may be blanks, before calls there may be text. A literal may be a special token of the model's.
    """

    name: str
    opening: tuple[str, ...]
    named: tuple[str, ...]
    closing: tuple[str, ...]
    begin: tuple[str, ...] = ()
    between: tuple[str, ...] = ()
    end: tuple[str, ...] = ()
    mark: str | None = None
    """An optional one in front."""
    at_start: bool = False
    """Calls are the whole answer, which is told by how it begins."""
    loose: bool = False
    """The outermost marks of a call, the first of `opening` and the last of `closing`, may be missing."""
    values: Values | None = None
    """How arguments stand if they are no object in JSON."""
    numbered: str | None = None
    """Between a name and the call's number; both, with what stands before the name, are then its id."""
    beside: bool = False
    """Tools are no argument of the template, but a text beside that of the system message (serving.structure.told)."""
    id_letters: int | None = None
    """Of calls' ids, where the model's template takes no others."""
    known_by: tuple[tuple[str, ...], ...] = ()
    """Texts which, all of one row, are in the templates of models that write so."""

    @property
    def openings(self) -> tuple[tuple[str, ...], ...]:
        """How a call may begin."""
        return (self.opening, self.opening[1:]) if self.loose else (self.opening,)

    @property
    def closings(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What stands behind a call, and what of it may be missing."""
        at = len(self.closing) - self.loose
        return self.closing[:at], self.closing[at:]

    @property
    def triggers(self) -> tuple[str, ...]:
        """With what calls may begin."""
        first = tuple((*self.begin, *opening)[0] for opening in self.openings)
        return first if self.mark is None else (*first, self.mark)

    @property
    def literals(self) -> frozenset[str]:
        """All that is written beside names and arguments."""
        values = self.values.literals if self.values is not None else ()
        rows = (self.triggers, self.begin, self.opening, self.named, self.closing, self.between, self.end, values)
        return frozenset(literal for row in rows for literal in row)

    def new_id(self) -> str:
        """A call's, where models write none."""
        if self.id_letters is not None:
            return secrets.token_hex(self.id_letters)[: self.id_letters]
        return f"call_{secrets.token_hex(12)}"


def _of_objects(name: str, arguments: str = "arguments", tags: tuple[str, ...] = (), **more: Any) -> CallFormat:
    """Each call is an object of JSON, which stands between tags, if there are some."""
    return CallFormat(
        name,
        opening=(*tags[:1], "{", '"name"', ":", '"'),
        named=('"', ",", f'"{arguments}"', ":"),
        closing=("}", *tags[1:]),
        **more,
    )


def _deepseek(words: str) -> str:
    """A token as DeepSeek's tokenizers call theirs."""
    return "<\uff5c" + words.replace(" ", "\u2581") + "\uff5c>"


_TAGS = ("<tool_call>", "</tool_call>")
PLAIN = _of_objects("plain", tags=_TAGS)
"""For models whose templates tell nothing of tools, or write calls as nothing here does."""
FORMATS = (
    CallFormat(
        "qwen-xml",
        opening=(_TAGS[0], "<function="),
        named=(">",),
        closing=("</function>", _TAGS[1]),
        loose=True,
        values=Values("<parameter=", (">\n",), "</parameter>", lines=True),
        known_by=((_TAGS[0], "<function=", "<parameter="),),
    ),
    CallFormat(
        "seed-xml",
        opening=("<seed:tool_call>", "<function="),
        named=(">",),
        closing=("</function>", "</seed:tool_call>"),
        values=Values("<parameter=", (">",), "</parameter>"),
        known_by=(("<seed:tool_call>", "<function=", "<parameter="),),
    ),
    CallFormat(
        "minimax",
        begin=("<minimax:tool_call>",),
        opening=('<invoke name="',),
        named=('">',),
        closing=("</invoke>",),
        end=("</minimax:tool_call>",),
        values=Values('<parameter name="', ('">',), "</parameter>"),
        known_by=(("<minimax:tool_call>", "<invoke name="),),
    ),
    CallFormat(
        "glm",
        opening=(_TAGS[0],),
        named=(),
        closing=(_TAGS[1],),
        values=Values("<arg_key>", ("</arg_key>", "<arg_value>"), "</arg_value>"),
        known_by=((_TAGS[0], "<arg_key>", "<arg_value>"),),
    ),
    CallFormat(
        "deepseek-fenced",
        begin=(_deepseek("tool calls begin"),),
        opening=(_deepseek("tool call begin"), "function", _deepseek("tool sep")),
        named=("```json",),
        closing=("```", _deepseek("tool call end")),
        end=(_deepseek("tool calls end"),),
        known_by=((_deepseek("tool calls begin"), "```json"),),
    ),
    CallFormat(
        "deepseek",
        begin=(_deepseek("tool calls begin"),),
        opening=(_deepseek("tool call begin"),),
        named=(_deepseek("tool sep"),),
        closing=(_deepseek("tool call end"),),
        end=(_deepseek("tool calls end"),),
        known_by=((_deepseek("tool calls begin"),),),
    ),
    CallFormat(
        "kimi",
        begin=("<|tool_calls_section_begin|>",),
        opening=("<|tool_call_begin|>", "functions."),
        named=("<|tool_call_argument_begin|>",),
        closing=("<|tool_call_end|>",),
        end=("<|tool_calls_section_end|>",),
        numbered=":",
        known_by=(("<|tool_calls_section_begin|>", "<|tool_call_argument_begin|>"),),
    ),
    CallFormat(
        "mistral-args",
        opening=("[TOOL_CALLS]",),
        named=("[ARGS]",),
        closing=(),
        id_letters=9,
        known_by=(("[TOOL_CALLS]", "[ARGS]"),),
    ),
    _of_objects(
        "mistral",
        begin=("[TOOL_CALLS]", "["),
        between=(",",),
        end=("]",),
        id_letters=9,
        known_by=(("[TOOL_CALLS]",),),
    ),
    _of_objects(
        "granite",
        begin=("<|tool_call|>", "["),
        between=(",",),
        end=("]",),
        known_by=(("<|start_of_role|>", "<|tool_call|>"),),
    ),
    _of_objects(
        "phi",
        begin=("<|tool_call|>", "["),
        between=(",",),
        end=("]", "<|/tool_call|>"),
        beside=True,
        known_by=(("'<|tool|>' + message['tools'] + '<|/tool|>'",),),
    ),
    _of_objects(
        "phi-tags",
        tags=("<|tool_call|>", "<|/tool_call|>"),
        known_by=(("<|tool_call|>", "<|/tool_call|>"),),
    ),
    _of_objects(
        "llama",
        arguments="parameters",
        between=(";",),
        mark="<|python_tag|>",
        at_start=True,
        known_by=(("<|start_header_id|>", '"parameters": '), ("<|python_tag|>", '"parameters": ')),
    ),
    _of_objects("hermes", tags=_TAGS, known_by=((_TAGS[0],),)),
)
"""More special ones first."""
BY_NAME = {known.name: known for known in (*FORMATS, PLAIN)}
_TOLD_OF = re.compile(r"(?<![\w'\".])tools(?![\w'\"])")
"""The name by which a template is told of tools, as no part of a text or of something else."""
_OTHERS = ("<function=", "<arg_key>", "<tool_calls>")
"""Of formats that are not known, and use for something else the marks of those that write arguments in JSON."""


def format_of(template: str) -> CallFormat:
    """What a model with this chat template writes calls in."""
    told = _TOLD_OF.search(template) is not None
    for known in FORMATS:
        if (told or known.beside) and any(all(text in template for text in row) for row in known.known_by):
            others = known.values is None and any(mark in template for mark in _OTHERS)
            return PLAIN if others else known
    return PLAIN
