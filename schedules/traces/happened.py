"""A trace of what was really asked: requests as a front end kept them."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import NamedTuple

import numpy as np

from schedules.traces.errors import BadTrace
from schedules.traces.trace import Provenance, Trace, in_order


class Asked(NamedTuple):
    """A request as it was: when it came, in unix seconds, its tokens, and how long after that it had its first and its last
    one; `cold` if the first waited for a replica to start. None is not known, or never. Of one that was `refused` nothing was
    begun."""

    model: str
    at_s: float
    prompt_tokens: int
    max_tokens: int
    answer_tokens: int
    refused: bool = False
    ttft_s: float | None = None
    last_s: float | None = None
    cold: bool | None = None


def trace_of(asked: Sequence[Asked], since_s: float, until_s: float, source: str) -> Trace:
    """Those that came from `since_s` to before `until_s` (unix seconds), by time; its seconds begin at `since_s`. What was
    asked with several prompts or choices is one request with all of their tokens. Who was refused is given what the others of
    its model got in the median. BadTrace if there are none."""
    kept = sorted((each for each in asked if since_s <= each.at_s < until_s), key=lambda each: each.at_s)
    if not kept:
        raise BadTrace(f"no request came in those {until_s - since_s:,.0f} s")
    names = sorted({each.model for each in kept})
    places, usual = {name: place for place, name in enumerate(names)}, _usual_answers(kept)
    prompt = [max(1, each.prompt_tokens) for each in kept]
    answer = [max(1, usual[each.model] if each.refused else each.answer_tokens) for each in kept]
    most = [max(given, each.max_tokens) for given, each in zip(answer, kept, strict=True)]
    columns = [np.array(column, np.int32) for column in ([places[each.model] for each in kept], prompt, answer, most)]
    at_s = np.array([each.at_s - since_s for each in kept])
    return in_order(at_s, columns, names, until_s - since_s, Provenance(source))


def _usual_answers(asked: Sequence[Asked]) -> Mapping[str, int]:
    """Tokens of an answer, by model; of one that was only ever refused, all that it was asked for."""
    given, wanted = dict[str, list[int]](), dict[str, list[int]]()
    for each in asked:
        wanted.setdefault(each.model, []).append(each.max_tokens)
        if not each.refused:
            given.setdefault(each.model, []).append(each.answer_tokens)
    return {model: int(median(given.get(model, wanted[model]))) for model in wanted}
