"""What one decision looks up about the nodes again and again, found once: O(nodes), then a short list.

A cluster of a thousand nodes is scanned once; degrees and stages are then tried on the few nodes that can be best: those
that hold units of the model, those with the most spare network, and those with the most memory.
"""

import heapq
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain, islice, takewhile
from operator import attrgetter
from statistics import median
from typing import Any, Generic, TypeVar

from schedules.estimates import Speeds, speeds_of, step_s
from schedules.facts import Node, Rate, View
from schedules.ledgers.links import LATER, Transfer
from schedules.placing.decision import Question
from schedules.placing.sources import choose_peers, store_first
from schedules.rates import NIC

HOLDERS, SPARE = 16, 12
"""How many nodes are on the short list because they hold units, and how many more than stages for their network."""
_TYPICAL_OF = 16
_Key = TypeVar("_Key", bound=tuple[Any, ...])


@dataclass(frozen=True)
class Site:
    """A node of the short list. `far` and `near` are sums over the model's units: `far[i]` bytes of the first i units
    are neither in its dram nor on its ssd, `near[i]` are on its ssd. `busy_s` is when its queue of fetches is empty,
    `step_s_per_byte` the time that computing the prompt takes there for each byte of weights."""

    node: Node
    free_bytes: int
    rates: Mapping[str, Rate]
    mean: Speeds | None
    far: Sequence[int]
    near: Sequence[int]
    busy_s: float
    step_s_per_byte: float

    @property
    def bad(self) -> Speeds | None:
        """Its speeds at their bad end."""
        return speeds_of(self.rates, bad=True)

    def fetch_s(self, runs: Sequence[tuple[int, int]]) -> float:
        """Seconds until units [a, b) of each of `runs` are in its memory, alone on its links; if its speeds are not known,
        bytes to fetch."""
        far = near = 0
        for first, end in runs:
            far += self.far[end] - self.far[first]
            near += self.near[end] - self.near[first]
        if self.mean is None:
            return far + 0.1 * near
        fetching_s = self.busy_s + far / self.mean.nic_bytes_per_s if far else 0.0
        return max(fetching_s, near / self.mean.ssd_bytes_per_s)

    def done_s(self, runs: Sequence[tuple[int, int]], weight_bytes: int) -> float:
        """Seconds until a stage of these units, alone on its links and first in its group, has computed the prompt."""
        return self.fetch_s(runs) + weight_bytes * self.step_s_per_byte


def runs_of(units: Sequence[int]) -> list[tuple[int, int]]:
    """Indices as ranges [first, end) that follow one another in them."""
    found: list[tuple[int, int]] = []
    for index in units:
        if found and found[-1][1] == index:
            found[-1] = (found[-1][0], index + 1)
        else:
            found.append((index, index + 1))
    return found


