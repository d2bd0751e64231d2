"""What one decision looks up about the nodes again and again, found once: a short list.

Degrees and stages are tried on the few nodes that can be best: those that hold units of the model, those with the most
spare network, and those with the most memory. A view that is kept (schedules.ledgers.nodes) has all of them in order, so a
thousand nodes cost no more than twenty.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from heapq import merge
from itertools import accumulate, islice
from operator import attrgetter, itemgetter
from statistics import median
from typing import Any, NamedTuple

from schedules.estimates import Speeds, speeds_of, step_s
from schedules.facts import Node, Rate
from schedules.ledgers.links import out_link
from schedules.ledgers.nodes import ranks_of
from schedules.ledgers.shares import Transfer
from schedules.placing.decision import Question
from schedules.placing.holders import Holders, holders_of
from schedules.placing.partition import Part, parts_of
from schedules.placing.sources import Sources
from schedules.placing.workspace import NO_WORKSPACE
from schedules.rates import NIC

HOLDERS, SPARE, MOST_SPREAD = 16, 12, 4
"""How many nodes are on the short list because they hold units, and how many more than stages for their network; and
how many stages are tried on other nodes than those that are done soonest."""
_TYPICAL_OF, _AT_ONCE = 16, 48
_OF_ALL = ("sources", "given", "busy_s", "queues", "typical", "whole_bytes", "_parts", "_holders", "_bare")
"""What is the same however much memory is free."""
_NetworkKey = tuple[float, float, int, str]


class Site(NamedTuple):
    """A node of the short list, with its speeds in the mean and at their bad end, and the bytes that one more stage can have
    there. `far` and `near` are sums over the model's
    units: `far[i]` bytes of the first i units are neither in its dram nor on its ssd, `near[i]` are on its ssd. `busy_s` is
    when its queue of fetches is empty, `step_s_per_byte` the time that computing the prompt takes there for each byte of
    weights; `bare` is one that holds nothing of the model."""

    node: Node
    free_bytes: int
    mean: Speeds | None
    bad: Speeds | None
    far: Sequence[int]
    near: Sequence[int]
    busy_s: float
    step_s_per_byte: float
    bare: bool

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

    def whole_s(self, size_bytes: int) -> float:
        """Seconds until a model of so many bytes is loaded whole: by the network what is not here, else all of it from the
        slower of the tiers that have it; if its speeds are not known, bytes to fetch."""
        if self.mean is None:
            return self.far[-1] + 0.1 * self.near[-1]
        if self.far[-1]:
            return self.busy_s + self.far[-1] / self.mean.nic_bytes_per_s
        if self.near[-1]:
            return self.busy_s + size_bytes / self.mean.ssd_bytes_per_s
        return size_bytes / self.mean.bus_bytes_per_s

    def done_s(self, runs: Sequence[tuple[int, int]], weight_bytes: int, sharing: int = 1, fetching: int = 1) -> float:
        """Seconds until a stage of these units, alone on its links and first in its group, has computed the prompt; `sharing`
        stages of the group, with this one, have the node's GPU, and `fetching` its card."""
        steps_s = weight_bytes * self.step_s_per_byte
        if self.mean is None:
            return self.fetch_s(runs) + steps_s
        here_s = self.busy_s + weight_bytes / self.mean.nic_bytes_per_s if self.bare else self.fetch_s(runs)
        here_s *= fetching
        copied_s = sharing * weight_bytes / self.mean.bus_bytes_per_s
        return (here_s if here_s > copied_s else copied_s) + steps_s


