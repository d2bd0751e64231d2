"""Where units can be brought to: the nodes that can be planned for, those of one box as one."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from schedules.estimates import Speeds, speeds_of
from schedules.facts import Node, View


@dataclass(frozen=True, eq=False)
class Place:
    """Nodes with one dram, one ssd and one network card among them: mostly a node alone. `units` are in their fastest tier.
    What is brought there is ordered of the `first` of them, that with most free device memory."""

    nodes: tuple[Node, ...]
    speeds: Speeds

    @property
    def first(self) -> Node:
        return self.nodes[0]

    @property
    def units(self) -> Mapping[str, str]:
        return self.nodes[0].units


def places_of(view: View) -> tuple[tuple[Place, ...], dict[str, str]]:
    """The places, by their first nodes' names; and of nodes that are not planned for why, but for those that drain."""
    boxes, unknown = dict[str, list[tuple[Node, Speeds]]](), dict[str, str]()
    for node in view.nodes:
        if node.draining:
            continue
        speeds = speeds_of(node.rates, bad=False)
        if speeds is None:
            unknown[node.name] = f"How fast node {node.name} is was not measured yet: nothing is brought there."
        else:
            boxes.setdefault(node.card, []).append((node, speeds))
    found = []
    for box in boxes.values():
        box.sort(key=lambda each: (-each[0].stage_free_bytes, each[0].name))
        found.append(Place(tuple([node for node, _ in box]), box[0][1]))
    found.sort(key=lambda place: place.first.name)
    return tuple(found), unknown


class Held:
    """Who holds which units: for a model, by place (its index), the tier of each of its units, "" for none."""

    def __init__(self, places: Sequence[Place], wanted: Iterable[str]) -> None:
        self._at: dict[str, list[tuple[int, str]]] = {digest: [] for digest in wanted}
        for index, place in enumerate(places):
            for digest, tier in place.units.items():
                at = self._at.get(digest)
                if at is not None:
                    at.append((index, tier))

    def at(self, digest: str) -> Sequence[tuple[int, str]]:
        """(place, tier) of all who hold the unit."""
        return self._at.get(digest, ())

    def by_place(self, digests: Sequence[str]) -> dict[int, list[str]]:
        """Of those places that hold any of them."""
        found = dict[int, list[str]]()
        for unit, digest in enumerate(digests):
            for place, tier in self._at.get(digest, ()):
                if place not in found:
                    found[place] = [""] * len(digests)
                found[place][unit] = tier
        return found
