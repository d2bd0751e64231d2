"""Tables, and whatever JSON has to say in them; long ones are cut, and say so."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any
from xml.etree.ElementTree import Element

from flows.capacity.markup import Child, el
from flows.capacity.words import count

MOST_ROWS = 1000
_DEEPEST = 6


def table(heads: Sequence[str], rows: Iterable[Sequence[Child]], about: str, marked: int | None = None) -> Element:
    """The first column names the row, the others are figures. `about` is its caption; the row `marked` stands out."""
    lines = list(islice(rows, MOST_ROWS))
    head = el("tr", (el("th", each, scope="col") for each in heads))
    body = (_row(line, "marked" if place == marked else None) for place, line in enumerate(lines))
    whole = el("table", el("caption", about), el("thead", head), el("tbody", body))
    return el("div", whole, class_="wide-table", tabindex=0, role="region", aria_label=about)


def beyond(rows: int) -> Element | None:
    """What is said under a table that was cut."""
    left = rows - MOST_ROWS
    return (
        el("p", f"{count(left, 'more row')} not shown; the plan's JSON has all of them.", class_="small")
        if left > 0
        else None
    )


def shown(value: Any, depth: int = 0) -> Element:
    """JSON for people: what has names as a list of names, a list of such as a table, the rest as it is."""
    if isinstance(value, Mapping) and value and depth < _DEEPEST:
        pairs = [
            each for name, what in value.items() for each in (el("dt", str(name)), el("dd", shown(what, depth + 1)))
        ]
        return el("dl", pairs[: 2 * MOST_ROWS], beyond(len(value)))
    if _is_list(value) and value and depth < _DEEPEST:
        if all(isinstance(each, Mapping) for each in value):
            return el("div", _records(value), beyond(len(value)))
        if not any(isinstance(each, Mapping) or _is_list(each) for each in value):
            return el("span", ", ".join(map(scalar, value[:MOST_ROWS])), beyond(len(value)))
        return el("ol", (el("li", shown(each, depth + 1)) for each in value[:MOST_ROWS]), beyond(len(value)))
    return el("span", scalar(value))


def scalar(value: Any) -> str:
    """One value, whatever it is; none is said so."""
    if value is None or value == () or value == [] or value == {}:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.6g}" if isinstance(value, float) else str(value)


def _records(records: Sequence[Mapping[str, Any]]) -> Element:
    heads = list(dict.fromkeys(str(name) for record in records[:MOST_ROWS] for name in record))
    rows = ([_cell(record.get(head)) for head in heads] for record in records)
    return table(heads, rows, count(len(records), "row"))


def _cell(value: Any) -> Child:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_cell(what)}" for name, what in value.items()) or "none"
    return ", ".join(str(_cell(each)) for each in value) or "none" if _is_list(value) else scalar(value)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _row(line: Sequence[Child], kind: str | None) -> Element:
    first, *rest = line
    return el("tr", el("th", first, scope="row"), (el("td", each) for each in rest), class_=kind)
