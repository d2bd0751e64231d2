"""A fitted world is written down and read again, and what is none is refused with a reason."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from schedules.fitting.errors import BadWorld
from schedules.fitting.fitted import RECEIVE, Fitted, Played, Quality, Quantity, Whence
from schedules.fitting.world_file import from_json, to_json
from schedules.simulation.comparing import compare, match
from schedules.systems.system import OURS, Startup
from schedules.world.habits import Habits
from schedules.world.nodes import WorldNode
from tests.schedules.worlds import world_node

PLAYED = Played(compare([1.0, 2.0], [1.1, 2.1]), match([1.0], [1.5]), None, 3, 2)
WORLD = Fitted(
    (replace(world_node("n0", store_bytes_per_s=9e8), machine="m", gpu="g"), world_node("n1")),
    Habits(receive_s=0.05, carry_after_s=None),
    {"n0": Startup(tail_s=0.3), "n1": Startup(serial=True)},
    (Quantity("n0", "nic", 1e8, None, Whence.OWN, 9, 1, 0.2), Quantity("", RECEIVE, 0.05, None, Whence.PLAYED, 4)),
    Quality(10.0, 20.0, 7, PLAYED, PLAYED),
    "9 cold starts",
)


def told() -> dict[str, Any]:
    """The world as JSON, to be spoilt."""
    found: dict[str, Any] = json.loads(json.dumps(to_json(WORLD)))
    return found


def test_a_world_is_read_as_it_was_but_for_where_its_nodes_are() -> None:
    read = from_json(told())
    assert (read.habits, read.startups, read.quantities, read.quality, read.source) == (
        WORLD.habits, WORLD.startups, WORLD.quantities, WORLD.quality, WORLD.source,
    )  # fmt: skip
    for node, was in zip(read.nodes, WORLD.nodes, strict=True):
        assert node == replace(was, address="", host="", rendezvous_port=0)
        assert WorldNode(node, {}).speeds == WorldNode(was, {}).speeds


def test_nodes_of_which_nothing_else_is_known_start_as_ours_do() -> None:
    read = from_json(json.loads(json.dumps(to_json(replace(WORLD, startups={"n1": WORLD.startups["n1"]})))))
    assert read.startups == {"n0": OURS.startup, "n1": WORLD.startups["n1"]}


def _without_rate(world: dict[str, Any]) -> None:
    del world["nodes"][1]["rates"]["nic"]


def _without_formed(world: dict[str, Any]) -> None:
    rates = world["nodes"][0]["rates"]
    world["nodes"][0]["rates"] = {name: rate for name, rate in rates.items() if not name.startswith("formed")}


def _with(path: tuple[str | int, ...], value: object) -> Callable[[dict[str, Any]], None]:
    def spoil(world: dict[str, Any]) -> None:
        place: Any = world
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value

    return spoil


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_with(("kind",), "trace"), "no world of ours"),
        (_with(("version",), 2), "of version 2: this program reads version 1"),
        (_with(("nodes",), []), "from 1 to 100,000 nodes, not 0"),
        (_with(("nodes", 1, "name"), "n0"), "two nodes of the world have the same name"),
        (_without_rate, "node n1 does not say how fast it is: nic is missing"),
        (_without_formed, "node n0 does not say how fast it is: formed.1 is missing"),
        (_with(("nodes", 0, "rates", "warp"), {"mean": 1, "bad": 1, "samples": 1}), "nobody knows what 'warp'"),
        (_with(("nodes", 0, "rates", "ssd", "mean"), 0.0), "ssd of node n0 is not above zero"),
        (_with(("nodes", 0, "rates", "ssd", "mean"), float("nan")), "ssd of node n0 is no number"),
        (_with(("nodes", 0, "rates", "ssd", "mean"), True), "ssd of node n0 is no number"),
        (_with(("nodes", 0, "dram_bytes"), -1), "dram_bytes of node n0 is no whole number"),
        (_with(("nodes", 0, "startup", "tail_s"), -1.0), "a tail_s is below zero"),
        (_with(("habits", "luck"), 1.0), "habits have no 'luck'"),
        (_with(("habits", "hop_s"), -1.0), "habits is below zero"),
        (_with(("habits", "tokens_at_once"), 1.5), "tokens_at_once is no whole number"),
        (_with(("quantities", 0, "whence"), "a dream"), "damaged"),
        (_with(("quality", "fitted"), 3), "damaged"),
        (_with(("habits", "hop_s"), None), "hop_s is no number"),
        (_with(("nodes",), "all of them"), "damaged"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_is_no_world_is_refused(spoil: Callable[[dict[str, Any]], None], reason: str) -> None:
    world = told()
    spoil(world)
    with pytest.raises(BadWorld, match=reason):
        from_json(world)


@pytest.mark.parametrize("nothing", [None, [], "world", 1])
def test_nor_is_anything_else_one(nothing: object) -> None:
    with pytest.raises(BadWorld, match="no world of ours"):
        from_json(nothing)
