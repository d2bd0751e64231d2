"""What one decision looks up about the nodes again and again, found once: O(nodes), then a short list.

A cluster of a thousand nodes is scanned once; degrees and stages are then tried on the few nodes that can be best: those
that hold units of the model, those with the most spare network, and those with the most memory.
"""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from statistics import median

from schedules.decision import Question
from schedules.estimates import Speeds, speeds_of
from schedules.facts import Node, Rate, View
from schedules.links import nic_link, out_link
from schedules.rates import NIC, STORE
from schedules.sources import choose_peers

HOLDERS, SPARE, ROOMY = 16, 12, 8
"""How many nodes are on the short list because they hold units, have network to spare, or memory."""
_TYPICAL_OF = 16


@dataclass(frozen=True)
class Site:
    """A node of the short list. `far` and `near` are sums over the model's units: `far[i]` bytes of the first i units
    are neither in its dram nor on its ssd, `near[i]` are on its ssd. `busy_s` is when its queue of fetches is empty."""

    node: Node
    free_bytes: int
    rates: Mapping[str, Rate]
    mean: Speeds | None
    far: Sequence[int]
    near: Sequence[int]
    busy_s: float

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
        self._sites: dict[int, list[Site]] = {}
        self.usable = [node for node in question.view.nodes if not node.draining]

    def free_bytes(self, node: Node) -> int:
        return node.device_bytes - node.device_reserved_bytes + self._freed.get(node.name, 0)

    @cached_property
    def holders(self) -> View:
        """The nodes that hold most of the model's units."""
        counts: dict[str, int] = {}
        for digest in self._digests:
            for name in self.question.view.holding(digest):
                counts[name] = counts.get(name, 0) + 1
        best = heapq.nsmallest(HOLDERS, counts, key=lambda name: (-counts[name], name))
        nodes = (self.question.view.node(name) for name in best)
        return View(tuple(node for node in nodes if node is not None and not node.draining))

    @cached_property
    def busy_s(self) -> Mapping[str, float]:
        """By node: seconds until the fetches that stand in its queue are done; nodes without any are absent."""
        found: dict[str, float] = {}
        forecast = self.question.links.forecast(self.question.now_s)
        for transfer in self.question.links.transfers:
            if transfer.queue is not None:
                left_s = forecast[transfer.name] - self.question.now_s
                found[transfer.queue] = max(found.get(transfer.queue, 0.0), left_s)
        return found

    @cached_property
    def typical(self) -> Mapping[str, Rate]:
        """What the measured nodes have in common, for what a node has not measured yet itself."""
        measured = [node.rates for node in self.usable if node.rates][:_TYPICAL_OF]
        names = {name for rates in measured for name in rates}
        return {name: _middle([rates[name] for rates in measured if name in rates]) for name in names}

    def shortlist(self, least_bytes: int, stages: int) -> list[Site]:
        """The nodes worth trying for up to `stages` stages of at least `least_bytes` each."""
        stages = max(stages, ROOMY)
        if stages not in self._sites:
            self._sites[stages] = [self._site(node) for node in self._short(stages)]
        return [site for site in self._sites[stages] if site.free_bytes >= least_bytes]

    def _short(self, stages: int) -> list[Node]:
        """Nodes that hold units, then those with most spare network of those that have room for anything, then memory."""
        model, tokens = self.question.model, self.question.objectives.kv_tokens
        share_bytes = (model.size_bytes + model.kv_bytes_per_token * tokens) // (2 * stages)
        busy_s, keys = self.busy_s, []
        for index, node in enumerate(self.usable):
            free = node.device_bytes - node.device_reserved_bytes
            if self._freed:
                free += self._freed.get(node.name, 0)
            if free >= share_bytes:
                nic = node.rates.get(NIC)
                keys.append((busy_s.get(node.name, 0.0), -nic.mean if nic else 0.0, -free, index))
        spare = heapq.nsmallest(SPARE + stages, keys)
        roomy = heapq.nsmallest(stages, ((free, index) for _, _, free, index in keys))
        chosen = dict.fromkeys([index for *_, index in spare] + [index for _, index in roomy])
        nodes = (*self.holders.nodes, *(self.usable[index] for index in chosen))
        return list({node.name: node for node in nodes}.values())

    def peer_of(self, target: str, digests: Sequence[str]) -> dict[str, str]:
        """Of whom `target` would ask for each unit first; units that no peer holds are absent."""
        return {digest: names[0] for digest, names in choose_peers(digests, target, self.holders).items()}

    def _site(self, node: Node) -> Site:
        mean, rates = speeds_of(node.rates, bad=False), node.rates
        if mean is None:
            rates = {**self.typical, **node.rates}
            mean = speeds_of(rates, bad=False)
        sizes = [unit.size_bytes for unit in self.question.model.units]
        tiers = [node.units.get(digest) for digest in self._digests]
        far = [size if tier is None else 0 for size, tier in zip(sizes, tiers, strict=True)]
        near = [size if tier == "ssd" else 0 for size, tier in zip(sizes, tiers, strict=True)]
        busy_s = self.busy_s.get(node.name, 0.0)
        return Site(node, self.free_bytes(node), rates, mean, (0, *accumulate(far)), (0, *accumulate(near)), busy_s)


def _nic(node: Node) -> float:
    rate = node.rates.get(NIC)
    return rate.mean if rate is not None else 0.0


def _middle(rates: Sequence[Rate]) -> Rate:
    return Rate(median(r.mean for r in rates), median(r.bad for r in rates), 0)


def link_rates(view: View) -> dict[str, float]:
    """Bytes per second of every link of a measured node, and of the object store if it was seen to limit nodes."""
    found: dict[str, float] = {}
    store: list[float] = []
    for node in view.nodes:
        nic = node.rates.get(NIC)
        if nic is not None:
            found[nic_link(node.name)] = found[out_link(node.name)] = nic.mean
        if STORE in node.rates:
            store.append(node.rates[STORE].mean)
    if store:
        found[STORE] = median(store)
    return found
