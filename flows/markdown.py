"""Pieces of a page in markdown. What names hold is only text there."""

import re
from base64 import b64encode
from collections.abc import Iterable, Sequence

from flows.capacity.markup import clean
from flows.capacity.words import prose

_MARKS = re.compile(r"([\\`*_\[\]<>|~&])")


def text(told: str) -> str:
    """As it is, on one line."""
    return prose(_MARKS.sub(r"\\\1", " ".join(clean(told).split())))


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 0) -> str:
    """Cells as they are told, which may have marks; the last `numbers` columns are set to the right."""
    rules = ["---"] * (len(heads) - numbers) + ["---:"] * numbers
    return "\n".join(f"| {' | '.join(line)} |" for line in (heads, rules, *rows))


def picture(title: str, svg: str) -> str:
    """Within the text, for Prefect's UI shows no other."""
    return f"![{title}](data:image/svg+xml;base64,{b64encode(svg.encode()).decode()})"