class Survey:
    """The nodes, as they look to one question. `freed_bytes` counts memory of a node as free that is not yet."""

    def __init__(self, question: Question, freed_bytes: Mapping[str, int] | None = None) -> None:
        self.question = question
        self._freed = freed_bytes or {}
        self._memory = question.memory
        self._ranks = ranks_of(question.view)
        model = question.model
        self.names, self.digests = [unit.name for unit in model.units], model.digests
        self.sizes, self.size_bytes = model.sizes, model.size_bytes
        self.ways: dict[tuple[int, int], Any] = {}
        """What schedules.placing.candidates found of whence parts come."""
        self._sites: dict[str, Site] = {}
        self._parts: dict[int, tuple[Part, ...]] = {}
        self._lists: dict[tuple[int, int], list[Site]] = {}
        self._elsewhere: dict[str, Site] = {}
        self._roomy, self._roomy_keys = list[tuple[int, str]](), list[_NetworkKey]()

    def freed(self, freed_bytes: Mapping[str, int]) -> "Survey":
        """The same, but for such memory of nodes being free that is not yet."""
        other = Survey(self.question, freed_bytes)
        other.__dict__ |= {name: self.__dict__[name] for name in _OF_ALL if name in self.__dict__}
        other._elsewhere, other.ways = self._sites, self.ways
        return other

    @property
    def usable(self) -> int:
        """How many nodes may be given stages."""
        return len(self._ranks.by_memory)

    def usable_free_bytes(self, names: Iterable[str] | None) -> dict[str, int]:
        """Free bytes of those of the named nodes that may be given stages, a stage's context not taken off them; of all nodes
        if none are named, which takes long."""
        by_name = self._ranks.by_name
        among = [name for _, name in self._ranks.by_memory] if names is None else names
        nodes = [node for name in among if (node := by_name.get(name)) is not None and not node.draining]
        return {node.name: self._free_bytes(node) for node in nodes}

    def stage_free_bytes(self, node: Node) -> int:
        """What one more stage can have there for itself, beside its process's context."""
        return self._free_bytes(node) - node.context_bytes

    def _free_bytes(self, node: Node) -> int:
        return self._memory.free_bytes(node) + (self._freed.get(node.name, 0) if self._freed else 0)

    @property
    def store_limits(self) -> bool:
        """Whether the store was seen to limit all nodes together."""
        return self._ranks.store_bytes_per_s is not None

    @cached_property
    def sources(self) -> Sources:
        """Whence nodes ask for the model's units."""
        return Sources(self.digests, self.question.view)

    def card(self, name: str) -> str:
        """The network card of a node, which may have gone since."""
        node = self._ranks.by_name.get(name)
        return name if node is None else node.card

    @cached_property
    def given(self) -> tuple[int, float]:
        """How many bytes of the model come from other nodes wherever it starts, but for what is there already, and how many
        a second the cards of those nodes give."""
        if self.store_limits:
            return 0, 1.0
        givers = self._holders.first
        giving = {self.card(name) for name in set[str]().union(*givers)}
        cards = [self.question.links.rate(out_link(card)) or float("inf") for card in giving]
        return sum([size for size, names in zip(self.sizes, givers, strict=True) if names]), sum(cards) or 1.0

    @cached_property
    def busy_s(self) -> Mapping[str, float]:
        """By node: seconds until the fetches that stand in its queue before another start's are done; nodes without any
        are absent."""
        now_s = self.question.now_s
        return {queue: end_s - now_s for queue, end_s in self.question.links.queues_end(now_s).items() if end_s > now_s}

    @cached_property
    def queues(self) -> Mapping[str, Sequence[Transfer]]:
        """By node: the fetches that stand in its queue; nodes without any are absent."""
        return self.question.links.queues(self.question.now_s)

    @cached_property
    def typical(self) -> Mapping[str, Rate]:
        """What the measured nodes have in common, for what a node has not measured yet itself."""
        by_name = sorted(self.question.view.nodes, key=attrgetter("name"))
        measured = list(islice((n.rates for n in by_name if n.rates and not n.draining), _TYPICAL_OF))
        names = {name for rates in measured for name in rates}
        return {name: _middle([rates[name] for rates in measured if name in rates]) for name in names}

    def roomiest(self, nodes: int) -> list[int]:
        """What one more stage can have on so many nodes, or all there are, that have most of it."""
        return [-free for free, _ in self._most_memory(nodes)[:nodes]]

    @cached_property
    def pool(self) -> list[Site]:
        """The nodes worth trying for up to MOST_SPREAD stages."""
        return self.shortlist(-(-self.whole_bytes // MOST_SPREAD), MOST_SPREAD)

    @cached_property
    def sparing(self) -> list[Site]:
        """Those of the pool whose cards have something to spare, most first."""
        found = [(-spare, site.node.name, site) for site in self.pool if (spare := self.spare_bytes_per_s(site)) > 0]
        return [site for *_, site in sorted(found, key=lambda one: one[:2])]

    def spare_bytes_per_s(self, site: Site) -> float:
        """What the node's card has for one more fetch if all share it equally; 0 if a fetch on it would be late then."""
        if site.mean is None:
            return 0.0
        there, now_s = self.on_card(site.node), self.question.now_s
        if not there:
            return site.mean.nic_bytes_per_s
        share = site.mean.nic_bytes_per_s / (len(there) + 1)
        late = any(
            t.deadline_s is not None and t.remaining_bytes > max(0.0, t.deadline_s - now_s) * share for t in there
        )
        return 0.0 if late else share

    def on_card(self, node: Node) -> Sequence[Transfer]:
        """The fetches that stand in queues before the node's card."""
        if not node.box:
            return self.question.links.queue(node.name, self.question.now_s)
        return [transfer for name, there in self.queues.items() if self.card(name) == node.box for transfer in there]

    def shortlist(self, least_bytes: int, stages: int) -> list[Site]:
        """The nodes worth trying for up to `stages` stages of at least `least_bytes` each; others have too little memory.

        Holders of units, then those with most spare network, then those with most memory: since as many of these are on
        it as there are stages, whatever fits anywhere fits on the short list.
        """
        known = self._lists.get((least_bytes, stages))
        if known is not None:
            return known
        holders = [name for name, free in self._holders_free if free >= least_bytes][:HOLDERS]
        spare = self._sparest(least_bytes, SPARE + stages)
        roomy = [name for free, name in self._most_memory(stages)[:stages] if -free >= least_bytes]
        by_name, sites = self._ranks.by_name, self._sites
        found = [
            sites[name] if name in sites else self.site(by_name[name])
            for name in dict.fromkeys([*holders, *spare, *roomy])
        ]
        self._lists[least_bytes, stages] = found
        return found

    def _sparest(self, least_bytes: int, most: int) -> list[str]:
        """The nodes with most spare network of those with so much memory. Where these are few they are looked for by their
        memory, for they would be far between by their network."""
        at_most = bisect_right(self._ranks.by_memory, -least_bytes, key=itemgetter(0)) + len(self._freed)
        if at_most * at_most <= most * self.usable:
            ranked = self._most_memory(at_most)
            few = bisect_right(ranked, -least_bytes, key=itemgetter(0))
            for free, name in ranked[len(self._roomy_keys) : few]:
                self._roomy_keys.append(self._network_key(name, free))
            return [name for *_, name in sorted(self._roomy_keys[:few])[:most]]
        return self._by_network.roomy(least_bytes, most)

    def _most_memory(self, nodes: int) -> list[tuple[int, str]]:
        """(-free bytes, name) of at least so many usable nodes, or all there are, that have most of it, in order."""
        ranked, odd = self._ranks.by_memory, self._other_free
        nodes = min(nodes, len(ranked))
        if len(self._roomy) < nodes:
            nodes = max(nodes, 2 * len(self._roomy), _AT_ONCE)
            first = [each for each in ranked[: nodes + len(odd)] if each[1] not in odd]
            self._roomy = sorted([*first, *[(-free, name) for name, free in odd.items()]])[:nodes]
        return self._roomy

    def parts(self, degree: int) -> tuple[Part, ...]:
        """What each of so many stages would run."""
        found = self._parts.get(degree)
        if found is None:
            model, tokens = self.question.model, self.question.objectives.kv_tokens
            found = self._parts[degree] = parts_of(model, degree, tokens, gpus=self._ranks.gpus)
        return found

    def site(self, node: Node) -> Site:
        """The node as a place for the model's units."""
        found = self._sites.get(node.name)
        if found is None:
            found = self._sites[node.name] = self._site(node)
        return found

    def could_hold(self, degree: int) -> bool:
        """False if the nodes cannot hold the model in `degree` stages, whatever is tried; without looking at how."""
        model, tokens = self.question.model, self.question.objectives.kv_tokens
        layer_bytes = min(self.sizes[1:-1]) + model.kv_bytes_per_token * tokens // model.layers
        free = [max(0, free) for free in self.roomiest(degree)]
        layers = sum(size // layer_bytes for size in free) if layer_bytes else model.layers
        return layers >= model.layers and sum(free) >= self.whole_bytes

    def least_bytes(self, degree: int) -> int:
        """What so many stages reserve in all wherever they run, without their processes' contexts."""
        if self._ranks.all_gpus:
            return sum([part.reserve_bytes for part in self.parts(degree)])
        return sum([part.weight_bytes + part.kv_bytes for part in self.parts(degree)])

    @cached_property
    def whole_bytes(self) -> int:
        """What one stage reserves that runs all of the model, without its process's context."""
        kv_bytes = self.question.model.kv_bytes_per_token * self.question.objectives.kv_tokens
        workspace = self.parts(1)[0].workspace if self._ranks.gpus else NO_WORKSPACE
        return self.size_bytes + kv_bytes + workspace.inside_bytes + workspace.outside_bytes

    @cached_property
    def _holders(self) -> Holders:
        return holders_of(self.digests, self.question.view)

    @cached_property
    def _holders_free(self) -> list[tuple[str, int]]:
        """Free bytes of the nodes that hold units, most units first."""
        by_name = self._ranks.by_name
        return [(name, self.stage_free_bytes(by_name[name])) for name in self._holders.names]

    @cached_property
    def _other_free(self) -> Mapping[str, int]:
        """Free bytes of the usable nodes of which other bytes are free than they report."""
        names, by_name = self._freed.keys() | self._memory.by_node().keys(), self._ranks.by_name
        found = [node for name in names if (node := by_name.get(name)) is not None and not node.draining]
        promised, freed = self._memory.by_node(), self._freed  # as `stage_free_bytes` has it, of perhaps all nodes
        return {
            node.name: node.device_bytes - node.device_reserved_bytes - promised.get(node.name, 0)
            + freed.get(node.name, 0) - node.context_bytes
            for node in found
        }  # fmt: skip

    @cached_property
    def _by_network(self) -> "_Lazily":
        """(busy seconds, -bytes per second, -free bytes, name) of the usable nodes, in order: as the view has them ranked
        but for those that are busy, or have other memory free."""
        return _Lazily(self._rank_by_network())

    def _rank_by_network(self) -> Iterator[tuple[float, float, int, str]]:
        busy, others, by_name = self.busy_s, self._other_free, self._ranks.by_name
        odd = sorted([self._network_key(name, -free) for name, free in others.items() if name not in busy])
        alike = (
            (0.0, speed, free, name)
            for speed, free, name in self._ranks.by_network
            if name not in busy and name not in others
        )
        yield from merge(alike, odd)
        usable = (name for name in busy if (node := by_name.get(name)) is not None and not node.draining)
        yield from sorted([self._network_key(name, -self.stage_free_bytes(by_name[name])) for name in usable])

    def _network_key(self, name: str, free: int) -> tuple[float, float, int, str]:
        nic = self._ranks.by_name[name].rates.get(NIC)
        return self.busy_s.get(name, 0.0), -nic.mean if nic is not None else 0.0, free, name

    def _site(self, node: Node) -> Site:
        known = self._elsewhere.get(node.name)
        if known is not None:
            return Site(node, self.stage_free_bytes(node), *known[2:])
        mean, bad = self._ranks.speeds.of(node.name, node.rates)
        if mean is None:
            rates = {**self.typical, **node.rates}
            mean, bad = speeds_of(rates, bad=False), speeds_of(rates, bad=True)
        step_s_per_byte = step_s(1, self.question.prompt_tokens, mean) if mean is not None else 0.0
        far, near = self._bare
        bare = node.name not in self._holders.among
        if not bare:
            far, near = self._holders.far_and_near(node, self.sizes)
        busy_s = self.busy_s.get(node.name, 0.0)
        return Site(node, self.stage_free_bytes(node), mean, bad, far, near, busy_s, step_s_per_byte, bare)

    @cached_property
    def _bare(self) -> tuple[Sequence[int], Sequence[int]]:
        """`far` and `near` of a node that holds nothing of the model."""
        return (0, *accumulate(self.sizes)), [0] * (len(self.sizes) + 1)


class _Lazily:
    """Nodes in an order, which can be read again and again, and are found as far as they are read."""

    def __init__(self, source: Iterator[_NetworkKey]) -> None:
        self._source, self._found = source, list[_NetworkKey]()

    def roomy(self, least_bytes: int, most: int) -> list[str]:
        """The first of them, up to `most`, that have so much memory."""
        names = [name for _, _, free, name in self._found if -free >= least_bytes][:most]
        while len(names) < most:
            one = next(self._source, None)
            if one is None:
                break
            self._found.append(one)
            if -one[2] >= least_bytes:
                names.append(one[3])
        return names


def _middle(rates: Sequence[Rate]) -> Rate:
    return Rate(median(r.mean for r in rates), median(r.bad for r in rates), 0)
