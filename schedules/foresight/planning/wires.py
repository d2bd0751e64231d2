"""What the links have left for what is brought ahead, until it is needed."""

from collections.abc import Mapping, Sequence
from math import ceil

from schedules.foresight.past import MINUTE_S
from schedules.foresight.planning.places import Place
from schedules.ledgers.links import nic_link
from schedules.rates import STORE


def links_of(places: Sequence[Place], store_bytes_per_s: float | None) -> dict[str, float]:
    """Bytes a second of each link that units come to the places over; the store is one if it limits."""
    found = {} if store_bytes_per_s is None else {STORE: store_bytes_per_s}
    for place in places:
        found[nic_link(place.first.card)] = place.speeds.nic_bytes_per_s
        found[_ssd_link(place)] = place.speeds.ssd_bytes_per_s
    return found


def _ssd_link(place: Place) -> str:
    return f"ssd:{place.first.shared_with}"


class Wires:
    """By link, its bytes a second; of the time until each minute's end, and until the next plan's at most, a `share` is to be
    had. No more than `most_bytes` go over networks, None is as many as fit."""

    def __init__(self, bytes_per_s: Mapping[str, float], share: float, until_s: float, most_bytes: int | None) -> None:
        self._bytes_per_s = bytes_per_s
        slots = max(1, ceil(until_s / MINUTE_S))
        self._spare_s = {
            link: [share * min(until_s, (slot + 1) * MINUTE_S) for slot in range(slots)] for link in bytes_per_s
        }
        self.left_bytes = float("inf") if most_bytes is None else most_bytes

    def _slot(self, due_s: float, link: str) -> int:
        """What is due within the first minute has all of it."""
        return min(len(self._spare_s[link]) - 1, max(0, int(due_s // MINUTE_S) - 1))

    def ways(self, place: Place, source: str) -> tuple[str, ...]:
        """The links over which units come to the place."""
        if source == "ssd":
            return (_ssd_link(place),)
        if source == "remote" and STORE in self._bytes_per_s:
            return (STORE, nic_link(place.first.card))
        return (nic_link(place.first.card),)

    def take(self, links: tuple[str, ...], size_bytes: int, due_s: float, *, network: bool) -> bool:
        """Whether so many bytes come over all of the links in time, beside what was taken before: if so they are taken."""
        if network and size_bytes > self.left_bytes:
            return False
        takes = [
            (self._spare_s[link][self._slot(due_s, link) :], size_bytes / self._bytes_per_s[link]) for link in links
        ]
        if any(min(spare) < takes_s for spare, takes_s in takes):
            return False
        for link in links:
            spare, takes_s = self._spare_s[link], size_bytes / self._bytes_per_s[link]
            for slot in range(self._slot(due_s, link), len(spare)):
                spare[slot] -= takes_s
        if network:
            self.left_bytes -= size_bytes
        return True
