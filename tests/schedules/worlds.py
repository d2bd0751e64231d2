"""Nodes and models that worlds are made of, and a brain that is simple enough to know what it will do."""

from dataclasses import dataclass, field, replace

from schedules.actions import Action, Assign, Hold, Record, Start, Stop, WakeAt
from schedules.events import (
    Event,
    GroupFailed,
    GroupFormed,
    GroupLost,
    NodeLeft,
    NodeReported,
    RequestArrived,
    RequestBroke,
    RequestEnded,
    RequestLeft,
    Ticked,
)
from schedules.facts import Model, ModelKey, Node, Placement, Rate, Unit, View
from schedules.placing.decision import Decision
from schedules.placing.policies.fixed import place
from schedules.placing.sources import from_peer
from schedules.rates import STORE, formed
from tests.schedules.models import node_of, rates_of

KV_TOKENS = 1024
MB = 1_000_000


def world_model(name: str, layers: int = 4, unit_bytes: int = 10 * MB) -> Model:
    """Of units that no other model has."""
    names = ("embed", *(f"layer.{index:04d}" for index in range(layers)), "head")
    units = tuple(Unit(unit, f"{name}/{unit}", unit_bytes) for unit in names)
    return Model(name, f"{name}-digest", units, False, 1000)


def world_node(
    name: str, device_bytes: int = 400 * MB, store_bytes_per_s: float | None = None, **speeds: float
) -> Node:
    """Cards of 100 MB/s, ssds of 200, weights read at 10 GB/s; a group of one is formed in half a second, of two in 0.6."""
    node = replace(node_of(name, device_bytes), dram_bytes=500 * MB, ssd_bytes=2000 * MB, peer_port=1)
    speeds = {"nic": 100.0 * MB, "ssd": 200.0 * MB, "decode": 1e10, "prefill": 1e12} | speeds
    rates = rates_of(**speeds) | {formed(2): Rate(0.6, 0.6, 9)}
    if store_bytes_per_s is not None:
        rates[STORE] = Rate(store_bytes_per_s, store_bytes_per_s, 9)
    return replace(node, rates=rates)


def placed(model: Model, *nodes: Node, kv_tokens: int = KV_TOKENS, peer: str = "") -> Placement:
    """One stage on each of the nodes, which ask `peer` first, if there is one."""
    found = place(model, View(nodes), len(nodes), kv_tokens)
    assert isinstance(found, Placement)
    if not peer:
        return found
    asked = (from_peer(peer), STORE)
    return replace(found, stages=tuple(replace(s, sources=(asked,) * len(s.units)) for s in found.stages))


@dataclass
class SimpleBrain:
    """Starts a model on one node at its first request, gives it all of its requests, ends it `keep_alive_s` after the last,
    and starts anew what broke."""

    models: dict[ModelKey, Model]
    keep_alive_s: float = 60.0
    nodes: dict[str, Node] = field(default_factory=dict)
    groups: dict[ModelKey, str] = field(default_factory=dict)
    up: set[str] = field(default_factory=set)
    held: dict[ModelKey, list[str]] = field(default_factory=dict)
    active: dict[str, tuple[ModelKey, str]] = field(default_factory=dict)
    idle_at_s: dict[ModelKey, float] = field(default_factory=dict)
    recorded: set[str] = field(default_factory=set)
    started: int = 0

    def handle(self, event: Event, now_s: float) -> tuple[Action, ...]:
        """See the class."""
        match event:
            case NodeReported(node):
                self.nodes[node.name] = node
            case NodeLeft(name):
                self.nodes.pop(name)
            case RequestArrived(request, key):
                return self._wanted(request, key, now_s)
            case RequestEnded(request) | RequestLeft(request):
                return self._over(request, now_s)
            case RequestBroke(request):
                key, _ = self.active.pop(request)
                return self._wanted(request, key, now_s)
            case GroupFormed(group):
                key = self._key(group)
                self.up.add(group)
                return tuple(self._assign(request, key, cold=True) for request in self.held.pop(key))
            case GroupFailed(group):
                key = self._key(group)
                del self.groups[key]
                return (self._start(key, now_s),)
            case GroupLost(group):
                del self.groups[self._key(group)]
            case Ticked():
                return self._tick(now_s)
            case _:
                pass
        return ()

    def _wanted(self, request: str, key: ModelKey, now_s: float) -> tuple[Action, ...]:
        self.idle_at_s.pop(key, None)
        if self.groups.get(key) in self.up:
            return (self._assign(request, key, cold=False),)
        self.held.setdefault(key, []).append(request)
        starts = () if key in self.groups else (self._start(key, now_s),)
        return (Hold(request), *starts)

    def _over(self, request: str, now_s: float) -> tuple[Action, ...]:
        key, group = self.active.pop(request)
        if any(other == key for other, _ in self.active.values()):
            return ()
        self.idle_at_s[key] = now_s + self.keep_alive_s
        first = group not in self.recorded
        self.recorded.add(group)
        placement = Placement(key.name, (), KV_TOKENS, ())
        record = Record(group, key, placement, Decision("simple", placement, ()), 0.0, 0.0, 0.0, now_s, 0.0)
        return (*((record,) if first else ()), WakeAt(min(self.idle_at_s.values())))

    def _assign(self, request: str, key: ModelKey, *, cold: bool) -> Action:
        self.active[request] = key, self.groups[key]
        return Assign(request, self.groups[key], cold)

    def _start(self, key: ModelKey, now_s: float) -> Action:
        roomiest = max(self.nodes.values(), key=lambda node: (node.device_free_bytes, node.name))
        self.started += 1
        self.groups[key] = group = f"g{self.started}"
        return Start(group, key, placed(self.models[key], roomiest), 60.0)

    def _tick(self, now_s: float) -> tuple[Action, ...]:
        over = [key for key, at_s in self.idle_at_s.items() if at_s <= now_s]
        for key in over:
            del self.idle_at_s[key]
        stops = tuple(Stop(self.groups.pop(key)) for key in over if key in self.groups)
        wake = (WakeAt(min(self.idle_at_s.values())),) if self.idle_at_s else ()
        return (*stops, *wake)

    def _key(self, group: str) -> ModelKey:
        return next(key for key, name in self.groups.items() if name == group)
