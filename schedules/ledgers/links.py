"""Who uses which link until when: max-min fair shares, and admission by deadline.

A link is anything that bytes squeeze through: the object store's egress, a node's network card, its SSD, its bus. A
transfer goes through all its links at once and gets one rate. HydraServe counts network cards alone and splits each
equally, so that a transfer held up elsewhere keeps a share it cannot use; here what one cannot use the others get. A node
fetches for one stage after the other, so what it fetches stands in a queue, and only the first of a queue moves.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter

_DONE_BYTES = 1e-3


LATER = 1
"""Priority of what no first token waits for."""


def nic_link(node: str) -> str:
    """A node's network card, inwards."""
    return f"nic:{node}"


def out_link(node: str) -> str:
    """A node's network card, outwards: what it gives to peers."""
    return f"out:{node}"


@dataclass(frozen=True)
class Transfer:
    """Bytes on their way through `links`, or about to be. Of two priorities the smaller number goes first.

    Its name begins with that of the start that it is for, and a slash, if it is for one.
    Of those in one `queue` only one moves: the first of the best priority. Those in none all move.
    """

    name: str
    links: tuple[str, ...]
    remaining_bytes: float
    priority: int = 0
    deadline_s: float | None = None
    queue: str | None = None

    @property
    def start(self) -> str:
        return self.name.partition("/")[0]


@dataclass(frozen=True)
class Verdict:
    """Whether new transfers may start: when each would be done (seconds), and whose deadline would be missed."""

    finish_s: Mapping[str, float]
    broken: tuple[str, ...]

    @property
    def admitted(self) -> bool:
        return not self.broken


def shares(rates: Mapping[str, float], transfers: Iterable[Transfer]) -> dict[str, float]:
    """Bytes per second of each transfer, max-min fair within a priority; later priorities share what is left.

    `rates` are the links' bytes per second; a link it does not name is no limit, and a transfer through no link that
    it names is done at once (infinite rate). Progressive filling: all grow alike until a link of theirs is full.
    """
    everyone = list(transfers)
    transfers = _moving(everyone)
    left = {link: rates[link] for transfer in transfers for link in transfer.links if link in rates}
    found = {transfer.name: 0.0 for transfer in everyone}
    for priority in sorted({transfer.priority for transfer in transfers}):
        growing = {
            transfer.name: tuple(link for link in transfer.links if link in left)
            for transfer in transfers
            if transfer.priority == priority
        }
        found |= {name: float("inf") for name, links in growing.items() if not links}
        growing = {name: links for name, links in growing.items() if links}
        level = dict.fromkeys(growing, 0.0)
        while growing:
            users: dict[str, int] = {}
            for links in growing.values():
                for link in links:
                    users[link] = users.get(link, 0) + 1
            step, full = min((left[link] / count, link) for link, count in users.items())
            for name, links in growing.items():
                level[name] += step
                for link in links:
                    left[link] = max(0.0, left[link] - step)
            left[full] = 0.0
            empty = {link for link in users if left[link] <= rates[link] * 1e-12}
            growing = {name: links for name, links in growing.items() if not empty.intersection(links)}
        found |= level
    return found


def _moving(transfers: Sequence[Transfer]) -> list[Transfer]:
    """All but those that stand behind another one in their queue."""
    first: dict[str, Transfer] = {}
    for transfer in transfers:
        if transfer.queue is not None:
            best = first.setdefault(transfer.queue, transfer)
            if transfer.priority < best.priority:
                first[transfer.queue] = transfer
    return [transfer for transfer in transfers if transfer.queue is None or first[transfer.queue] is transfer]


def finish_times(rates: Mapping[str, float], transfers: Sequence[Transfer], now_s: float) -> dict[str, float]:
    """When each transfer is done if no other comes, infinite if it gets nothing. Shares change whenever one is done."""
    if len(transfers) < 2:
        return _one_by_one(rates, transfers, now_s)
    found: dict[str, float] = {}
    for together in _apart(rates, transfers):
        queues = {transfer.queue for transfer in together}
        alone = len(together) == 1 or (len(queues) == 1 and None not in queues)
        found |= (_one_by_one if alone else _side_by_side)(rates, together, now_s)
    return found


def _apart(rates: Mapping[str, float], transfers: Iterable[Transfer]) -> list[list[Transfer]]:
    """Those that may hold each other up, by however many others in between, together."""
    groups: list[tuple[set[str], list[Transfer]]] = []
    for transfer in transfers:
        ways, members, others = set(_ways(rates, transfer)), [transfer], list[tuple[set[str], list[Transfer]]]()
        for group in groups:
            if group[0].isdisjoint(ways):
                others.append(group)
            else:
                ways |= group[0]
                members[:0] = group[1]
        others.append((ways, members))
        groups = others
    return [members for _, members in groups]