class Survey:
    """The nodes, as they look to one question. `freed_bytes` counts memory of a node as free that is not yet."""

    def __init__(self, question: Question, freed_bytes: Mapping[str, int] | None = None) -> None:
        self.question = question
        self._freed = freed_bytes or {}
        self._digests = [unit.digest for unit in question.model.units]
        self._sites: dict[str, Site] = {}

    @cached_property
    def usable(self) -> list[Node]:
        """The nodes that may be given stages, by name."""
        return sorted((node for node in self.question.view.nodes if not node.draining), key=attrgetter("name"))

    def free_bytes(self, node: Node) -> int:
        return node.device_bytes - node.device_reserved_bytes + self._freed.get(node.name, 0)

    @cached_property
    def holders(self) -> View:
        """The nodes that hold most of the model's units."""
        return View(tuple(self._holding[:HOLDERS]))

    @cached_property
    def busy_s(self) -> Mapping[str, float]:
        """By node: seconds until the fetches that stand in its queue before another start's are done; nodes without any
        are absent."""
        forecast, now_s = self.question.links.forecast(self.question.now_s), self.question.now_s
        first = {queue: [t for t in there if t.priority < LATER] for queue, there in self.queues.items()}
        return {queue: max(forecast[t.name] for t in there) - now_s for queue, there in first.items() if there}

    @cached_property
    def queues(self) -> Mapping[str, Sequence[Transfer]]:
        """By node: the fetches that stand in its queue; nodes without any are absent."""
        found: dict[str, list[Transfer]] = {}
        self.question.links.advance(self.question.now_s)
        for transfer in self.question.links.transfers:
            if transfer.queue is not None:
                found.setdefault(transfer.queue, []).append(transfer)
        return found

    @cached_property
    def typical(self) -> Mapping[str, Rate]:
        """What the measured nodes have in common, for what a node has not measured yet itself."""
        measured = [node.rates for node in self.usable if node.rates][:_TYPICAL_OF]
        names = {name for rates in measured for name in rates}
        return {name: _middle([rates[name] for rates in measured if name in rates]) for name in names}

    def shortlist(self, least_bytes: int, stages: int) -> list[Site]:
        """The nodes worth trying for up to `stages` stages of at least `least_bytes` each; others have too little memory.

        Holders of units, then those with most spare network, then those with most memory: since as many of these are on
        it as there are stages, whatever fits anywhere fits on the short list.
        """
        holders = [node for node in self._holding if self.free_bytes(node) >= least_bytes][:HOLDERS]
        spare = islice((i for *_, free, i in self._by_network if -free >= least_bytes), SPARE + stages)
        roomy = takewhile(
            lambda i: self.free_bytes(self.usable[i]) >= least_bytes, (i for _, i in islice(self._by_memory, stages))
        )
        nodes = [*holders, *(self.usable[index] for index in (*spare, *roomy))]
        return [self.site(node) for node in {node.name: node for node in nodes}.values()]

    def site(self, node: Node) -> Site:
        """The node as a place for the model's units."""
        if node.name not in self._sites:
            self._sites[node.name] = self._site(node)
        return self._sites[node.name]

    def could_hold(self, degree: int) -> bool:
        """False if the nodes cannot hold the model in `degree` stages, whatever is tried; without looking at how."""
        model, tokens = self.question.model, self.question.objectives.kv_tokens
        layer_bytes = min(unit.size_bytes for unit in model.units[1:-1])
        layer_bytes += model.kv_bytes_per_token * tokens // model.layers
        free = [max(0, -free) for free, _ in islice(self._by_memory, degree)]
        layers = sum(size // layer_bytes for size in free) if layer_bytes else model.layers
        return layers >= model.layers and sum(free) >= model.size_bytes + model.kv_bytes_per_token * tokens

    @cached_property
    def _counts(self) -> Mapping[str, int]:
        """How many of the model's units each node holds; nodes that hold none are absent."""
        return Counter(chain.from_iterable(map(self.question.view.holding, self._digests)))

    @cached_property
    def _holding(self) -> list[Node]:
        """All nodes that may be used and hold units of the model: most units first, and of as many those in dram."""
        counts = self._counts
        found = (self.question.view.node(name) for name in counts)
        nodes = [node for node in found if node is not None and not node.draining]
        if len(nodes) <= HOLDERS:
            return sorted(nodes, key=attrgetter("name"))
        in_dram = {node.name: sum(node.units.get(digest) == "dram" for digest in self._digests) for node in nodes}
        return sorted(nodes, key=lambda node: (-counts[node.name], -in_dram[node.name], node.name))

    @cached_property
    def _by_network(self) -> "_Sorted[tuple[float, float, int, int]]":
        """(busy seconds, -bytes per second, -free bytes, index) of the usable nodes."""
        busy_s = self.busy_s
        return _Sorted([
            (busy_s.get(node.name, 0.0), -nic.mean if (nic := node.rates.get(NIC)) else 0.0, -free, index)
            for index, (node, free) in enumerate(zip(self.usable, self._free, strict=True))
        ])  # fmt: skip

    @cached_property
    def _by_memory(self) -> "_Sorted[tuple[int, int]]":
        """(-free bytes, index) of the usable nodes."""
        return _Sorted([(-free, index) for index, free in enumerate(self._free)])

    @cached_property
    def _free(self) -> list[int]:
        """Free bytes of the usable nodes."""
        if self._freed:
            return [self.free_bytes(node) for node in self.usable]
        return [node.device_bytes - node.device_reserved_bytes for node in self.usable]

    def peer_of(self, target: str, digests: Sequence[str]) -> dict[str, str]:
        """Of whom `target` would ask for each unit first; units that the store is asked for first are absent."""
        others = set(store_first(digests, target, self.holders))
        chosen = choose_peers(digests, target, self.holders)
        return {digest: names[0] for digest, names in chosen.items() if digest not in others}

    def _site(self, node: Node) -> Site:
        mean, rates = speeds_of(node.rates, bad=False), node.rates
        if mean is None:
            rates = {**self.typical, **node.rates}
            mean = speeds_of(rates, bad=False)
        step_s_per_byte = step_s(1, self.question.prompt_tokens, mean) if mean is not None else 0.0
        far, near = self._bare
        if node.name in self._counts:
            sizes, held = [unit.size_bytes for unit in self.question.model.units], node.units
            tiers = [held.get(digest) for digest in self._digests]
            far = (0, *accumulate(0 if tier else size for size, tier in zip(sizes, tiers, strict=True)))
            near = (0, *accumulate(size if tier == "ssd" else 0 for size, tier in zip(sizes, tiers, strict=True)))
        busy_s = self.busy_s.get(node.name, 0.0)
        return Site(node, self.free_bytes(node), rates, mean, far, near, busy_s, step_s_per_byte)

    @cached_property
    def _bare(self) -> tuple[Sequence[int], Sequence[int]]:
        """`far` and `near` of a node that holds nothing of the model."""
        sizes = [unit.size_bytes for unit in self.question.model.units]
        return (0, *accumulate(sizes)), [0] * (len(sizes) + 1)


class _Sorted(Generic[_Key]):
    """A list that is sorted as far as it is read, and no further."""

    def __init__(self, keys: list[_Key]) -> None:
        heapq.heapify(keys)
        self._rest, self._found = keys, list[_Key]()

    def __iter__(self) -> Iterator[_Key]:
        yield from self._found
        while self._rest:
            self._found.append(heapq.heappop(self._rest))
            yield self._found[-1]


def _middle(rates: Sequence[Rate]) -> Rate:
    return Rate(median(r.mean for r in rates), median(r.bad for r in rates), 0)
