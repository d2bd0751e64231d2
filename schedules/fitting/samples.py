"""What a history says of how fast things are: samples of rates and durations, each with the time that it is from."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from statistics import median
from typing import NamedTuple

from schedules.estimates import Speeds, token_s
from schedules.facts import Model
from schedules.fitting.seen import Began, Fetch, Happened, matched
from schedules.rates import DECODE, NIC, PREFILL, PREFILL_TOKENS, SSD, formed

SMALLEST_BYTES = 1 << 20
"""What moved less in one go tells of latencies, and not of how fast the wire is."""
FEWEST_TOKENS = 8
"""After the first, for a time per token to be one."""
LARGER, LATEST = 1.5, 200
"""So many times as large a model tells, beside the other, what a step takes by its weights; of so many samples."""
_LINKS = {"remote": NIC, "peer": NIC, "ssd": SSD}


class Sample(NamedTuple):
    """A value, and when it was seen, in unix seconds."""

    at_s: float
    value: float


class Of(NamedTuple):
    """Whose samples they are: of which quantity of which node, "" for all."""

    node: str
    name: str


@dataclass
class _Go:
    """Fetches of a node from one kind of source that overlap."""

    begun_s: float
    ended_s: float
    size_bytes: int


def samples(
    happened: Happened, models: Mapping[str, Model], machines: Mapping[str, str], step_s: float = 0.0
) -> dict[Of, list[Sample]]:
    """By node and quantity, oldest first: links, forming by degree, steps of one token and of whole prompts. `machines` are
    the nodes' own, whose ssds those of one share. A step takes `step_s` beside its weights."""
    found = dict[Of, list[Sample]]()
    for of, sample in (
        *_links(happened.starts, machines), *_forming(happened.starts), *_steps(happened, models, step_s),
    ):  # fmt: skip
        found.setdefault(of, []).append(sample)
    return {of: sorted(each) for of, each in found.items()}


def steps(happened: Happened, models: Mapping[str, Model]) -> list[Sample]:
    """What a step of one stage takes beside its weights: where the line through the times of models of several sizes
    begins."""
    paces = [(start, tpot_s) for start, tpot_s in _paces(happened) if start.degree == 1]
    slope = _slope([(models[start.model].size_bytes, tpot_s) for start, tpot_s in paces])
    if slope is None:
        return []
    return sorted(Sample(start.arrived_s, tpot_s - slope * models[start.model].size_bytes) for start, tpot_s in paces)


def hops(
    happened: Happened, models: Mapping[str, Model], speeds: Mapping[str, Speeds], step_s: float = 0.0
) -> list[Sample]:
    """What a token of a pipeline took beyond its stages' steps, by hop; stages of equal bytes are assumed."""
    found = list[Sample]()
    for start, tpot_s in _paces(happened):
        if start.degree > 1 and all(node in speeds for node in start.nodes):
            weight_bytes = models[start.model].size_bytes // start.degree
            steps_s = token_s([(weight_bytes, speeds[node]) for node in start.nodes], 0.0) + step_s
            found.append(Sample(start.arrived_s, max(0.0, (tpot_s - steps_s) / start.degree)))
    return sorted(found)


def held_at_first(happened: Happened, models: Mapping[str, Model]) -> dict[str, dict[str, str]]:
    """Of each node the units, by digest, that it had when they were first asked of it there, and in which tier."""
    first = dict[tuple[str, str], str]()
    for start in happened.starts:
        digests = {unit.name: unit.digest for unit in models[start.model].units}
        for fetch in start.fetches:
            if fetch.unit in digests:
                first.setdefault((fetch.node, digests[fetch.unit]), fetch.source)
    found = dict[str, dict[str, str]]()
    for (node, digest), source in first.items():
        if source in ("ssd", "dram"):
            found.setdefault(node, {})[digest] = source
    return found


def _links(starts: Iterable[Began], machines: Mapping[str, str]) -> Iterator[tuple[Of, Sample]]:
    """Of all starts together: two that share a card or an ssd at one time get what it gives in all."""
    by_link = dict[Of, list[Fetch]]()
    for fetch in (fetch for start in starts for fetch in start.fetches):
        name = _LINKS.get(fetch.source)
        if name is not None and fetch.size_bytes:
            shared = machines.get(fetch.node, fetch.node) if name == SSD else fetch.node
            by_link.setdefault(Of(shared, name), []).append(fetch)
    for (_, name), fetches in by_link.items():
        nodes = sorted({fetch.node for fetch in fetches})
        for go in _goes(fetches):
            if go.size_bytes >= SMALLEST_BYTES and go.ended_s > go.begun_s:
                for node in nodes:
                    yield Of(node, name), Sample(go.begun_s, go.size_bytes / (go.ended_s - go.begun_s))


def _goes(fetches: Iterable[Fetch]) -> Iterator[_Go]:
    go: _Go | None = None
    for fetch in sorted(fetches, key=lambda fetch: fetch.begun_s):
        if go is not None and fetch.begun_s <= go.ended_s:
            go.ended_s = max(go.ended_s, fetch.ended_s)
            go.size_bytes += fetch.size_bytes
            continue
        if go is not None:
            yield go
        go = _Go(fetch.begun_s, fetch.ended_s, fetch.size_bytes)
    if go is not None:
        yield go


def _forming(starts: Iterable[Began]) -> Iterator[tuple[Of, Sample]]:
    """From the order on, as long as it took with all else that the nodes did then."""
    for start in starts:
        if start.formed_s is not None and start.one_clock and start.formed_s > start.ordered_s:
            for node in start.nodes:
                yield Of(node, formed(start.degree)), Sample(start.arrived_s, start.formed_s - start.ordered_s)


def _steps(happened: Happened, models: Mapping[str, Model], step_s: float) -> Iterator[tuple[Of, Sample]]:
    """Prefills of starts from dram or ssd alone: others compute beside what still comes, for seconds."""
    for start, tpot_s in _paces(happened):
        if start.degree == 1 and tpot_s > step_s:
            yield (
                Of(start.nodes[0], DECODE),
                Sample(start.arrived_s, models[start.model].size_bytes / (tpot_s - step_s)),
            )
    places = matched(happened.starts, happened.asked)
    for place, start in enumerate(happened.starts):
        tokens = happened.asked[places[place]].prompt_tokens if place in places else 0
        if tokens >= PREFILL_TOKENS and start.is_local:
            weight_bytes = models[start.model].size_bytes // start.degree
            for step in start.steps:
                if step.computed_s > 0.0:
                    yield Of(step.node, PREFILL), Sample(start.arrived_s, weight_bytes * tokens / step.computed_s)


def _slope(points: Sequence[tuple[float, float]]) -> float | None:
    """Of the line through the latest points, the median of those of all pairs that are well apart (Theil and Sen); None
    without such a pair, or if it does not rise."""
    slopes = [
        (y - other_y) / (x - other_x)
        for (x, y), (other_x, other_y) in permutations(points[-LATEST:], 2)
        if x >= LARGER * other_x
    ]
    slope = median(slopes) if slopes else 0.0
    return slope if slope > 0.0 else None


def _paces(happened: Happened) -> Iterator[tuple[Began, float]]:
    """Starts whose first request was generated long enough, and its seconds per token; the median step of a batch reads the
    weights once for all who are in it."""
    for place, of in matched(happened.starts, happened.asked).items():
        asked = happened.asked[of]
        if asked.ttft_s is not None and asked.last_s is not None and asked.answer_tokens > FEWEST_TOKENS:
            yield happened.starts[place], (asked.last_s - asked.ttft_s) / (asked.answer_tokens - 1)
