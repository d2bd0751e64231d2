"""Who gets how much of which link, and when each is done: max-min fair shares, and queues of which one moves at a time.

A link is anything that bytes squeeze through: the object store's egress, a node's network card, its SSD, its bus. A
transfer goes through all its links at once and gets one rate. HydraServe counts network cards alone and splits each
equally, so that a transfer held up elsewhere keeps a share it cannot use; here what one cannot use the others get. A node
fetches for one stage after the other, so what it fetches stands in a queue, and only the first of a queue moves.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from heapq import heappop, heappush
from math import inf
from operator import attrgetter
from typing import NamedTuple

_DONE_BYTES = 1e-3

LATER = 1
"""Priority of what no first token waits for."""

BEHIND = 2
"""Priority of what makes way for all that anybody waits for: the units of a replica that follows another."""

STAGED = 3
"""Priority of what is brought before anybody asks for it."""


class Transfer(NamedTuple):
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

    def with_remaining(self, remaining_bytes: float) -> "Transfer":
        """The same with so many bytes to go."""
        return Transfer(self.name, self.links, remaining_bytes, self.priority, self.deadline_s, self.queue)

    def until(self, deadline_s: float | None) -> "Transfer":
        """The same with another deadline."""
        return Transfer(self.name, self.links, self.remaining_bytes, self.priority, deadline_s, self.queue)


_PRIORITY = attrgetter("priority")


def shares(rates: Mapping[str, float], transfers: Iterable[Transfer]) -> dict[str, float]:
    """Bytes per second of each transfer, max-min fair within a priority; later priorities share what is left.

    `rates` are the links' bytes per second; a link it does not name is no limit, and a transfer through no link that
    it names is done at once (infinite rate). Those that stand behind another one in their queue get nothing.
    """
    everyone = list(transfers)
    moving = [_Moving(transfer, rates, 0.0) for transfer in _heads(everyone)[0]]
    found = {transfer.name: 0.0 for transfer in everyone}
    return found | {each.transfer.name: share for each, share in zip(moving, _filled(rates, moving), strict=True)}


def finish_times(rates: Mapping[str, float], transfers: Sequence[Transfer], now_s: float) -> dict[str, float]:
    """When each transfer is done if no other comes, infinite if it gets nothing."""
    queues = {transfer.queue for transfer in transfers}
    if len(transfers) == 1 or (len(queues) == 1 and None not in queues):
        return _one_by_one(rates, transfers, now_s)
    found = dict.fromkeys([transfer.name for transfer in transfers], inf)
    return found | Flow(rates, transfers, now_s).run(inf)


def _one_by_one(rates: Mapping[str, float], transfers: Sequence[Transfer], now_s: float) -> dict[str, float]:
    """Of one queue that nobody else is in the way of."""
    found: dict[str, float] = {}
    for transfer in sorted(transfers, key=_PRIORITY):
        bytes_per_s = min([rates[link] for link in transfer.links if link in rates], default=inf)
        now_s += _needed_s(transfer.remaining_bytes, bytes_per_s)
        found[transfer.name] = now_s
    return found


class Flow:
    """Transfers that go on until each is done; their shares change whenever one is. Time does not run back."""

    def __init__(self, rates: Mapping[str, float], transfers: Iterable[Transfer], now_s: float) -> None:
        self._rates, self._now_s = rates, now_s
        heads, self._behind = _heads(transfers)
        self._moving: dict[str, _Moving] = {}
        self._users: dict[str, dict[str, _Moving]] = {}
        self._due: list[tuple[float, int, _Moving]] = []  # whose time is another by now is passed over
        self._numbers = itertools.count()
        for transfer in heads:
            self._begin(transfer)
        self._share(self._moving.keys(), ())

    def run(self, until_s: float) -> dict[str, float]:
        """When each is done of those that are by then."""
        found, due = dict[str, float](), self._due
        while (soonest_s := self.next_s) <= until_s and soonest_s != inf:
            self._now_s = max(self._now_s, soonest_s)
            begun, freed = list[str](), list[str]()
            while due and due[0][0] <= soonest_s:
                done_s, _, each = heappop(due)
                if each.done_s != done_s:
                    continue
                found[each.transfer.name] = soonest_s
                self._end(each)
                freed += each.links
                behind = self._behind.get(each.transfer.queue)
                if behind:
                    begun.append(behind[-1].name)
                    self._begin(behind.pop())
            self._share(begun, freed)
        self._now_s = max(self._now_s, until_s)
        return found

    def add(self, transfers: Iterable[Transfer]) -> None:
        """They go on with the others, whose shares and queues they do not touch."""
        heads, behind = _heads(transfers)
        self._behind |= behind
        for transfer in heads:
            self._begin(transfer)
        self._share([transfer.name for transfer in heads], ())

    def drop(self, transfers: Iterable[Transfer]) -> None:
        """They go on no more; the shares and queues of the others are what they were."""
        for transfer in transfers:
            self._behind.pop(transfer.queue, None)
            if (moving := self._moving.get(transfer.name)) is not None:
                self._end(moving)

    @property
    def next_s(self) -> float:
        """When the next one is done; infinite if none will be."""
        due = self._due
        while due and due[0][2].done_s != due[0][0]:
            heappop(due)
        return due[0][0] if due else inf

    def left_bytes(self, name: str) -> float | None:
        """Bytes to go of one that moves, as far as it has run; None of any other."""
        moving = self._moving.get(name)
        return None if moving is None else moving.at(self._now_s)

    def _begin(self, transfer: Transfer) -> None:
        moving = self._moving[transfer.name] = _Moving(transfer, self._rates, self._now_s)
        for link in moving.links:
            self._users.setdefault(link, {})[transfer.name] = moving

    def _end(self, moving: "_Moving") -> None:
        del self._moving[moving.transfer.name]
        moving.done_s = inf
        for link in moving.links:
            users = self._users[link]
            del users[moving.transfer.name]
            if not users:
                del self._users[link]

    def _go_on(self, moving: "_Moving", bytes_per_s: float) -> None:
        """At that share from now on."""
        if bytes_per_s == moving.bytes_per_s and moving.done_s != inf:
            return
        moving.go_on(bytes_per_s, self._now_s)
        if moving.done_s != inf:
            heappush(self._due, (moving.done_s, next(self._numbers), moving))

    def _share(self, begun: Iterable[str], freed: Iterable[str]) -> None:
        """Shares anew for those that have begun, those on the links that are free, and whom that touches."""
        todo, done = [self._moving[name] for name in begun], set[str]()
        for link in freed:
            if users := self._users.get(link):
                todo += users.values()
        rates = self._rates
        for first in todo:
            for link in first.links:
                if len(self._users[link]) > 1:
                    break
            else:
                self._go_on(first, _alone(rates, first))
                continue
            if first.transfer.name not in done:
                together = self._together(first)
                done.update(together)
                among = [*together.values()]
                for each, share in zip(among, _filled(rates, among), strict=True):
                    self._go_on(each, share)

    def _together(self, first: "_Moving") -> dict[str, "_Moving"]:
        """Those that hold each other up, by however many others in between."""
        found, links, todo = {first.transfer.name: first}, set[str](), [first]
        while todo:
            for link in todo.pop().links:
                if link not in links:
                    links.add(link)
                    for name, each in self._users[link].items():
                        if name not in found:
                            found[name] = each
                            todo.append(each)
        return found


class _Moving:
    """A transfer that gets its share: `left_bytes` of it were to go at `since_s`. `links` are those of a known rate."""

    __slots__ = ("bytes_per_s", "done_s", "left_bytes", "links", "since_s", "transfer")

    def __init__(self, transfer: Transfer, rates: Mapping[str, float], now_s: float) -> None:
        self.transfer, self.links = transfer, tuple([link for link in transfer.links if link in rates])
        self.left_bytes, self.since_s = transfer.remaining_bytes, now_s
        self.bytes_per_s, self.done_s = 0.0, inf

    def at(self, now_s: float) -> float:
        """Bytes to go then, at its share until then."""
        gone = self.bytes_per_s * (now_s - self.since_s) if now_s > self.since_s else 0.0
        return max(0.0, self.left_bytes - gone)

    def go_on(self, bytes_per_s: float, now_s: float) -> None:
        """At that share from now on."""
        if now_s > self.since_s:
            self.left_bytes, self.since_s = self.at(now_s), now_s
        self.bytes_per_s, self.done_s = bytes_per_s, now_s + _needed_s(self.left_bytes, bytes_per_s)


def _heads(transfers: Iterable[Transfer]) -> tuple[list[Transfer], dict[str | None, list[Transfer]]]:
    """Those that move, and by queue those that stand behind them, the next one last."""
    heads, queues = list[Transfer](), dict[str | None, list[Transfer]]()
    for transfer in transfers:
        if transfer.queue is None:
            heads.append(transfer)
        elif transfer.queue in queues:
            queues[transfer.queue].append(transfer)
        else:
            queues[transfer.queue] = [transfer]
    for queue in queues.values():
        if len(queue) > 1:
            queue.sort(key=_PRIORITY)
            queue.reverse()
        heads.append(queue.pop())
    return heads, queues


def _alone(rates: Mapping[str, float], moving: _Moving) -> float:
    """What it gets whom nobody holds up."""
    links = moving.links
    if len(links) == 2:
        one, other = rates[links[0]], rates[links[1]]
        return one if one <= other else other
    return min([rates[link] for link in links], default=inf)


def _filled(rates: Mapping[str, float], moving: Sequence[_Moving]) -> list[float]:
    """The share of each. Progressive filling: all of a priority grow alike until a link of theirs is full."""
    if len(moving) == 1:
        return [_alone(rates, moving[0])]
    left = {link: rates[link] for each in moving for link in each.links}
    found = [0.0 if each.links else inf for each in moving]
    priorities = {each.transfer.priority for each in moving}
    for priority in sorted(priorities) if len(priorities) > 1 else priorities:
        growing = [
            (index, each.links)
            for index, each in enumerate(moving)
            if each.links and each.transfer.priority == priority
        ]
        users, level = dict[str, int](), 0.0
        for _, links in growing:
            for link in links:
                users[link] = users.get(link, 0) + 1
        while growing:
            step, full = min([(left[link] / count, link) for link, count in users.items()])
            level += step
            empty = []
            for link, count in users.items():
                rest = left[link] - step * count
                if link == full or rest <= rates[link] * 1e-12:
                    empty.append(link)
                    rest = 0.0 if link == full or rest < 0.0 else rest
                left[link] = rest
            staying = []
            for each in growing:
                index, links = each
                for link in links:
                    if link in empty:
                        found[index] = level
                        for used in links:
                            users[used] -= 1
                        break
                else:
                    staying.append(each)
            growing = staying
            users = {link: count for link, count in users.items() if count}
    return found


def _needed_s(size_bytes: float, bytes_per_s: float) -> float:
    if size_bytes <= _DONE_BYTES or bytes_per_s == inf:
        return 0.0
    return size_bytes / bytes_per_s if bytes_per_s > 0 else inf
