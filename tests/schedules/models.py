"""Models, nodes and views to decide about, drawn by hypothesis."""

from dataclasses import replace

from hypothesis import strategies as st

from schedules.facts import Model, Node, Rate, Unit, View
from schedules.ledgers.links import Links
from schedules.ledgers.nodes import link_rates
from schedules.objectives import Objectives
from schedules.placing.decision import Question
from schedules.rates import BUS, DECODE, NIC, PREFILL, REACH, SSD, formed
from tests.told import objectives_of

SIZES = st.integers(1, 60)
TIERS = ("dram", "ssd")


def model_of(sizes: list[int], tied: bool = False, kv_bytes_per_token: int = 0, rows_first: bool = False) -> Model:
    """A model whose units, embedding to head, have `sizes` bytes."""
    units = tuple(Unit(f"unit{i}", f"digest{i}", size) for i, size in enumerate(sizes))
    return Model("model", "digest", units, tied, kv_bytes_per_token, rows_first)


def node_of(name: str, device_bytes: int, reserved_bytes: int = 0, units: dict[str, str] | None = None) -> Node:
    """A node with just what placement looks at."""
    return Node(
        name=name,
        address=f"tcp://{name}",
        host="127.0.0.1",
        rendezvous_port=1,
        dram_bytes=0,
        dram_used_bytes=0,
        ssd_bytes=0,
        ssd_used_bytes=0,
        device_bytes=device_bytes,
        device_reserved_bytes=reserved_bytes,
        idle_stage_processes=1,
        busy_stage_processes=0,
        units=units or {},
    )


@st.composite
def models(draw: st.DrawFn, layers: st.SearchStrategy[int] = st.integers(1, 7)) -> Model:  # noqa: B008
    """A small model of any shape."""
    count = draw(layers)
    sizes = draw(st.lists(SIZES, min_size=count + 2, max_size=count + 2))
    return model_of(sizes, draw(st.booleans()), draw(st.integers(0, 5)), draw(st.booleans()))


@st.composite
def views(draw: st.DrawFn, model: Model) -> View:
    """Up to five nodes, each holding some of the model's units."""
    nodes = []
    for index in range(draw(st.integers(0, 5))):
        digests = draw(st.sets(st.sampled_from([unit.digest for unit in model.units])))
        held = {digest: draw(st.sampled_from(TIERS)) for digest in sorted(digests)}
        nodes.append(node_of(f"node{index}", draw(st.integers(0, 400)), draw(st.integers(0, 100)), held))
    return View(tuple(nodes))


def rates_of(**speeds: float) -> dict[str, Rate]:
    """What a node is measured at, the same in the mean and at the bad end: bytes/s of nic, ssd, decode and prefill,
    seconds of reach and formed."""
    known = {"nic": 10.0, "ssd": 20.0, "decode": 1e6, "prefill": 1e9, "reach": 0.01, "formed": 0.5} | speeds
    named = {NIC: "nic", SSD: "ssd", DECODE: "decode", PREFILL: "prefill", REACH: "reach", formed(1): "formed"}
    return {name: Rate(known[key], known[key], 9) for name, key in named.items()}


def question_of(model: Model, view: View, objectives: Objectives | None = None, **more: object) -> Question:
    """Where shall it start, on links as fast as the nodes say and nothing under way?"""
    links = more.pop("links", None) or Links(link_rates(view), 0.0)
    objectives = objectives or objectives_of(kv_tokens=1)
    return Question("new", model, objectives, view, links, 0.0, **more)  # type: ignore[arg-type]


@st.composite
def rates(draw: st.DrawFn) -> dict[str, Rate]:
    """Of a measured node, all speeds and durations drawn, the bad end never better than the mean."""

    def rate(low: float, high: float, *, duration: bool = False) -> Rate:
        mean, worse = draw(st.floats(low, high)), draw(st.floats(1.0, 3.0))
        return Rate(mean, mean * worse if duration else mean / worse, 9)

    found = {NIC: rate(1, 100), SSD: rate(1, 200), DECODE: rate(10, 1e4), PREFILL: rate(1e3, 1e6)}
    found[REACH] = rate(0.001, 0.1, duration=True)
    return found | {
        formed(degree): rate(0.1, 3, duration=True) for degree in draw(st.sampled_from([(1,), (1, 2), (2, 4)]))
    }


@st.composite
def measured_views(draw: st.DrawFn, model: Model, most: int = 6) -> View:
    """Nodes that give to peers and drain or not, most of them measured; some compute on GPUs, several on one, in processes
    that take some of it."""
    nodes = []
    for node in draw(views(model)).nodes[:most]:
        known = draw(st.one_of(rates(), rates(), st.just({})))
        port, draining = draw(st.sampled_from([0, 1])), draw(st.sampled_from([False, False, False, True]))
        gpu = draw(st.sampled_from(["", "", "gpu a", "gpu b"]))
        if gpu:
            bus, context_bytes = draw(st.floats(1, 1e3)), draw(st.integers(0, 40))
            known = known | {BUS: Rate(bus, bus / 2, 9)} if known else known
            node = replace(node, gpu=gpu, context_bytes=context_bytes)
        nodes.append(replace(node, rates=known, peer_port=port, draining=draining))
    return View(tuple(nodes))


@st.composite
def objectives(draw: st.DrawFn) -> Objectives:
    """Any service level, and none."""
    ttft_s, tpot_s = draw(st.none() | st.floats(0.5, 60.0)), draw(st.none() | st.floats(0.001, 30.0))
    return objectives_of(
        ttft_s=ttft_s,
        tpot_s=tpot_s,
        priority=draw(st.integers(0, 2)),
        max_degree=draw(st.integers(1, 4)),
        kv_tokens=draw(st.integers(1, 30)),
    )
