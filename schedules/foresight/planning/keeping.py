"""Which models have a replica all the time, as far as accelerators go: those that save most per byte there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from schedules.facts import Node

DISPLACES = 1.5
"""A replica that is not up yet takes the room of one that is only if it saves so many times as much."""


class Candidate(NamedTuple):
    """The model of that `number`: it is up at `running`, its stages of one replica on several nodes or one, or reserves
    `whole_bytes` with all of it on one node. It saves `saved_s` if it is kept."""

    number: int
    whole_bytes: int
    running: Sequence[Sequence[str]]
    saved_s: float
    priority: int


@dataclass
class Devices:
    """What is left of the nodes' accelerators: of the share that a plan may use, and what is free."""

    left_bytes: dict[str, int]
    free_bytes: dict[str, int]
    kept: dict[int, str] = field(default_factory=dict)
    """Nodes of those that are to come, or "" for those that are up, by model."""


def devices_of(nodes: Sequence[Node], share: float) -> Devices:
    """Of nodes as they are."""
    return Devices(
        {node.name: int(share * node.device_bytes) for node in nodes},
        {node.name: node.stage_free_bytes for node in nodes},
    )


def keep(
    devices: Devices,
    candidates: Sequence[Candidate],
    holds: Mapping[int, Mapping[str, int]],
) -> None:
    """In the order of what they save per byte. One that is up stays where it is; one that is not comes to the node that holds
    most of it (`holds`: bytes by node) of those with room, and does not drive away what saves nearly as much."""
    turns = []
    for each in candidates:
        per_byte = each.saved_s / max(1, each.whole_bytes)
        turns.append((-(per_byte if each.running else per_byte / DISPLACES), -each.priority, each.number, each))
    for *_, each in sorted(turns, key=lambda turn: turn[:3]):
        if each.running:
            _stay(devices, each)
        else:
            _come(devices, each, holds.get(each.number, {}))


def _stay(devices: Devices, each: Candidate) -> None:
    """The replica on fewest nodes."""
    nodes = min(each.running, key=lambda names: (len(names), tuple(names)))
    size_bytes = -(-each.whole_bytes // max(1, len(nodes)))
    if all(devices.left_bytes.get(name, 0) >= size_bytes for name in nodes):
        for name in nodes:
            devices.left_bytes[name] -= size_bytes
        devices.kept[each.number] = ""


def _come(devices: Devices, each: Candidate, holds: Mapping[str, int]) -> None:
    size_bytes, free = each.whole_bytes, devices.free_bytes
    roomy = [
        (-holds.get(name, 0), -left, name)
        for name, left in devices.left_bytes.items()
        if left >= size_bytes and free[name] >= size_bytes
    ]
    if roomy:
        *_, name = min(roomy)
        devices.left_bytes[name] -= size_bytes
        free[name] -= size_bytes
        devices.kept[each.number] = name
