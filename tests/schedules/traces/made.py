"""Little traces, by hand and at random."""

from collections.abc import Iterable, Sequence

import numpy as np
from hypothesis import strategies as st

from schedules.traces.formats import Reading
from schedules.traces.lengths import task
from schedules.traces.parsing import Parsed, Wanting, parse
from schedules.traces.trace import MOST_TOKENS, Provenance, Target, Trace, in_order

Request = tuple[float, str, int, int]


def trace(*requests: Request, duration_s: float | None = None, models: Sequence[str] = ()) -> Trace:
    """Requests of (seconds, model, prompt, answer), in any order; clients ask for what they get."""
    at_s = np.array([request[0] for request in requests], np.float64)
    names = tuple(models) or tuple(dict.fromkeys(request[1] for request in requests)) or ("m",)
    model = np.array([names.index(request[1]) for request in requests], np.int32)
    prompt, answer = (np.array([request[i] for request in requests], np.int32) for i in (2, 3))
    until_s = float(at_s.max(initial=0.0)) if duration_s is None else duration_s
    return in_order(at_s, (model, prompt, answer, answer), names, until_s, Provenance("by hand"))


def at(*times_s: float, model: str = "m", duration_s: float | None = None) -> Trace:
    """Requests of one model at these times."""
    return trace(*((time_s, model, 10, 5) for time_s in times_s), duration_s=duration_s)


def requests_of(given: Trace) -> list[Request]:
    """What `trace` would make it of."""
    columns = (given.at_s, given.model, given.prompt_tokens, given.answer_tokens)
    return [(s, given.models[m], p, a) for s, m, p, a in zip(*(column.tolist() for column in columns), strict=True)]


def read(
    lines: Iterable[str] | str, *, max_tokens: int = 1000, seed: int = 0, length: str = "chat", **reading: object
) -> Parsed:
    """What a file of these lines is taken for."""
    text = lines.splitlines(keepends=True) if isinstance(lines, str) else lines
    return parse(text, "a file", Reading(**reading), Wanting("m", task(length), max_tokens, seed))  # type: ignore[arg-type]


_names = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=12)
_tokens = st.integers(1, MOST_TOKENS)
_limits = st.none() | st.floats(0.001, 1e6)


@st.composite
def traces(draw: st.DrawFn, fewest: int = 0) -> Trace:
    """Any trace."""
    models = draw(st.lists(_names, min_size=1, max_size=5, unique=True))
    rows = draw(
        st.lists(
            st.tuples(st.floats(0, 9e6), st.integers(0, len(models) - 1), _tokens, _tokens, _tokens),
            min_size=fewest,
            max_size=30,
        )
    )
    at_s = np.array([row[0] for row in rows], np.float64)
    model, prompt, one, other = (np.array([row[i] for row in rows], np.int32) for i in range(1, 5))
    duration_s = float(at_s.max(initial=0.0)) + draw(st.floats(0, 1e6))
    origin = Provenance(
        draw(st.text()), tuple(draw(st.lists(st.text(), max_size=3))), draw(st.none() | st.integers(0, 99))
    )
    columns = (model, prompt, np.minimum(one, other), np.maximum(one, other))
    made = in_order(at_s, columns, models, duration_s, origin)
    if draw(st.booleans()):
        return made
    targets = draw(st.lists(st.builds(Target, _limits, _limits), min_size=len(models), max_size=len(models)))
    return made.after("aimed", targets=tuple(targets))