def _ways(rates: Mapping[str, float], transfer: Transfer) -> list[str]:
    """What others may hold the transfer up by: links of a known rate, and its queue."""
    ways = [link for link in transfer.links if link in rates]
    if transfer.queue is not None:
        ways.append(f"queue {transfer.queue}")
    return ways


def _one_by_one(rates: Mapping[str, float], transfers: Sequence[Transfer], now_s: float) -> dict[str, float]:
    """Of one queue that nobody else is in the way of."""
    found: dict[str, float] = {}
    for transfer in sorted(transfers, key=attrgetter("priority")):
        bytes_per_s = min([rates[link] for link in transfer.links if link in rates], default=float("inf"))
        now_s += _needed_s(transfer.remaining_bytes, bytes_per_s)
        found[transfer.name] = now_s
    return found


def _side_by_side(rates: Mapping[str, float], transfers: Iterable[Transfer], now_s: float) -> dict[str, float]:
    waiting = {transfer.name: transfer for transfer in transfers}
    left = {name: transfer.remaining_bytes for name, transfer in waiting.items()}
    found: dict[str, float] = {}
    while waiting:
        rate = shares(rates, waiting.values())
        needs = {name: _needed_s(left[name], rate[name]) for name in waiting}
        soonest_s = min(needs.values())
        if soonest_s == float("inf"):
            return found | dict.fromkeys(waiting, float("inf"))
        now_s += soonest_s
        for name in list(waiting):
            if needs[name] <= soonest_s:
                found[name] = now_s
                del waiting[name]
            elif soonest_s > 0:
                left[name] -= rate[name] * soonest_s
    return found


def _needed_s(size_bytes: float, bytes_per_s: float) -> float:
    if size_bytes <= _DONE_BYTES or bytes_per_s == float("inf"):
        return 0.0
    return size_bytes / bytes_per_s if bytes_per_s > 0 else float("inf")


