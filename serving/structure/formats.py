"""How models write calls of tools: a row of literals, names and arguments for each format that is known."""

import re
import secrets
import string
from dataclasses import dataclass

NAME_LETTERS = frozenset(string.ascii_letters + string.digits + "_-")
"""What functions' names are written with."""


@dataclass(frozen=True)
class CallFormat:
    """`begin` stands once before all calls, `opening` before each call's name, `named` between the name and its arguments,
    `closing` behind them, `between` two calls, `end` once behind all.

    Between two literals there may be blanks. A literal may be a special token of the model's own. `mark` is an optional one
    in front. With `at_start` calls are the whole answer, which is told by how it begins; else text may stand before them.
    """

    name: str
    opening: tuple[str, ...]
    named: tuple[str, ...]
    closing: tuple[str, ...]
    begin: tuple[str, ...] = ()
    between: tuple[str, ...] = ()
    end: tuple[str, ...] = ()
    mark: str | None = None
    at_start: bool = False
    id_letters: int | None = None
    """Of calls' ids, where the model's template takes no others."""
    native: bool = True
    """Whether the model's template tells of tools and of calls; else they are told in a row of plain messages."""
    known_by: tuple[tuple[str, ...], ...] = ()
    """Texts which, all of one row, are in the templates of models that write so."""

    @property
    def triggers(self) -> tuple[str, ...]:
        """With what calls may begin."""
        first = (*self.begin, *self.opening)[0]
        return (first,) if self.mark is None else (first, self.mark)

    @property
    def literals(self) -> frozenset[str]:
        """All that is written beside names and arguments."""
        rows = (self.triggers, self.begin, self.opening, self.named, self.closing, self.between, self.end)
        return frozenset(literal for row in rows for literal in row)

    def new_id(self) -> str:
        """A call's."""
        return (
            secrets.token_hex(self.id_letters)[: self.id_letters]
            if self.id_letters
            else f"call_{secrets.token_hex(12)}"
        )


def _object(arguments: str) -> dict[str, tuple[str, ...]]:
    return {"opening": ("{", '"name"', ":", '"'), "named": ('"', ",", f'"{arguments}"', ":"), "closing": ("}",)}


_OBJECT, _TAGGED = _object("arguments"), ("<tool_call>", "</tool_call>")


def _hermes(name: str, native: bool, *known_by: tuple[str, ...]) -> CallFormat:
    return CallFormat(
        name,
        opening=(_TAGGED[0], *_OBJECT["opening"]),
        named=_OBJECT["named"],
        closing=(*_OBJECT["closing"], _TAGGED[1]),
        native=native,
        known_by=known_by,
    )


PLAIN = _hermes("plain", False)
"""For models whose templates tell nothing of tools, or write calls as nothing here does."""
FORMATS = (
    CallFormat(
        "mistral-args",
        opening=("[TOOL_CALLS]",),
        named=("[ARGS]",),
        closing=(),
        id_letters=9,
        known_by=(("[TOOL_CALLS]", "[ARGS]"),),
    ),
    CallFormat(
        "mistral",
        begin=("[TOOL_CALLS]", "["),
        **_OBJECT,
        between=(",",),
        end=("]",),
        id_letters=9,
        known_by=(("[TOOL_CALLS]",),),
    ),
    CallFormat(
        "granite",
        begin=("<|tool_call|>", "["),
        **_OBJECT,
        between=(",",),
        end=("]",),
        known_by=(("<|start_of_role|>", "<|tool_call|>"),),
    ),
    CallFormat(
        "llama",
        **_object("parameters"),
        between=(";",),
        mark="<|python_tag|>",
        at_start=True,
        known_by=(("<|start_header_id|>", '"parameters": '), ("<|python_tag|>", '"parameters": ')),
    ),
    _hermes("hermes", True, _TAGGED),
)  # fmt: skip
"""More special ones first."""
BY_NAME = {known.name: known for known in (*FORMATS, PLAIN)}
_TOLD_OF = re.compile(r"(?<![\w'\".])tools(?![\w'\"])")
"""The name by which a template is told of tools, as no part of a text or of something else."""
_OTHERS = ("<function=", "<arg_key>", "<tool_calls>")
"""Of formats that use the others' marks for something else."""


def format_of(template: str) -> CallFormat:
    """What a model with this chat template writes calls in."""
    if _TOLD_OF.search(template) is None or any(mark in template for mark in _OTHERS):
        return PLAIN
    for known in FORMATS:
        if any(all(text in template for text in row) for row in known.known_by):
            return known
    return PLAIN
