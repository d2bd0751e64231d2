"""Who uses which link until when, and admission by deadline. What is a link, and who gets how much of it: see `shares`."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

from schedules.ledgers.shares import LATER, Flow, Transfer, finish_times


def nic_link(card: str) -> str:
    """A network card, inwards; nodes know it by `Node.card`."""
    return f"nic:{card}"


def out_link(card: str) -> str:
    """A network card, outwards: what its nodes give to peers."""
    return f"out:{card}"


@dataclass(frozen=True)
class Verdict:
    """Whether new transfers may start: when each would be done (seconds), and whose deadline would be missed."""

    finish_s: Mapping[str, float]
    broken: tuple[str, ...]

    @property
    def admitted(self) -> bool:
        return not self.broken


class Links:
    """The transfers under way over links of known rates. Knows no clock: every call says what time it is."""

    def __init__(self, rates: Mapping[str, float], now_s: float) -> None:
        self._rates = dict(rates)
        self._transfers: dict[str, Transfer] = {}
        self._now_s = now_s
        self._flow = Flow(self._rates, (), now_s)
        self._numbers = count()
        self._number_of: dict[str, int] = {}
        self._users: dict[str, set[str]] = {}
        self._ways_of: dict[str, list[str]] = {}
        self._forecast: dict[str, float] = {}
        self._unsure: set[str] = set()
        self._considered: list[tuple[Sequence[Transfer], Mapping[str, float]]] = []
        self._ends: dict[str, float] | None = None
        self._queues: dict[str, list[Transfer]] | None = None

    @property
    def transfers(self) -> tuple[Transfer, ...]:
        """What is under way, as far as the last call's time."""
        return tuple([self._as_it_is(name) for name in self._transfers])

    def transfer(self, name: str) -> Transfer:
        """One of those under way, as far as the last call's time. KeyError if it is not."""
        return self._as_it_is(name)

    @property
    def rates(self) -> Mapping[str, float]:
        return dict(self._rates)

    def measure(self, rates: Mapping[str, float], now_s: float) -> None:
        """Links' rates are news; what moved until now moved at the old ones. A link that is not named has no limit."""
        for link, bytes_per_s in rates.items():
            if bytes_per_s <= 0:
                raise ValueError(f"link {link} at {bytes_per_s} bytes/s")
        self.advance(now_s)
        self._rates = dict(rates)
        self._begin_anew()

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
        self._considered.clear()
        if any(not rates.keys().isdisjoint(transfer.links) for transfer in self._transfers.values()):
            self._begin_anew()

    def advance(self, now_s: float) -> Sequence[str]:
        """Move everything on to `now_s` by its shares; what is done by then is gone, its names are returned. Time does not
        run back."""
        if now_s <= self._now_s:
            return ()
        self._considered.clear()
        self._now_s, self._queues = now_s, None
        done = list(self._flow.run(now_s))
        self._forget(done)
        return done

    def next_s(self) -> float:
        """When the next transfer is done if no other comes, as far as the last call's time; infinite if none will be."""
        return self._flow.next_s

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
            for name, transfer in self._transfers.items():
                if transfer.queue is not None:
                    self._queues.setdefault(transfer.queue, []).append(self._as_it_is(name))
        return self._queues

    def queue(self, name: str, now_s: float) -> Sequence[Transfer]:
        """What stands in that queue."""
        self.advance(now_s)
        if self._queues is not None:
            return self._queues.get(name, ())
        return self._all_of(self._users.get(_queue(name), ()))

    def rate(self, link: str) -> float | None:
        """Bytes per second of one link; None if it has no limit."""
        return self._rates.get(link)

    def _known(self, now_s: float) -> Mapping[str, float]:
        """The forecast, found anew for those whose shares are others than when it was made."""
        self.advance(now_s)
        if self._unsure:
            self._forecast |= finish_times(self._rates, self._all_of(self._unsure), self._now_s)
            self._unsure.clear()
            self._ends = None
        return self._forecast

    def consider(self, new: Sequence[Transfer], now_s: float) -> Verdict:
        """What would come of starting `new` now. Whoever is late already without it is not its fault."""
        self.advance(now_s)
        self._check_names(new)
        touched = self._touched(new)
        present = self._all_of(touched)
        before = self._known(now_s) if present else {}
        after = finish_times(self._rates, [*present, *new], now_s)
        self._considered.append((new, after))
        late = [
            transfer.name
            for transfer in (*present, *new)
            if transfer.deadline_s is not None
            and after[transfer.name] > transfer.deadline_s
            and before.get(transfer.name, now_s) <= transfer.deadline_s
        ]
        return Verdict(after, tuple(late))

    def begin(self, new: Sequence[Transfer], now_s: float) -> None:
        """They are under way from now on, admitted or not. ValueError if one of that name already is."""
        self.advance(now_s)
        self._check_names(new)
        foreseen = next((after for considered, after in self._considered if _same(considered, new)), None)
        touched = self._touched(new)
        if foreseen is None:
            self._unsure |= touched
            self._unsure.update([transfer.name for transfer in new])
        else:
            self._forecast |= foreseen
            self._unsure.difference_update(foreseen)
        again = self._all_of(touched)
        self._flow.drop(again)
        self._flow.add([*again, *new])
        self._transfers |= {transfer.name: transfer for transfer in (*again, *new)}
        self._number_of |= {transfer.name: next(self._numbers) for transfer in new}
        self._note_users(new)
        self._considered.clear()
        self._queues = self._ends = None

    def end(self, name: str, now_s: float) -> None:
        """It is over, however it ended; what is not known is over already."""
        self.advance(now_s)
        if name in self._transfers:
            self._end([self._transfers[name]])

    def end_start(self, start: str, now_s: float, *, later_too: bool) -> None:
        """The first token of `start` is out: what it waited for is over, and with `later_too`, since its group has ended or
        came to nothing, also what was to come behind."""
        self.advance(now_s)
        prefix = f"{start}/"
        of_start = [t for name, t in self._transfers.items() if name.startswith(prefix) or name == start]
        self._end([transfer for transfer in of_start if later_too or transfer.priority < LATER])

    def hurry(self, start: str, now_s: float) -> None:
        """What is under way for `start` comes before others from now on, as if somebody had waited for it all along."""
        self.advance(now_s)
        prefix = f"{start}/"
        of_start = self._all_of([name for name in self._transfers if name.startswith(prefix)])
        self._end([self._transfers[transfer.name] for transfer in of_start])
        self.begin([transfer._replace(priority=0) for transfer in of_start], now_s)

    def _end(self, over: Sequence[Transfer]) -> None:
        if over:
            touched, names = self._touched(over), [transfer.name for transfer in over]
            self._unsure |= touched
            self._flow.drop(over)
            again = self._all_of(touched.difference(names))
            self._flow.drop(again)
            self._flow.add(again)
            self._transfers |= {transfer.name: transfer for transfer in again}
            self._forget(names)
            self._considered.clear()
            self._queues = self._ends = None

    def _as_it_is(self, name: str) -> Transfer:
        """With what is to go of it now."""
        transfer, left_bytes = self._transfers[name], self._flow.left_bytes(name)
        if left_bytes is None or left_bytes == transfer.remaining_bytes:
            return transfer
        return transfer.with_remaining(left_bytes)

    def _all_of(self, names: Collection[str]) -> list[Transfer]:
        """Those of these names, in the order in which they began."""
        ordered = sorted(names, key=self._number_of.__getitem__) if len(names) > 1 else names
        return [self._as_it_is(name) for name in ordered]

    def _check_names(self, new: Sequence[Transfer]) -> None:
        names = {transfer.name for transfer in new}
        if len(names) < len(new) or not names.isdisjoint(self._transfers):
            raise ValueError("a transfer of that name is under way")

    def _begin_anew(self) -> None:
        """Shares are others from now on."""
        self._transfers = {transfer.name: transfer for transfer in self.transfers}
        self._flow = Flow(self._rates, self._transfers.values(), self._now_s)
        self._users, self._ways_of = {}, {}
        self._considered.clear()
        self._note_users(self._transfers.values())
        self._unsure = set(self._transfers)

    def _note_users(self, transfers: Iterable[Transfer]) -> None:
        for transfer in transfers:
            ways = self._ways_of[transfer.name] = self._ways(transfer)
            for way in ways:
                self._users.setdefault(way, set()).add(transfer.name)

    def _forget(self, names: Iterable[str]) -> None:
        """They are done or over."""
        for name in names:
            del self._transfers[name], self._number_of[name]
            for way in self._ways_of.pop(name):
                users = self._users[way]
                users.discard(name)
                if not users:
                    del self._users[way]
            self._forecast.pop(name, None)
            self._unsure.discard(name)

    def _ways(self, transfer: Transfer) -> list[str]:
        """What others may hold the transfer up by: links of a known rate, and its queue."""
        ways = [link for link in transfer.links if link in self._rates]
        if transfer.queue is not None:
            ways.append(_queue(transfer.queue))
        return ways

    def _touched(self, new: Sequence[Transfer]) -> set[str]:
        """Those under way whose shares `new` may change, by however many others in between."""
        todo, found = {way for transfer in new for way in self._ways(transfer)}, set[str]()
        seen = set(todo)
        while todo:
            for name in self._users.get(todo.pop(), ()):
                if name not in found:
                    found.add(name)
                    for way in self._ways_of[name]:
                        if way not in seen:
                            seen.add(way)
                            todo.add(way)
        return found


def _queue(name: str) -> str:
    return f"queue {name}"


def _same(some: Sequence[Transfer], others: Sequence[Transfer]) -> bool:
    """Whether they are the same but for their deadlines."""
    if len(some) != len(others):
        return False
    for one, other in zip(some, others, strict=True):
        if one is not other and one.until(other.deadline_s) != other:
            return False
    return True