class Links:
    """The transfers under way over links of known rates. Knows no clock: every call says what time it is."""

    def __init__(self, rates: Mapping[str, float], now_s: float) -> None:
        self._rates = dict(rates)
        self._transfers: dict[str, Transfer] = {}
        self._now_s = now_s
        self._forecast: dict[str, float] | None = None
        self._ends: dict[str, float] | None = None
        self._queues: dict[str, list[Transfer]] | None = None
        self._ways: Mapping[str, frozenset[str]] | None = None

    @property
    def transfers(self) -> tuple[Transfer, ...]:
        """What is under way, as far as the last call's time."""
        return tuple(self._transfers.values())

    @property
    def rates(self) -> Mapping[str, float]:
        return dict(self._rates)

    def measure(self, rates: Mapping[str, float], now_s: float) -> None:
        """Links' rates are news; what moved until now moved at the old ones. A link that is not named has no limit."""
        for link, bytes_per_s in rates.items():
            if bytes_per_s <= 0:
                raise ValueError(f"link {link} at {bytes_per_s} bytes/s")
        self.advance(now_s)
        self._rates, self._forecast, self._ways = dict(rates), None, None

    def change(self, rates: Mapping[str, float | None], now_s: float) -> None:
        """As `measure`, of some links alone: None for those that have no limit any more."""
        if not rates:
            return
        for link, bytes_per_s in rates.items():
            if bytes_per_s is not None and bytes_per_s <= 0:
                raise ValueError(f"link {link} at {bytes_per_s} bytes/s")
        self.advance(now_s)
        self._rates |= {link: bytes_per_s for link, bytes_per_s in rates.items() if bytes_per_s is not None}
        for link in [link for link, bytes_per_s in rates.items() if bytes_per_s is None]:
            self._rates.pop(link, None)
        if any(not rates.keys().isdisjoint(transfer.links) for transfer in self._transfers.values()):
            self._forecast = self._ways = None

    def advance(self, now_s: float) -> None:
        """Move everything on to `now_s` by its shares; what is done by then is gone. Time does not run back."""
        if self._transfers and now_s > self._now_s:
            self._queues = None
        while self._transfers and now_s > self._now_s:
            rate = shares(self._rates, self._transfers.values())
            needs = {name: _needed_s(t.remaining_bytes, rate[name]) for name, t in self._transfers.items()}
            step_s = min(now_s - self._now_s, *needs.values())
            for name, transfer in list(self._transfers.items()):
                if needs[name] <= step_s:
                    del self._transfers[name]
                else:
                    moved = rate[name] * step_s
                    self._transfers[name] = replace(transfer, remaining_bytes=transfer.remaining_bytes - moved)
            self._now_s += step_s
            if step_s == 0.0 and not any(need == 0.0 for need in needs.values()):
                break
        self._now_s = max(self._now_s, now_s)

    def forecast(self, now_s: float) -> dict[str, float]:
        """When each transfer under way is done if no other comes, in seconds. It stays so until something changes."""
        known = self._known(now_s)
        return {name: known[name] for name in self._transfers}

    def queues_end(self, now_s: float) -> Mapping[str, float]:
        """When a queue's first fetches are done, before which nobody else's begin, in seconds; those that are empty are
        absent, or ended before now."""
        known = self._known(now_s)
        if self._ends is None:
            self._ends = {}
            for name, transfer in self._transfers.items():
                if transfer.queue is not None and transfer.priority < LATER:
                    self._ends[transfer.queue] = max(known[name], self._ends.get(transfer.queue, now_s))
        return self._ends

    def queues(self, now_s: float) -> Mapping[str, Sequence[Transfer]]:
        """What stands in each queue; those that are empty are absent."""
        self.advance(now_s)
        if self._queues is None:
            self._queues = {}
            for transfer in self._transfers.values():
                if transfer.queue is not None:
                    self._queues.setdefault(transfer.queue, []).append(transfer)
        return self._queues

    def rate(self, link: str) -> float | None:
        """Bytes per second of one link; None if it has no limit."""
        return self._rates.get(link)

    def _known(self, now_s: float) -> Mapping[str, float]:
        """The forecast, and when those were expected that are done since it was made."""
        self.advance(now_s)
        if self._forecast is None:
            self._forecast = finish_times(self._rates, list(self._transfers.values()), self._now_s)
            self._ends = None
        return self._forecast

    def consider(self, new: Sequence[Transfer], now_s: float) -> Verdict:
        """What would come of starting `new` now. Whoever is late already without it is not its fault."""
        self.advance(now_s)
        self._check_names(new)
        present = self._touched(new)
        before = self._known(now_s) if present else {}
        after = finish_times(self._rates, [*present, *new], now_s)
        late = [
            transfer.name
            for transfer in (*present, *new)
            if transfer.deadline_s is not None
            and after[transfer.name] > transfer.deadline_s
            and before.get(transfer.name, now_s) <= transfer.deadline_s
        ]
        return Verdict(after, tuple(late))

    def _check_names(self, new: Sequence[Transfer]) -> None:
        names = [transfer.name for transfer in new]
        if len({*names, *self._transfers}) != len(names) + len(self._transfers):
            raise ValueError("a transfer of that name is under way")

    def _touched(self, new: Sequence[Transfer]) -> list[Transfer]:
        """Those under way whose shares `new` may change, by however many others in between."""
        if self._ways is None:
            self._ways = {name: frozenset(_ways(self._rates, t)) for name, t in self._transfers.items()}
        reached = {way for transfer in new for way in _ways(self._rates, transfer)}
        rest = {name: self._ways[name] for name in self._transfers}
        while near := [name for name, ways in rest.items() if not reached.isdisjoint(ways)]:
            reached.update(*[rest.pop(name) for name in near])
        return [transfer for name, transfer in self._transfers.items() if name not in rest]

    def begin(self, new: Sequence[Transfer], now_s: float) -> None:
        """They are under way from now on, admitted or not. ValueError if one of that name already is."""
        self.advance(now_s)
        self._check_names(new)
        self._transfers |= {transfer.name: transfer for transfer in new}
        self._forecast = self._ways = self._queues = None

    def end(self, name: str, now_s: float) -> None:
        """It is over, however it ended; what is not known is over already."""
        self.advance(now_s)
        if self._transfers.pop(name, None) is not None:
            self._forecast = self._queues = None

    def end_start(self, start: str, now_s: float, *, later_too: bool) -> None:
        """The first token of `start` is out: what it waited for is over, and with `later_too`, since its group has ended or
        came to nothing, also what was to come behind."""
        self.advance(now_s)
        over = [t.name for t in self._transfers.values() if t.start == start and (later_too or t.priority < LATER)]
        for name in over:
            del self._transfers[name]
        if over:
            self._forecast = self._queues = None
