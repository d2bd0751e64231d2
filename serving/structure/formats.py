"""How models write calls of tools: a row of literals, names and arguments for each format that is known."""

import re
import secrets
import string
from dataclasses import dataclass
from typing import Any

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


_TAGS = ("<tool_call>", "</tool_call>")
PLAIN = _of_objects("plain", tags=_TAGS)
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
"""Of formats that use the others' marks for something else."""


def format_of(template: str) -> CallFormat:
    """What a model with this chat template writes calls in."""
    if _TOLD_OF.search(template) is None or any(mark in template for mark in _OTHERS):
        return PLAIN
    for known in FORMATS:
        if any(all(text in template for text in row) for row in known.known_by):
            return known
    return PLAIN
