"""A cluster as it would behave, under virtual time: it is given orders and misfortunes at a time, and tells events.

It does what nodes, wires and stages do, as `estimates` and `ledgers.links` have it and at the speeds that nodes report, and
decides nothing. It holds no clock and no chance: the same orders at the same times are followed by the same events. What
the simulator runs against, and what is behind the cluster in memory (`cluster.fake`).

Left out: a unit's bytes count when all that come with it are there; a start computes when all it waits for is there, or all
but a stage's last unit if it goes on by layer, and has gone over its own bus, of which stages on one GPU take nothing from
each other. What comes behind others makes way on wires alone. Who follows has its room at once or not at all, gets KV cache
whole or not at all, and takes in what it lacks in one step. Steps alone use cores: what fetching, forming and answering take
of them is nobody's.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from schedules.events import NodeReported, RequestProgressed, SchedulerJoined
from schedules.facts import Model, ModelKey, Node, Placement, Rate, Unit, View
from schedules.foresight.plan import Staging
from schedules.foresight.retention import Retention
from schedules.ledgers.nodes import link_rates
from schedules.placing.decision import IN_DRAM, NETWORK, ON_SSD
from schedules.rates import SSD
from schedules.systems.system import Keeps, Startup
from schedules.world.agenda import Agenda
from schedules.world.forming import Forming
from schedules.world.groups import Ask, WorldGroup
from schedules.world.habits import Habits, Misfortune, Times
from schedules.world.happenings import Happening, Told
from schedules.world.loads import Loads
from schedules.world.misfortunes import Misfortunes
from schedules.world.nodes import Tiers, WorldNode
from schedules.world.reporting import Reporting
from schedules.world.stagings import Stagings
from schedules.world.steps import Steps
from schedules.world.usage import ByMinute, Usage

_WHENCE = {"remote": NETWORK, "peer": NETWORK, "ssd": ON_SSD, "dram": IN_DRAM}


class World:
    """`next_s` is when something happens next, and `happen` lets it. Orders and misfortunes come with the time that it is,
    which is never before what has happened. `truly` are the rates of nodes that are not as fast as they report.

    If it is `terse` the same happens as otherwise, but a long run is far faster: of a stream its first and last tokens are
    told, and what it had when something becomes of it; of nodes what has changed, and now and then, in one word for all, that
    they are there.
    """

    def __init__(
        self,
        nodes: Iterable[Node],
        models: Iterable[Model] = (),
        habits: Habits | None = None,
        now_s: float = 0.0,
        startups: Mapping[str, Startup] | None = None,
        keeps: Keeps | None = None,
        count_from_s: float | None = None,
        truly: Mapping[str, Mapping[str, Rate]] | None = None,
        *,
        terse: bool = False,
    ) -> None:
        self.habits = habits or Habits()
        self._models: dict[ModelKey, Model] = {}
        for model in models:
            self.know(model)
        sizes = {unit.digest: unit.size_bytes for model in self._models.values() for unit in model.units}
        facts = sorted(nodes, key=lambda node: node.name)
        keeps = keeps or Keeps()
        tiers = {each.card: Tiers(each.dram_bytes, each.ssd_bytes, keeps) for each in facts}
        rates_of = {each.name: (truly or {}).get(each.name, each.rates) for each in facts}
        self._nodes = {
            each.name: WorldNode(each, sizes, keeps, tiers[each.card], rates_of[each.name], terse=terse)
            for each in facts
        }
        self._groups: dict[str, WorldGroup] = {}
        self._agenda: Agenda[Happening] = Agenda(now_s)
        disks = {node.ssd_link: rates_of[name][SSD].mean for name, node in self._nodes.items()}
        rates = link_rates(View(tuple(replace(node, rates=rates_of[node.name]) for node in facts))) | disks
        self._usage = Usage(now_s if count_from_s is None else count_from_s)
        self._loads = Loads(rates, self._nodes, self._agenda, self._arrived, self._usage, now_s)
        self._stagings = Stagings(self._models, self._nodes, self._loads, self._agenda)
        self._steps = Steps(self._groups, self._loads, self._agenda, self._answered, self.habits)
        self._reporting = Reporting(self._nodes, self._agenda, self._usage, self.habits, terse=terse)
        self._forming = Forming(
            self._groups, self._models, self._nodes, startups or {}, self._loads, self._steps, self._agenda,
            self._reporting, self._released, self.habits, terse=terse,
        )  # fmt: skip
        self._misfortunes = Misfortunes(
            self._groups, self._nodes, self._forming, self._loads, self._stagings, self._steps, self._agenda,
            self._reporting, self.habits,
        )  # fmt: skip
        self._agenda.tell(now_s, lambda _: (SchedulerJoined(),))
        self._reporting.begin(now_s)

    # ---- what is seen from outside

    @property
    def next_s(self) -> float:
        """When something happens next; infinite if nothing will."""
        return self._agenda.next_s

    def happen(self) -> tuple[float, Sequence[Told]]:
        """The next thing happens: when that is, and what is told of it, if anything. IndexError if nothing will."""
        now_s, happening = self._agenda.pop()
        return now_s, happening(now_s)

    def know(self, model: Model) -> None:
        """It can be ordered from now on."""
        self._models[model.key] = model

    def times(self, group: str) -> Times | None:
        """Of the group's start; None if it is not there any more."""
        there = self._groups.get(group)
        if there is None:
            return None
        return Times(there.ordered_s, there.formed_s, there.fetched_s, _WHENCE[there.found], there.found)

    def reports(self) -> list[NodeReported]:
        """Of all nodes that answer, asked now."""
        return [node.report() for node in self._nodes.values() if node.answers]

    def view(self) -> View:
        """Of all nodes that answer, as they are."""
        return View(tuple([node.as_it_is() for node in self._nodes.values() if node.answers]))

    @property
    def moved_bytes(self) -> Mapping[str, int]:
        """Units that have come to nodes, by whence: "remote", "peer", "ssd"."""
        return self._loads.moved_bytes

    def by_minute(self, now_s: float) -> ByMinute:
        """What of the nodes was used since `count_from_s`, or its begin, and until now."""
        return self._usage.by_minute(now_s)

    # ---- orders

    def form(
        self, name: str, key: ModelKey, placement: Placement, timeout_s: float, now_s: float,
        *, behind: bool = False, in_place_of: str = "",
    ) -> None:  # fmt: skip
        """GroupFormed or GroupFailed answers, unless it is stopped before. One that comes `behind` is formed when all of its
        units are there, too, which make way for all others; one that grows `in_place_of` another is up already."""
        self._forming.form(name, key, placement, timeout_s, now_s, behind=behind, in_place_of=in_place_of)

    def hurry(self, name: str, now_s: float) -> None:
        """Somebody waits for the group that came behind others: it makes way no more, and is formed as others are."""
        self._forming.hurry(name, now_s)

    def stop(self, name: str, now_s: float) -> None:
        """GroupStopped answers, whether or not there is such a group. Its requests break at once."""
        self._forming.stop(name, now_s)

    def adopt(self, name: str, now_s: float) -> None:
        """GroupFormed or GroupFailed answers."""
        self._forming.adopt(name, now_s)

    def run(self, name: str, ask: Ask, now_s: float) -> None:
        """The group gives the request its tokens, from when it has them on. The names of requests are used once."""
        self._steps.run(name, ask, now_s)

    def follow(self, name: str, ask: Ask, copy_of: str, now_s: float) -> None:
        """The group takes in a request that is generated elsewhere, where it is called `copy_of` if its KV cache is to be
        copied from there. CaughtUp is told whenever it has, RequestRefused if there is no room now."""
        self._steps.follow(name, ask, copy_of, now_s)

    def more(self, request: str, tokens: int, now_s: float) -> None:
        """The request that is followed has so many more. To one that is over nothing happens."""
        self._steps.more(request, tokens, now_s)

    def go_on(self, request: str, tokens: int, now_s: float) -> None:
        """The same, and from now on it is given its tokens where it was followed."""
        self._steps.go_on(request, tokens, now_s)

    def yield_up(self, request: str, now_s: float) -> None:
        """It is given nothing after the step that it is in; Yielded is told then, unless it is over before."""
        self._steps.yield_up(request, now_s)

    def untold(self, request: str, now_s: float) -> Sequence[RequestProgressed]:
        """Tokens that the request was given by now, and that nothing was told of: if the world is terse."""
        return self._steps.untold(request, now_s)

    def cancel(self, request: str, now_s: float) -> None:
        """Nobody wants the request's tokens any more. One that is over is so already."""
        self._steps.cancel(request, now_s)

    def bring(self, node: str, units: Iterable[Unit], tier: str, now_s: float) -> None:
        """The units have come to the node's tier by other ways than those of starts."""
        self._nodes[node].bring(units, tier)
        self._reporting.soon(self._nodes[node], now_s)

    def stage(self, stagings: Iterable[Staging], now_s: float) -> None:
        """They begin, one after the other on each node, behind all that anybody waits for; of those before what has not begun
        does not."""
        self._stagings.begin(stagings, now_s)

    def retain(self, node: str, dram: Retention, ssd: Retention) -> None:
        """Who makes room in the node's tiers from now on."""
        self._nodes[node].retain(dram, ssd)

    def evict(self, node: str, digests: Iterable[str], now_s: float) -> None:
        """Units that nobody uses leave the node's tiers."""
        self._nodes[node].evict(digests)
        self._reporting.soon(self._nodes[node], now_s)

    # ---- misfortunes

    def befall(self, what: Misfortune, name: str, now_s: float) -> None:
        """It happens to what is called `name`, which is a node's or a group's; "" is the group that is up the longest, and
        none for the others. To what is not there nothing happens."""
        self._misfortunes.befall(what, name, now_s)

    # ---- what its parts tell each other

    def _arrived(self, load: str, names: Iterable[str], node: WorldNode, now_s: float) -> None:
        """All units of a load, which the groups called `names` want, are in the node's dram, or on its ssd."""
        self._reporting.soon(node, now_s)
        self._stagings.arrived(names)
        self._forming.arrived(load, names, node, now_s)

    def _answered(self, group: WorldGroup, now_s: float) -> None:
        self._forming.answered(group, now_s)

    def _released(self, node: WorldNode, now_s: float) -> None:
        self._misfortunes.end_if_drained(node, now_s)
